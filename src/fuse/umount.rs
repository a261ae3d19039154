//! Unmounting, and mounts whose process has ended.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;

use super::mountinfo::{self, TYPE};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: how often a busy mount is tried again, and how long is waited between: half a second in all.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

const BUSY_ADVICE: &str = "close what uses it (fuser -vm DIR), or unmount lazily";

/// LIMIT: how long a mount that is there already may take to say that it lives.
const ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// How what is mounted at a place answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It answers, or there is nothing.
    Alive,
    /// Its process has ended.
    Dead,
    /// Nothing is heard of it: a thread of its process could not end, or it is slow, or the server of a network filesystem is away.
    Silent,
}

/// Asks what is mounted there. statfs always asks the other end, while attributes may still be cached.
pub(super) fn pulse(mountpoint: &Path) -> Pulse {
    let (answered, answer) = std::sync::mpsc::channel();
    let path = mountpoint.to_owned();
    let ask = move || {
        let dead = rustix::fs::statfs(&path).is_err_and(|e| e == rustix::io::Errno::NOTCONN);
        // Nobody listens any more when it took too long.
        let _ = answered.send(dead);
    };
    if std::thread::Builder::new().spawn(ask).is_err() {
        return Pulse::Alive;
    }
    match answer.recv_timeout(ANSWER_PATIENCE) {
        Ok(false) => Pulse::Alive,
        Ok(true) => Pulse::Dead,
        Err(_) => Pulse::Silent,
    }
}

/// Takes away a dead mount: whoever waits for an answer of its process is told that there is none.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub(super) fn clear(mountpoint: &Path) -> Result<()> {
    tracing::warn!(
        mountpoint = %mountpoint.display(),
        "a mount is there whose process has ended, or does not answer; it is unmounted"
    );
    let forced = rustix::mount::unmount(mountpoint, UnmountFlags::FORCE | UnmountFlags::DETACH);
    forced.or_else(|_| detach(mountpoint))
}

/// Takes a mount away at once; who still uses it keeps it until done.
pub(super) fn detach(mountpoint: &Path) -> Result<()> {
    unmount_by(
        mountpoint,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        &["-u", "-z", "--"],
    )
}

/// Unmounts what is mounted at a path, with `lazy` also while somebody uses it.
///
/// # Errors
/// `InvalidInput` when no repository is mounted there; `Busy`; `PermissionDenied`; `Io`.
pub fn umount(mountpoint: &Path, lazy: bool) -> Result<()> {
    // A dead mount cannot be resolved; then the path is taken as it is.
    let resolved = std::fs::canonicalize(mountpoint).or_else(|_| std::path::absolute(mountpoint));
    let resolved = resolved
        .or_io("cannot use the mountpoint")
        .at_path(mountpoint)?;
    match mountinfo::at(&resolved)?.last() {
        Some(mount) if mount.kind == TYPE => {}
        _ => return Err(Error::invalid("no repository is mounted there").at_path(mountpoint)),
    }
    if lazy {
        return detach(&resolved);
    }
    let mut tries = 0;
    loop {
        match unmount_by(&resolved, UnmountFlags::NOFOLLOW, &["-u", "--"]) {
            // The kernel lets go of a file a moment after its last user has closed it.
            Err(e) if e.kind() == ErrorKind::Busy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Takes away a repository's mount that does not answer, by force: whoever waits for it is told that nobody is there. `false` when it
/// answers, or none is there. For those who know that its process has been ended.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub fn umount_silent(mountpoint: &Path) -> Result<bool> {
    if pulse(mountpoint) == Pulse::Alive {
        return Ok(false);
    }
    // The path is walked without asking what is mounted at its end.
    let resolved = std::fs::canonicalize(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    match mountinfo::at(&resolved)?.last() {
        Some(mount) if mount.kind == TYPE => clear(&resolved).map(|()| true),
        _ => Ok(false),
    }
}

/// Unmounts what dead processes have left of a repository's mounts, wherever they are, and answers where they were.
///
/// # Errors
/// `Io` when the mounts cannot be listed; what cannot be unmounted is said in the log.
pub fn umount_dead(repository: &Path) -> Result<Vec<PathBuf>> {
    let mut cleared = Vec::new();
    for entry in mountinfo::all()? {
        if entry.kind != TYPE || entry.source != repository {
            continue;
        }
        if pulse(&entry.mountpoint) != Pulse::Dead {
            continue;
        }
        match clear(&entry.mountpoint) {
            Ok(()) => cleared.push(entry.mountpoint),
            Err(error) => tracing::error!(error = %error.report(), "a dead mount is left"),
        }
    }
    Ok(cleared)
}

fn unmount_by(mountpoint: &Path, flags: UnmountFlags, helper: &[&str]) -> Result<()> {
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => return Ok(()),
        // Not root: the setuid helper knows who mounted.
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
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let (kind, advice) = if said.contains("busy") {
        (ErrorKind::Busy, BUSY_ADVICE)
    } else {
        let advice = "who has mounted it can, and root";
        (ErrorKind::PermissionDenied, advice)
    };
    let error = Error::new(kind, format!("cannot unmount: {said}"));
    Err(error.at_path(mountpoint).advise(advice))
}
