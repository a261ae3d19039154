//! Removing one mount of the table, found again by its id.

use std::process::Command;

use rustix::mount::UnmountFlags;

use super::held_path::HeldPath;
use super::mountinfo::{MountEntry, trusted};
use crate::error::{Error, ErrorKind, Result, ResultExt};

const BUSY_ADVICE: &str = "close what uses it (fuser -vm DIR), or unmount lazily";

/// Removes a mount from the tree at once; its present users keep it until they are done.
pub(super) fn detach(entry: &MountEntry) -> Result<()> {
    unmount(entry, UnmountFlags::DETACH, &["-u", "-z", "--"])
}

/// Unmounts this mount, and never one that has replaced it meanwhile. Without root, the setuid helper does
/// so with the arguments `helper`.
///
/// # Errors
/// `InvalidInput` when it is not mounted there any more; `Busy`; `PermissionDenied`; `Io`.
pub(super) fn unmount(entry: &MountEntry, flags: UnmountFlags, helper: &[&str]) -> Result<()> {
    let mountpoint = &entry.mountpoint;
    match HeldPath::walk(mountpoint, &trusted(None))?.unmount(entry.id, flags) {
        Ok(true) => return Ok(()),
        Ok(false) => {
            let what = "it is not mounted there any more";
            return Err(Error::invalid(what).at_path(mountpoint));
        }
        // This process is not root: the setuid helper knows which user mounted.
        Err(rustix::io::Errno::PERM) => {}
        Err(e) => {
            let error = Error::io("cannot unmount", e.into()).at_path(mountpoint);
            return Err(if error.kind() == ErrorKind::Busy {
                error.advise(BUSY_ADVICE)
            } else {
                error
            });
        }
    }
    let output = Command::new("fusermount3")
        .args(helper)
        .arg(mountpoint)
        .output()
        .or_io("cannot run fusermount3")
        .at_path(mountpoint)?;
    if output.status.success() {
        return Ok(());
    }
    let report = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let is_own = entry.user == Some(rustix::process::geteuid().as_raw());
    // The helper refuses a user's own mount only while it is in use.
    let (kind, advice) = if is_own && !flags.contains(UnmountFlags::DETACH) {
        (ErrorKind::Busy, BUSY_ADVICE)
    } else {
        let advice = "only root and the user who mounted it can unmount it";
        (ErrorKind::PermissionDenied, advice)
    };
    let error = Error::new(kind, format!("cannot unmount: {report}"));
    Err(error.at_path(mountpoint).advise(advice))
}
