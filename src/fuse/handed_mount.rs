//! A mount that another process serves. This process makes it in the namespace where it must be visible, and
//! hands it over as a descriptor.
//!
//! # Why
//! A sandboxed daemon cannot mount anything that others see. It needs no rights to serve a mount that another
//! process made for it.

use std::ffi::CString;
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::held_path::HeldPath;
use super::label;
use super::mountinfo::{self, MountEntry, TYPE};
use super::mountpoint::{Subject, prepare};
use super::options::MountOptions;
use super::readahead::widen_readahead;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Path of the device, also for messages.
pub(super) const DEVICE: &str = "/dev/fuse";
/// Its number (`Documentation/admin-guide/devices.txt`).
const DEVICE_NUMBER: (u32, u32) = (10, 229);

/// A mount whose requests no process answers yet. Dropping it without [`HandedMount::served`] unmounts it.
#[derive(Debug)]
pub struct HandedMount {
    descriptor: OwnedFd,
    mountpoint: PathBuf,
    entry: MountEntry,
    /// The path to it, while it may have to be unmounted again.
    way: Option<HeldPath>,
}

impl HandedMount {
    /// Mounts the tree of `repository` for another process to serve. Needs root.
    ///
    /// # Errors
    /// As the checks of the mountpoint; `PermissionDenied`; `Io`.
    pub fn mount(repository: &Path, mountpoint: &Path, options: &MountOptions) -> Result<Self> {
        let subject = Subject {
            repository: Some(repository),
            is_owner: false,
            options,
            is_by_path: false,
        };
        let read_only = options.read_only == Some(true);
        let made = Self::make(&subject, repository, mountpoint, read_only);
        made.map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied => e.advise("only root can mount for a daemon"),
            _ => e,
        })
    }

    /// Mounts a subject; `source` is its name in the table of mounts.
    pub(super) fn make(
        subject: &Subject<'_>,
        source: &Path,
        mountpoint: &Path,
        read_only: bool,
    ) -> Result<Self> {
        let options = subject.options;
        let way = prepare(mountpoint, subject)?;
        let mountpoint = way.path();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(DEVICE, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .or_io("cannot open the device")
            .at_path(DEVICE)
            .map_err(|e| e.advise("is the kernel module loaded? modprobe fuse"))?;
        let source = source.canonicalize().unwrap_or(source.to_owned());
        let source = CString::new(source.as_os_str().as_bytes())
            .map_err(|_| Error::invalid("a zero byte in the repository's path"))?;
        let data = kernel_options(&descriptor, options)?;
        rustix::mount::mount(
            source.as_c_str(),
            way.place()?,
            TYPE,
            flags_of(options, read_only),
            data.as_c_str(),
        )
        .map_err(|e| Error::io("cannot mount", e.into()).at_path(&mountpoint))?;
        // The present path of the mount's directory, wherever it has moved.
        let entry = std::fs::read_link(way.place()?)
            .or_io("cannot read the path of a descriptor")
            .and_then(|shown| mountinfo::at(&shown))?
            .pop()
            .filter(|entry| entry.kind == TYPE)
            .ok_or_else(|| {
                Error::new(ErrorKind::Stale, "another process unmounted it at once")
                    .at_path(&mountpoint)
            })?;
        Ok(Self {
            descriptor,
            mountpoint,
            entry,
            way: Some(way),
        })
    }

    /// The resolved mountpoint.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Its device number, in the form of the table of mounts.
    pub(super) fn number(&self) -> &str {
        &self.entry.device
    }

    /// Another process serves the mount now: it stays mounted.
    pub fn served(mut self) {
        widen_readahead(&self.entry.device);
        self.way = None;
    }
}

impl AsFd for HandedMount {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for HandedMount {
    fn drop(&mut self) {
        let Some(way) = self.way.take() else {
            return;
        };
        let unmounted = way.unmount(self.entry.id, UnmountFlags::DETACH);
        if !unmounted.is_ok_and(|is_done| is_done) {
            tracing::error!(mountpoint = %self.mountpoint.display(), "a mount without a serving process is left");
        }
    }
}

fn flags_of(options: &MountOptions, read_only: bool) -> MountFlags {
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    if !options.exec {
        flags |= MountFlags::NOEXEC;
    }
    flags
}

/// Options in the kernel's form (`Documentation/filesystems/fuse.rst`).
fn kernel_options(descriptor: &OwnedFd, options: &MountOptions) -> Result<CString> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        descriptor.as_raw_fd(),
        uid.as_raw(),
        gid.as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if let Some(bytes) = options.max_read {
        // Writing to a string cannot fail.
        let _ = write!(data, ",max_read={bytes}");
    }
    for label in label::effective(&options.labels)? {
        let _ = write!(data, ",{}", label.kernel_option());
    }
    CString::new(data).map_err(|_| Error::invalid("a zero byte in the options"))
}

/// Checks that a received descriptor is of the FUSE device: reading any other could block for ever.
///
/// # Errors
/// `InvalidInput`, `Io`.
pub(super) fn check(descriptor: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(descriptor)
        .map_err(|e| Error::io("cannot stat a descriptor", e.into()))?;
    let is_device =
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    let number = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if is_device && number == DEVICE_NUMBER {
        return Ok(());
    }
    Err(Error::invalid(
        "the descriptor that was handed over is not of /dev/fuse",
    ))
}
