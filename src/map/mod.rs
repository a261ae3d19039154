//! Disks of restore points as block devices of this machine. Each map has a process that serves the
//! disks until they are unmapped.
//!
//! ```text
//! /run/restorefs/map/            0700 root; `lock` is held while an entry below is made, examined or removed
//!   <id>/lock                    locked by the map's process as long as it lives
//!   <id>/map.json                the map's record (see `record`)
//!   <id>/log                     the log of the process
//!   <id>/disk/vda.raw            its mount; /dev/loopN shows this file
//! ```
//!
//! # Invariants
//! - A device belongs to a map when sysfs reports that its file lies in that map's mount; no other
//!   device is ever detached.
//! - A device that a living process serves is never cleaned up as a leftover; a map has its lock
//!   before other processes may examine it.
//! - A device in use is never detached. Scratch files have no name: they end with the process.
//! - A process that serves a mount accesses no device: `device_helper` does so for it.
//!
//! # Concurrency
//! The process that unmaps detaches the devices and unmounts. The map's process sees its mount end,
//! removes its directory and ends. Two processes can unmap the same map at once: each step accepts
//! that it was already done.

mod detach;
pub mod device_helper;
mod order;
mod place;
mod process;
mod record;
mod release;
pub mod rule;
mod survey;

pub use order::Order;
pub use place::{MapDir, MapId};
pub use process::run;
pub use record::Record;
pub use release::release;
pub use survey::{MappedDevice, Mapping, Stale, State, survey};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::loop_device;

/// Refuses a caller that cannot map disks here.
///
/// # Errors
/// `PermissionDenied` when the caller is not root; as [`loop_device::check_driver`].
pub fn check() -> Result<()> {
    check_root()?;
    loop_device::check_driver()
}

/// Refuses a caller that is not root.
///
/// # Errors
/// `PermissionDenied`, with alternatives as advice.
pub fn check_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::PermissionDenied,
        "only root can attach block devices",
    )
    .advise(
        "without root: `restorefs mount` and disks/*.raw, or the NBD exports of `restorefs serve`",
    ))
}
