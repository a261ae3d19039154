//! Capture: reads the source of a backup: files, NBD exports, and machines that run.

mod backing;
pub mod guard;
pub mod helper;
pub mod machine;
pub mod monitor;
pub mod qemu;
pub mod reopen;
pub mod source;
pub mod transfer;
pub mod watch;
