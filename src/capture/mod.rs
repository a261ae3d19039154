//! Capture: where the bytes of a backup come from.

pub mod helper;
pub mod source;
pub mod transfer;
pub mod watch;
