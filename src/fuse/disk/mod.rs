//! A mount of whole disks: a flat directory with one file for each, for a caller that passes them to the
//! kernel as block devices.
//!
//! # Invariants
//! - The set of files, their names and sizes are fixed at mount time.
//! - Only the mounting user may enter; the mount is `noexec` and `nodev`.
//! - A failed read or write of a disk fails only that request. Failures are counted, and logged a limited
//!   number of times.
//!
//! # Why
//! The disks have their own connection beside the tree's: this one handles opens, has no names to look up
//! later, and lives as long as its devices.

mod adapter;
mod failure;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use adapter::DiskAdapter;
use failure::Failures;

use super::ending;
use super::passthrough::Opens;
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Extended attribute of a file: bytes of its scratch space.
pub const SCRATCH_BYTES: &str = "user.restorefs.scratch_bytes";
/// Extended attribute of a file: number of failed requests.
pub const FAILED_REQUESTS: &str = "user.restorefs.failed_requests";
/// Extended attribute of a file: reason of the last failure.
pub const LAST_ERROR: &str = "user.restorefs.last_error";

/// Threads beyond one for each processor, because a thread that waits for the repository's disk serves no
/// other request.
const SPARE_THREADS: usize = 6;

/// Content of a file.
#[derive(Clone)]
pub enum Content {
    /// Read-only; the kernel reads the second file, which has the same bytes, where it takes it for passthrough.
    Fixed(Arc<dyn ReadAt>, Option<Arc<File>>),
    /// Writable; the writes take space in that file.
    Scratch(Arc<dyn WriteAt>, Arc<File>),
}

impl Content {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Fixed(disk, _) => disk.size_bytes(),
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

impl DiskFile {
    /// Another descriptor of the file for passthrough.
    fn flat(&self) -> Option<File> {
        let Content::Fixed(_, Some(flat)) = &self.content else {
            return None;
        };
        flat.try_clone()
            .inspect_err(|error| tracing::warn!(disk = %self.name, %error, "the disk is read without passthrough"))
            .ok()
    }
}

/// A mount that threads of this process serve.
pub struct DiskMount {
    session: BackgroundSession,
    opens: Arc<Opens>,
    mountpoint: PathBuf,
}

/// Mounts files with these names, which must be plain and unique.
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
    let opens = Arc::new(Opens::default());
    let adapter = DiskAdapter::new(files, Arc::clone(&opens));
    let session = Session::new(adapter, mountpoint, &config).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    Ok(DiskMount {
        session,
        opens,
        mountpoint: mountpoint.to_owned(),
    })
}

impl DiskMount {
    /// Whether the kernel reads all files that are open from their other files.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        self.opens.is_passthrough()
    }

    /// Why the kernel takes no other files.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.opens.refusal()
    }

    /// Returns when the mount has been unmounted by any process and all threads have ended.
    ///
    /// # Errors
    /// `Io` when the session ended with an error.
    pub fn wait(self) -> Result<()> {
        ending::join(self.session)
            .or_io("the mount has failed")
            .at_path(&self.mountpoint)
    }
}
