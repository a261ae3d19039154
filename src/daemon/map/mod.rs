//! Disks of restore points as block devices of this machine: for each map a process that serves them, until it is unmapped.
//!
//! ```text
//! /run/restorefs/map/            0700 root; `lock` is held while something below is made, looked at or removed
//!   <id>/lock                    locked by the map's process as long as it lives
//!   <id>/map.json                what it is (see `record`)
//!   <id>/log                     what the process says
//!   <id>/disk/vda.raw            its mount; /dev/loopN shows this file
//! ```
//!
//! # Invariants
//! - A device belongs to a map when sysfs says that its file lies in that map's mount; nothing else is ever detached.
//! - A device that a living process serves is never cleaned away as a leftover; a map has its lock before others may look.
//! - A device that somebody uses is not detached, by no way. Scratch files have no name: they end with the process.
//! - A process that serves a mount touches no device: `hand` does, for it.
//!
//! # Concurrency
//! The process that unmaps detaches the devices and unmounts; the process sees its mount end, removes its directory and ends. Two who
//! unmap the
//! same do it once: each step may find that it was done.

pub mod device_helper;
mod place;
mod process;
mod record;
mod release;
pub mod rule;
mod survey;

pub use place::{MapDir, MapId};
pub use process::{Order, run};
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
/// `PermissionDenied`, with what else can be done.
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
