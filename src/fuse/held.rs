//! A mount held by a descriptor while it is examined and removed, so that no process can put another one in
//! its place meanwhile.
//!
//! # Invariants
//! - Opening sends no request to the mounted filesystem: O_PATH makes no FUSE request, whatever is mounted.
//! - `/proc/self/fdinfo` (`mnt_id`, proc(5)) tells which mount the descriptor is in, and the id is compared
//!   with the table of mounts.
//! - A mount is accepted as restorefs's own by *the user who mounted it* (`user_id=`, which the kernel
//!   writes), never by type and source alone: any user can have `fusermount3` write these.
//! - A root process sends no request to a mount of an ordinary user: the answer may never come, and nothing
//!   ends the wait.
//!
//! # Why
//! An ordinary user may mount under any name with `fusermount3`, and may replace a directory above with a
//! symlink between a check and an unmount by path.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::held_path::HeldPath;
use super::mountinfo::{self, MountEntry, TYPE};
use super::removal::detach;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: time for one of restorefs's mounts to answer.
const ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Connections of FUSE mounts, by the minor number of their device (`Documentation/filesystems/fuse.rst`).
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Whether the mounted filesystem answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It answers requests.
    Alive,
    /// Its process has ended.
    Dead,
    /// It does not answer: its process is stopped, one of its threads could not end, or the server of a
    /// network filesystem is away.
    Silent,
}

/// A held mount.
pub(super) struct Held {
    descriptor: OwnedFd,
    pub(super) entry: MountEntry,
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())
        .map_err(|e| Error::io("cannot use the mountpoint", e.into()).at_path(path))
}

impl Held {
    /// Holds the mount at a path. [`HeldPath::walk`] follows the path through mounts of `users`. `None` when
    /// nothing is mounted there.
    ///
    /// # Errors
    /// As [`HeldPath::walk`].
    pub(super) fn at(path: &Path, users: &[u32]) -> Result<Option<Self>> {
        let descriptor = HeldPath::walk(path, users)?.into_place()?;
        let shown = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
            .or_io("cannot read the path of a descriptor")?;
        let id = mountinfo::mount_id(&descriptor)?;
        let mut entries = mountinfo::all()?.into_iter();
        let entry = entries.find(|entry| entry.id == id && entry.mountpoint == shown);
        Ok(entry.map(|entry| Self { descriptor, entry }))
    }

    /// Holds the mount that contains a path.
    ///
    /// # Errors
    /// As [`Held::at`].
    pub(super) fn around(path: &Path, users: &[u32]) -> Result<Option<Self>> {
        let descriptor = HeldPath::walk(path, users)?.into_place()?;
        let id = mountinfo::mount_id(&descriptor)?;
        let mut entries = mountinfo::all()?.into_iter();
        let entry = entries.find(|entry| entry.id == id);
        Ok(entry.map(|entry| Self { descriptor, entry }))
    }

    /// Holds a mount of the table; `None` when its path leads to another mount now, or cannot be walked
    /// without requests to others' mounts.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn of(entry: MountEntry, trusted: &[u32]) -> Result<Option<Self>> {
        let is_above = |other: &MountEntry| {
            other.mountpoint != entry.mountpoint && entry.mountpoint.starts_with(&other.mountpoint)
        };
        let mut all = mountinfo::all()?.into_iter();
        if all.any(|other| is_above(&other) && !other.is_trusted(trusted)) {
            tracing::warn!(mountpoint = %entry.mountpoint.display(), "a mount lies below one of another user and is left alone");
            return Ok(None);
        }
        match open(&entry.mountpoint, OFlags::NOFOLLOW) {
            Ok(descriptor) if mountinfo::mount_id(&descriptor)? == entry.id => {
                Ok(Some(Self { descriptor, entry }))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether it is a mount of a repository by one of these users.
    pub(super) fn is_ours(&self, trusted: &[u32]) -> bool {
        self.entry.kind == TYPE && self.entry.is_trusted(trusted)
    }

    /// Checks whether it answers. statfs always sends a request, while attributes may be cached.
    pub(super) fn pulse(&self) -> Pulse {
        let Ok(descriptor) = self.descriptor.try_clone() else {
            return Pulse::Alive;
        };
        let (answered, answer) = sync_channel(1);
        let ask = move || {
            let dead =
                rustix::fs::fstatfs(&descriptor).is_err_and(|e| e == rustix::io::Errno::NOTCONN);
            // The receiver is gone when this took too long.
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

    /// Removes the mount even while it is in use. Processes that wait for an answer of its process receive an
    /// error.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    pub(super) fn clear(self) -> Result<PathBuf> {
        tracing::warn!(
            mountpoint = %self.entry.mountpoint.display(),
            "a mount is there whose process has ended, or does not answer; it is unmounted"
        );
        self.abort();
        let place = format!("/proc/self/fd/{}", self.descriptor.as_raw_fd());
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        match rustix::mount::unmount(place, flags) {
            Ok(()) => Ok(self.entry.mountpoint),
            // This process is not root: the setuid helper knows which user mounted, and unmounts by path.
            Err(rustix::io::Errno::PERM) => {
                detach(&self.entry)?;
                Ok(self.entry.mountpoint)
            }
            Err(e) => Err(Error::io("cannot unmount", e.into()).at_path(&self.entry.mountpoint)),
        }
    }

    /// Aborts the connection, so that all waiting processes wake. Where the control filesystem is missing, a
    /// forced unmount does that.
    fn abort(&self) {
        let Some((_, minor)) = self.entry.device.split_once(':') else {
            return;
        };
        let path = Path::new(CONNECTIONS).join(minor).join("abort");
        let written = std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"1"));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "a connection is not ended by itself");
        }
    }
}
