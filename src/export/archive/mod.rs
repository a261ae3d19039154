//! Writes files as a stream: a subtree with all attributes of its files, as a tar or a zip.
//!
//! # Invariants
//! - No name in an archive leads out of it, none occurs twice, and no symlink is followed. A tar has device
//!   nodes and setuid bits as in the guest: whether to extract them is the receiver's decision.
//! - A file is either whole or missing. If a file fails in the middle, after its header was written, the
//!   archive ends without its end mark, so that every reader reports an error; missing bytes are never
//!   filled.
//! - The result lists everything that was left out, with the reason.
//!
//! # Concurrency
//! One thread walks, several load the entries' data (small files whole), and the caller's thread writes. The
//! walk feeds two bounded queues: one to the loaders, and one to the writer in the order of the archive. A
//! budget limits the bytes between them. A separate thread reads a large file ahead.

mod acl;
mod budget;
mod entry;
mod load;
mod map;
mod note;
mod out;
mod pax;
mod tar;
#[cfg(test)]
mod tests;
mod walk;
mod write;
mod zip;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::files::{Skipped, Source, Taken, XattrChoice, check_name};
use crate::error::{Error, ErrorKind, Result};
use crate::task::Monitor;
use crate::tree::Ino;
use crate::types::sync::Mutex;
use entry::Pen;
use load::Job;
use out::Out;
pub use out::ReaderGone;
use walk::Walk;
use write::Writer;

/// LIMIT: entries between the walk and the writer.
const QUEUE: usize = 256;
/// LIMIT: loading threads.
const THREADS_MAX: usize = 16;

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A PAX tar.
    Tar,
    /// A PAX tar compressed with zstd.
    TarZstd,
    /// A zip.
    Zip,
}

/// Options for writing an archive.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveOptions<'a> {
    /// Its format.
    pub format: Format,
    /// Loading threads; 0: two for each processor.
    pub threads: usize,
    /// The extended attributes to include.
    pub xattrs: &'a XattrChoice,
}

/// Contents of a written archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archived {
    /// Directories.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Device nodes, FIFOs.
    pub special: u64,
    /// Bytes of files, without holes.
    pub bytes: u64,
    /// Entries that were left out or renamed, unordered; at most 10,000.
    pub skipped: Vec<Skipped>,
    /// Number of entries that were left out.
    pub skipped_count: u64,
    /// Number of those that were unreadable, or had an invalid name.
    pub failed_count: u64,
}

/// Writes the node `ino` and everything below it as `name` into `sink` (with `.`, only its content, without a
/// name of its own). It reports the bytes of written files to `monitor`.
///
/// # Errors
/// `Cancelled` when the monitor asks to stop; `Disconnected` when the reader of `sink` is gone; `NoSpace`,
/// `Io` of `sink`; errors of reading `ino` itself, and of reading the middle of a large file: the archive
/// then has no end mark. The result lists all other failures below `ino`.
pub fn archive(
    source: &dyn Source,
    ino: Ino,
    name: &[u8],
    sink: Box<dyn Write + '_>,
    options: ArchiveOptions<'_>,
    monitor: &Monitor,
) -> Result<Archived> {
    if name != b"." {
        check_name(name).map_err(Error::invalid)?;
    }
    let source = Taken {
        source,
        xattrs: options.xattrs,
    };
    let attributes = source.attributes(ino)?;
    let pen: Box<dyn Pen + '_> = match options.format {
        Format::Tar => Box::new(tar::Tar::new(Out::plain(sink))),
        Format::TarZstd => Box::new(tar::Tar::new(Out::zstd(sink)?)),
        Format::Zip => Box::new(zip::Zip::new(Out::plain(sink))),
    };
    let job = Job {
        source: &source,
        monitor,
        halt: AtomicBool::new(false),
        notes: note::Notes::default(),
        budget: budget::Budget::default(),
        links: options.format != Format::Zip,
    };
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(2, |n| n.get() * 2),
        n => n,
    }
    .clamp(1, THREADS_MAX);
    let (orders, to_load) = sync_channel(QUEUE);
    let (items, to_write) = sync_channel(QUEUE);
    let to_load = Mutex::new(to_load);
    let mut archived = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| job.load_all(&to_load));
        }
        let walk = Walk::new(&job, items, orders);
        let walking = scope.spawn(move || walk.run(ino, attributes, name));
        let mut writer = Writer::new(&job, pen);
        let written = writer.write_all(to_write);
        job.halt.store(written.is_err(), Ordering::Relaxed);
        job.budget.close();
        let walked = walking
            .join()
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "the walking thread panicked")));
        // The writer's error is more informative than the walk's, which only found that the writer was gone.
        written.and(walked)?;
        writer.finish()
    })?;
    let noted = job.notes.into_inner();
    archived.skipped = noted.named;
    archived.skipped_count = noted.count;
    archived.failed_count = noted.failed;
    Ok(archived)
}
