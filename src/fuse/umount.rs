//! Unmounting, and mounts whose process has ended.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::held::{Held, Pulse};
use super::mountinfo::{self, TYPE, trusted};
use super::removal::{detach, unmount};
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: attempts for a busy mount; with the pauses between them, half a second in all.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Unmounts the mount at a path; with `lazy` even while it is in use.
///
/// # Errors
/// `InvalidInput` when no repository is mounted there; `Busy`; `PermissionDenied`; `Io`.
pub fn umount(mountpoint: &Path, lazy: bool) -> Result<()> {
    // The descriptor is held only for the check: a held mount is busy.
    let entry = match Held::at(mountpoint, &trusted(None))? {
        Some(held) if held.entry.kind == TYPE => held.entry,
        _ => return Err(Error::invalid("no repository is mounted there").at_path(mountpoint)),
    };
    if lazy {
        return detach(&entry);
    }
    let mut tries = 0;
    loop {
        match unmount(&entry, UnmountFlags::empty(), &["-u", "--"]) {
            // The kernel releases a file a moment after its last user has closed it.
            Err(e) if e.kind() == ErrorKind::Busy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Removes a repository's mount that does not answer, by force: processes that wait for it receive an error.
/// `false` when it answers, when there is none, or when it belongs to another user than root, `owner` (the
/// repository's) and this user: such a mount receives no request. For callers that know that its process has
/// ended.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub fn umount_silent(mountpoint: &Path, owner: Option<u32>) -> Result<bool> {
    let held = match Held::at(mountpoint, &trusted(owner)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        // The path leads through another user's mount or directory: nothing at its end can be restorefs's.
        Err(e) if matches!(e.kind(), ErrorKind::Busy | ErrorKind::PermissionDenied) => {
            tracing::warn!(error = %e.report(), "a mountpoint cannot be reached, and is left alone");
            return Ok(false);
        }
        other => other?,
    };
    match held {
        Some(held) if held.is_ours(&trusted(owner)) && held.pulse() != Pulse::Alive => {
            held.clear().map(|_| true)
        }
        _ => Ok(false),
    }
}

/// Whether root, the repository's `owner` or this user mounted a repository at a path. It sends no request to
/// the mount.
#[must_use]
pub fn is_ours(mountpoint: &Path, owner: Option<u32>) -> bool {
    let held = Held::at(mountpoint, &trusted(owner)).ok().flatten();
    held.is_some_and(|held| held.is_ours(&trusted(owner)))
}

/// Unmounts dead mounts of a repository, wherever they are, and returns their mountpoints. Mounts of other
/// users than root, the repository's `owner` and this user stay, whatever their type and source.
///
/// # Errors
/// `Io` when the mounts cannot be listed; a mount that cannot be unmounted is logged.
pub fn umount_dead(repository: &Path, owner: Option<u32>) -> Result<Vec<PathBuf>> {
    let users = trusted(owner);
    let mut cleared = Vec::new();
    for entry in mountinfo::all()? {
        let is_ours = entry.kind == TYPE && entry.source == repository && entry.is_trusted(&users);
        if !is_ours {
            continue;
        }
        let taken = Held::of(entry, &users).and_then(|held| match held {
            Some(held) if held.pulse() == Pulse::Dead => held.clear().map(Some),
            _ => Ok(None),
        });
        match taken {
            Ok(mountpoint) => cleared.extend(mountpoint),
            Err(error) => tracing::error!(error = %error.report(), "a dead mount is left"),
        }
    }
    Ok(cleared)
}
