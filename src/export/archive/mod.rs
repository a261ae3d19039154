//! Taking files out as a stream: a subtree, with what its files have, as a tar or a zip.
//!
//! # Invariants
//! - No name in an archive leads out of it, none is there twice, no symlink is followed; device nodes and setuid bits are in a tar as they
//!   are in the guest: extracting them is the receiver's decision.
//! - A file is whole or not there. One that fails in the middle, when its header is written already, ends the archive without its end, so
//!   that whoever reads it complains; nothing is filled up.
//! - What is left out is in the answer, with its reason.
//!
//! # Concurrency
//! One thread walks, several load what the entries need (small files whole), the caller's writes. Two bounded queues go from the walk: to
//! the loaders, and to the writer in the order of the archive; a budget bounds the bytes between them. A large file is read ahead by a
//! thread of its own.

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
    /// PAX.
    Tar,
    /// PAX in zstd.
    TarZstd,
    /// Zip.
    Zip,
}

/// How an archive is written.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveOptions<'a> {
    /// Its format.
    pub format: Format,
    /// Loading threads; 0: two for each processor.
    pub threads: usize,
    /// Which extended attributes are taken.
    pub xattrs: &'a XattrChoice,
}

/// What is in the archive.
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
    /// Bytes of files; holes are none.
    pub bytes: u64,
    /// What was left out or renamed, in no order; at most 10,000 of them.
    pub skipped: Vec<Skipped>,
    /// How much was left out.
    pub skipped_count: u64,
    /// How much of that should be there: it could not be read, or its name may not be written.
    pub failed_count: u64,
}

/// Writes the node `ino` and all below it as `name` (`.`: what is in it, without a name of its own) into `sink`. `monitor` is told the
/// bytes of files that were written.
///
/// # Errors
/// `Cancelled` when the monitor was told to stop; `Disconnected` when nobody reads `sink` any more; `NoSpace`, `Io` of `sink`; what reading
/// `ino` itself returns, and what reading the middle of a large file returns: the archive has no end then. What else fails below is in
/// the answer instead.
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
        // Why the writer stopped says more than that the walk found nobody to write.
        written.and(walked)?;
        writer.finish()
    })?;
    let noted = job.notes.into_inner();
    archived.skipped = noted.named;
    archived.skipped_count = noted.count;
    archived.failed_count = noted.failed;
    Ok(archived)
}
