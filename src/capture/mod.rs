//! Capture: reads the source of a backup.

mod backing;
pub mod helper;
pub mod source;
pub mod transfer;
pub mod watch;
