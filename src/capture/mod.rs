//! Capture: reads the source of a backup: files, NBD exports, and machines that run.

mod backing;
mod directory;
pub mod guard;
pub mod helper;
pub mod libvirt;
pub mod machine;
pub mod monitor;
mod names;
pub mod qemu;
pub mod reopen;
mod room;
pub mod source;
pub mod transfer;
pub mod virsh;
pub mod watch;
