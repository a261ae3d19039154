//! Capture: where the bytes of a backup come from.

mod backing;
pub mod helper;
pub mod source;
pub mod transfer;
pub mod watch;
