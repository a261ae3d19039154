//! Taking files out: a subtree, with everything that its files have, into a directory.
//!
//! # Invariants
//! - Nothing is written outside the target, whatever the guest's names and symlinks say: every name is made by a call on the handle of its
//!   directory, exclusively, and no symlink is followed.
//! - Nobody but its maker gets below the directory at the top before all below it is there: guests' owners are given to files and
//!   directories to which no user of this machine with the same number has a way yet, and names are made from that directory's handle.
//! - A file is whole or not there: one that cannot be read to its end is removed again and named.
//! - What is left out (hostile names, names that are there already, device nodes, setuid bits, attributes that the target's filesystem
//!   does not take) is in the answer, with its reason.
//!
//! # Concurrency
//! One thread walks and makes the names; several fill the files. The queue between them is bounded, and so are open files.

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

/// LIMIT: files made but not yet filled.
const QUEUE: usize = 128;
/// LIMIT: filling threads.
const THREADS_MAX: usize = 16;

/// Where files are taken from: the tree, or a test's own.
pub trait Source: Sync {
    /// Attributes of a node.
    ///
    /// # Errors
    /// What the guest's reader returns.
    fn attributes(&self, ino: Ino) -> Result<Attributes>;
    /// All names of a directory, as they are stored.
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

/// How files are taken out.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Device nodes, setuid and setgid bits, extended attributes other than users' and ACLs: what gives power to whoever meets it.
    pub special: bool,
    /// Owners and groups; needs root.
    pub owner: bool,
    /// Filling threads; 0: two for each processor.
    pub threads: usize,
    /// Which extended attributes are taken.
    pub xattrs: XattrChoice,
}

/// Why something is not in the target as it is in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was not asked for.
    Chosen,
    /// It is there and could not be read.
    Unreadable,
    /// The target refused it.
    Refused,
}

impl Loss {
    /// The loss that an error stands for: errors of reading are `Corrupt` here.
    fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt => Self::Unreadable,
            _ => Self::Refused,
        }
    }
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the target.
    pub path: PathBuf,
    /// What sort of loss it is.
    pub loss: Loss,
    /// Why, for people.
    pub reason: String,
}

/// What was taken out.
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
    /// Bytes written; holes are none.
    pub bytes: u64,
    /// What was left out, in no order; at most 10,000 of them.
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
    /// How much of that could not be read.
    pub unreadable_count: u64,
    /// How much of that the target refused.
    pub refused_count: u64,
    /// Labels that the target does not take (SELinux, IMA, `trusted.*`, `btrfs.*`), and of how many files.
    pub labels: BTreeMap<String, u64>,
    /// Attributes that were not asked for and are left out, as they could give power to whoever meets them, and of how many files.
    pub withheld: BTreeMap<String, u64>,
}

/// Takes the node `ino` and all below it out as `name` in `target`. `monitor` is told the bytes written.
///
/// # Errors
/// `AlreadyExists` when the name is there; `Cancelled` when the monitor was told to stop; `NoSpace`; what reading `ino` itself returns.
/// What fails below is in the answer instead.
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
        // Why the filling stopped says more than that the walk found nobody to fill.
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
