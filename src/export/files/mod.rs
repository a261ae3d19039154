//! Restores files: a subtree, with all attributes of its files, into a directory.
//!
//! # Invariants
//! - Nothing is written outside the target, whatever names and symlinks the guest has: every name is created
//!   exclusively on the handle of its directory, and no symlink is followed.
//! - The directory at the top is closed to other users until everything below it is complete. Files and
//!   directories get the guest's owners while no user of this machine with the same number can reach them,
//!   and names are created on that directory's handle.
//! - A file is either whole or missing: a file that cannot be read to its end is removed again and named.
//! - The result lists everything that was left out (hostile names, names that exist already, device nodes,
//!   setuid bits, attributes that the target's filesystem refuses), with the reason.
//!
//! # Concurrency
//! One thread walks and creates the names; several fill the files. The queue between them is bounded, and so
//! is the number of open files.

mod fill;
mod taken;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::sync_channel;

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::Xattr;
use crate::sys::Dir;
use crate::task::Monitor;
use crate::tree::{Attributes, Ino, Tree};
use crate::types::sync::Mutex;
use fill::Job;
pub(in crate::export) use taken::Taken;
pub use taken::XattrChoice;
pub(in crate::export) use walk::{DEPTH_MAX, check_name};
use walk::{Walk, Walked};

/// LIMIT: files that are created but not filled.
const QUEUE: usize = 128;
/// LIMIT: filling threads.
const THREADS_MAX: usize = 16;

/// Origin of the files: the tree, or a source of a test.
pub trait Source: Sync {
    /// Attributes of a node.
    ///
    /// # Errors
    /// Errors of the guest's reader.
    fn attributes(&self, ino: Ino) -> Result<Attributes>;
    /// Whether a directory is there only to lead to what is taken: an archive does not have it, so that extracting it changes no
    /// directory that was there before.
    fn is_frame(&self, _: Ino) -> bool {
        false
    }
    /// All names of a directory, as stored.
    ///
    /// # Errors
    /// As [`Source::attributes`].
    fn entries(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>>;
    /// Target of a symlink.
    ///
    /// # Errors
    /// As [`Source::attributes`].
    fn link_target(&self, ino: Ino) -> Result<Vec<u8>>;
    /// Extended attributes.
    ///
    /// # Errors
    /// As [`Source::attributes`].
    fn xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>>;
    /// Content of a regular file.
    ///
    /// # Errors
    /// As [`Source::attributes`].
    fn content(&self, ino: Ino) -> Result<Arc<dyn ReadAt>>;
}

impl Source for Tree {
    fn attributes(&self, ino: Ino) -> Result<Attributes> {
        Tree::attributes(self, ino).map(|found| found.attributes)
    }
    fn entries(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>> {
        let mut entries = Vec::new();
        Tree::entries(self, ino, 0, &mut |entry| {
            entries.push((entry.name.to_vec(), entry.ino));
            true
        })?;
        Ok(entries)
    }
    fn link_target(&self, ino: Ino) -> Result<Vec<u8>> {
        Tree::link_target(self, ino)
    }
    fn xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>> {
        match Tree::xattrs(self, ino) {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Arc::new([])),
            other => other,
        }
    }
    fn content(&self, ino: Ino) -> Result<Arc<dyn ReadAt>> {
        Tree::content(self, ino)
    }
}

/// Options for restoring files.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Whether to restore device nodes, setuid and setgid bits, and extended attributes other than users' and
    /// ACLs: everything that can grant privileges.
    pub special: bool,
    /// Whether to restore owners and groups; needs root.
    pub owner: bool,
    /// Filling threads; 0: two for each processor.
    pub threads: usize,
    /// The extended attributes to restore.
    pub xattrs: XattrChoice,
}

/// Why an entry in the target differs from the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The options exclude it.
    Chosen,
    /// It exists but is unreadable.
    Unreadable,
    /// The target refused it.
    Refused,
}

impl Loss {
    /// The kind of loss for an error: errors of reading are `Corrupt` here.
    fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt => Self::Unreadable,
            _ => Self::Refused,
        }
    }
}

/// An entry that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the target.
    pub path: PathBuf,
    /// Kind of loss.
    pub loss: Loss,
    /// The reason, for people.
    pub reason: String,
}

/// Contents of the restored tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Directories.
    pub directories: u64,
    /// Regular files, each counted once.
    pub files: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Device nodes, FIFOs, sockets.
    pub special: u64,
    /// Bytes written, without holes.
    pub bytes: u64,
    /// Entries that were left out, unordered; at most 10,000.
    pub skipped: Vec<Skipped>,
    /// Number of entries that were left out.
    pub skipped_count: u64,
    /// Number of those that were unreadable.
    pub unreadable_count: u64,
    /// Number of those that the target refused.
    pub refused_count: u64,
    /// Labels that the target refuses (SELinux, IMA, `trusted.*`, `btrfs.*`), with the number of files.
    pub labels: BTreeMap<String, u64>,
    /// Attributes that were not requested and are left out because they could grant privileges, with the
    /// number of files.
    pub withheld: BTreeMap<String, u64>,
}

/// Restores the node `ino` and everything below it as `name` in `target`. It reports the bytes written to
/// `monitor`.
///
/// # Errors
/// `AlreadyExists` when the name exists; `Cancelled` when the monitor asks to stop; `NoSpace`; errors of
/// reading `ino` itself. The result lists all other failures below `ino`.
pub fn extract(
    source: &dyn Source,
    ino: Ino,
    name: &[u8],
    target: &Dir,
    options: &ExtractOptions,
    monitor: &Monitor,
) -> Result<Extracted> {
    check_name(name).map_err(Error::invalid)?;
    if target.stat(OsStr::from_bytes(name))?.is_some() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "it is there already; nothing is overwritten",
        )
        .at_path(target.path().join(OsStr::from_bytes(name))));
    }
    let source = Taken {
        source,
        xattrs: &options.xattrs,
    };
    let attributes = source.attributes(ino)?;
    let job = Job {
        source: &source,
        options,
        target,
        monitor,
        halt: AtomicBool::new(false),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        losses: Mutex::default(),
        failed: Mutex::default(),
    };
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(2, |n| n.get() * 2),
        n => n,
    }
    .clamp(1, THREADS_MAX);
    let walked = std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| job.fill_all(&receiver)))
            .collect();
        let walked = Walk::new(&job, sender).run(ino, attributes, name);
        let mut filled = Ok(());
        for filler in fillers {
            let ended = filler
                .join()
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "a filling thread panicked")));
            filled = filled.and(ended);
        }
        // The error of the filling threads is more informative than the walk's, which only found that they
        // were gone.
        filled.and(walked)
    })?;
    let Walked {
        mut extracted,
        links,
        top,
    } = walked;
    if let Some(top) = top {
        let failed = job.failed.lock();
        for (ino, paths) in links {
            for path in paths.iter().filter(|_| failed.contains(&ino)) {
                top.dir.unlink(path)?;
                extracted.hard_links -= 1;
            }
        }
        top.finish(&job);
    }
    extracted.files = job.files.into_inner();
    extracted.bytes = job.bytes.into_inner();
    let losses = job.losses.into_inner();
    extracted.skipped_count = losses.chosen + losses.unreadable + losses.refused;
    extracted.unreadable_count = losses.unreadable;
    extracted.refused_count = losses.refused;
    extracted.skipped = losses.named;
    extracted.labels = losses.labels;
    extracted.withheld = losses.withheld;
    Ok(extracted)
}
