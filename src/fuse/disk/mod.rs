//! A mount of whole disks: a flat directory with a file for each, for one who hands them on to the kernel as block devices.
//!
//! # Invariants
//! - The set of files, their names and sizes are fixed when it is mounted.
//! - Only who mounts may enter; nothing in it can be run, and it has no devices.
//! - A disk that cannot be read or written is an error of that request alone. It is counted, and logged a bounded number of times.
//!
//! # Why
//! A connection of its own beside the tree's: opens are sent here, there are no names to look up later, and it lives as long as its
//! devices.

mod adapter;
mod failure;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use adapter::DiskAdapter;
use failure::Failures;

use super::ending;
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Extended attribute of a file: bytes that its scratch space takes.
pub const SCRATCH_BYTES: &str = "user.restorefs.scratch_bytes";
/// Extended attribute of a file: how many requests have failed.
pub const FAILED_REQUESTS: &str = "user.restorefs.failed_requests";
/// Extended attribute of a file: why the last one did.
pub const LAST_ERROR: &str = "user.restorefs.last_error";

/// Threads beyond one for each processor: one that waits for the repository's disk does not serve others.
const SPARE_THREADS: usize = 6;

/// What a file is.
#[derive(Clone)]
pub enum Content {
    /// It is read only.
    Fixed(Arc<dyn ReadAt>),
    /// It is written as well; what is written takes space in that file.
    Scratch(Arc<dyn WriteAt>, Arc<File>),
}

impl Content {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Fixed(disk) => disk.size_bytes(),
            Self::Scratch(disk, _) => disk.size_bytes(),
        }
    }
}

/// A file of the mount.
struct DiskFile {
    name: String,
    content: Content,
    failures: Failures,
}

/// A mount that is served by threads of this process.
#[derive(Debug)]
pub struct DiskMount {
    session: BackgroundSession,
    mountpoint: PathBuf,
}

/// Mounts files of these names, which must be plain and differ from each other.
///
/// # Errors
/// `PermissionDenied`; `NotFound` without the kernel's FUSE; `Io`.
pub fn mount(files: Vec<(String, Content)>, mountpoint: &Path) -> Result<DiskMount> {
    let is_writable = files
        .iter()
        .any(|(_, content)| matches!(content, Content::Scratch(..)));
    let files: Vec<DiskFile> = files
        .into_iter()
        .map(|(name, content)| DiskFile {
            failures: Failures::new(&name),
            name,
            content,
        })
        .collect();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("restorefs".to_owned()),
        MountOption::CUSTOM("subtype=restorefs-map".to_owned()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        if is_writable {
            MountOption::RW
        } else {
            MountOption::RO
        },
    ];
    config.acl = SessionACL::Owner;
    let threads = std::thread::available_parallelism().map_or(2, usize::from) + SPARE_THREADS;
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let failed = |e: std::io::Error| {
        let error = Error::io("cannot mount", e).at_path(mountpoint);
        match error.kind() {
            ErrorKind::NotFound => error.advise("is the kernel module loaded? modprobe fuse"),
            _ => error,
        }
    };
    let session = Session::new(DiskAdapter::new(files), mountpoint, &config).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    Ok(DiskMount {
        session,
        mountpoint: mountpoint.to_owned(),
    })
}

impl DiskMount {
    /// Returns when it has been unmounted, by whomever, and all threads have ended.
    ///
    /// # Errors
    /// `Io` when the session ended with an error.
    pub fn wait(self) -> Result<()> {
        ending::join(self.session)
            .or_io("the mount has failed")
            .at_path(&self.mountpoint)
    }
}
