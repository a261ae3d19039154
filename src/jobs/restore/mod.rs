//! Restores a disk: every cluster is read through the chain and proved against its leaf before it is written.
//!
//! # Concurrency
//! Threads take chunks in order. Each has its own reader, which keeps the leaves of its current region.

pub mod image;
pub mod making;
pub mod target;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::WriteAt;
use crate::error::Result;
use crate::point::{Part, ProvedDisk, ProvedReader};
use crate::repo::content::CLUSTER_BYTES;
use crate::task::{self, Monitor};
use crate::types::GuestCluster;
use crate::types::width::usize_from_u64;

/// Bytes that a thread takes at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// LIMIT: threads.
pub const THREADS_MAX: usize = 64;

/// Options of a restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Threads; by default two for each processor.
    pub threads: Option<usize>,
    /// Whether the target is known to read as zero, so that holes are not written.
    pub target_is_zero: bool,
}

/// The result of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Size of the target in bytes.
    pub size_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// Writes a whole disk of a point to `target` and makes it durable. It reports the bytes done to `monitor`,
/// holes included.
///
/// # Errors
/// `Corrupt` naming the range when a cluster differs from what was committed; `NoSpace`, `Io`; `Cancelled`.
pub fn restore(
    disk: &ProvedDisk,
    target: &dyn WriteAt,
    options: &RestoreOptions,
    monitor: &Monitor,
) -> Result<Restored> {
    let size = disk.size_bytes();
    let mut at = 0;
    let next = move || {
        let begin = at;
        at += CHUNK_BYTES;
        Ok((begin < size).then(|| (begin, CHUNK_BYTES.min(size - begin))))
    };
    let written = AtomicU64::new(0);
    task::on_threads(
        task::threads(options.threads, THREADS_MAX),
        monitor,
        next,
        || (disk.reader(), vec![0; usize_from_u64(CHUNK_BYTES)]),
        |(reader, buf), (at, length)| {
            let bytes = restore_chunk(reader, target, (at, length), buf, options.target_is_zero)?;
            written.fetch_add(bytes, Ordering::Relaxed);
            monitor.advance(length);
            Ok(())
        },
    )?;
    target.flush()?;
    Ok(Restored {
        size_bytes: size,
        written_bytes: written.into_inner(),
    })
}

fn restore_chunk(
    reader: &mut ProvedReader<'_>,
    target: &dyn WriteAt,
    (at, length): (u64, u64),
    buf: &mut [u8],
    target_is_zero: bool,
) -> Result<u64> {
    if reader.read(at, length, buf)? == Part::Zero {
        if !target_is_zero {
            target.punch(at, length)?;
        }
        return Ok(0);
    }
    let put = |(from, end): (u64, u64)| -> Result<u64> {
        let bytes = buf.get(usize_from_u64(from)..usize_from_u64(end));
        target.write_at(at + from, bytes.unwrap_or_default())?;
        Ok(end - from)
    };
    let mut written = 0;
    let mut run: Option<(u64, u64)> = None;
    for from in (0..length).step_by(usize_from_u64(CLUSTER_BYTES)) {
        let end = (from + CLUSTER_BYTES).min(length);
        if target_is_zero && reader.is_zero(GuestCluster((at + from) / CLUSTER_BYTES))? {
            written += run.take().map_or(Ok(0), put)?;
        } else {
            run = Some((run.map_or(from, |(start, _)| start), end));
        }
    }
    written += run.map_or(Ok(0), put)?;
    Ok(written)
}
