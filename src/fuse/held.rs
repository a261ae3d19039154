//! A mount that is held by a descriptor while it is judged and taken away, so that nobody puts another one in its place meanwhile.
//!
//! # Invariants
//! - Opening asks what is mounted there nothing: O_PATH sends no request to a FUSE process, whatever it is.
//! - Which mount the descriptor shows is read from `/proc/self/fdinfo` (`mnt_id`, proc(5)), and is compared with the table of mounts.
//! - A mount is believed to be ours by *who has mounted it* (`user_id=`, which the kernel writes), never by its type and source alone:
//!   anybody can have `fusermount3` write these.
//! - No process of root asks a mount of an ordinary user anything: its answer may never come, and nothing ends the wait.
//!
//! # Why
//! An ordinary user may mount under any name with `fusermount3`, and swap a directory above for a symlink between a look and an unmount
//! by path.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::held_path::HeldPath;
use super::mountinfo::{self, MountEntry, TYPE};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: how long a mount of ours may take to say that it lives.
const ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Connections of FUSE mounts, by the minor number of their device (`Documentation/filesystems/fuse.rst`).
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// How what is mounted at a place answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It answers.
    Alive,
    /// Its process has ended.
    Dead,
    /// Nothing is heard of it: its process is stopped, a thread of it could not end, or the server of a network filesystem is away.
    Silent,
}

/// A mount, held.
pub(super) struct Held {
    descriptor: OwnedFd,
    pub(super) entry: MountEntry,
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())
        .map_err(|e| Error::io("cannot use the mountpoint", e.into()).at_path(path))
}

/// The mount that a descriptor is in.
pub(super) fn mount_id(descriptor: &OwnedFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = std::fs::read_to_string(path).or_io("cannot tell the mount of a descriptor")?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| Error::unsupported("the kernel does not tell the mount of a descriptor"))
}

impl Held {
    /// Holds what is mounted at a path, as [`HeldPath::walk`] follows it through mounts of `users`; `None` when nothing is mounted there.
    ///
    /// # Errors
    /// As [`HeldPath::walk`].
    pub(super) fn at(path: &Path, users: &[u32]) -> Result<Option<Self>> {
        let descriptor = HeldPath::walk(path, users)?.into_place()?;
        let shown = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
            .or_io("cannot tell the path of a descriptor")?;
        let id = mount_id(&descriptor)?;
        let mut entries = mountinfo::all()?.into_iter();
        let entry = entries.find(|entry| entry.id == id && entry.mountpoint == shown);
        Ok(entry.map(|entry| Self { descriptor, entry }))
    }

    /// Holds the mount that a path lies in.
    ///
    /// # Errors
    /// As [`Held::at`].
    pub(super) fn around(path: &Path, users: &[u32]) -> Result<Option<Self>> {
        let descriptor = HeldPath::walk(path, users)?.into_place()?;
        let id = mount_id(&descriptor)?;
        let mut entries = mountinfo::all()?.into_iter();
        let entry = entries.find(|entry| entry.id == id);
        Ok(entry.map(|entry| Self { descriptor, entry }))
    }

    /// Holds a mount of the table; `None` when its path shows another one now, or cannot be walked without asking others.
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
            Ok(descriptor) if mount_id(&descriptor)? == entry.id => {
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

    /// Asks whether it lives. statfs always asks the other end, while attributes may still be cached.
    pub(super) fn pulse(&self) -> Pulse {
        let Ok(descriptor) = self.descriptor.try_clone() else {
            return Pulse::Alive;
        };
        let (answered, answer) = sync_channel(1);
        let ask = move || {
            let dead =
                rustix::fs::fstatfs(&descriptor).is_err_and(|e| e == rustix::io::Errno::NOTCONN);
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

    /// Takes it away, also from under its users: whoever waits for an answer of its process is told that there is none.
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
            // Not root: the setuid helper knows who mounted, and unmounts by path.
            Err(rustix::io::Errno::PERM) => {
                super::umount::detach(&self.entry)?;
                Ok(self.entry.mountpoint)
            }
            Err(e) => Err(Error::io("cannot unmount", e.into()).at_path(&self.entry.mountpoint)),
        }
    }

    /// Ends the connection, so that all who wait for it are woken. Where the control filesystem is not there, unmounting by force does
    /// that.
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
