//! Restores a disk: every cluster is read through the chain and proved against its leaf before it is written. Clusters whose leaf is that
//! of zeroes are not read.
//!
//! # Concurrency
//! Threads take pieces in order; the leaves of a region are loaded once. Each thread reads, proves and writes its piece.

pub mod change;
pub mod image;
pub mod making;
pub mod piece;
pub mod target;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::WriteAt;
use crate::error::{Error, Result};
use crate::point::{LeafPage, ProvedDisk};
use crate::repo::content::CLUSTER_BYTES;
use crate::task::{self, Monitor};
use crate::types::width::usize_from_u64;
use piece::{Piece, Pieces, STEP_BYTES};

/// LIMIT: bytes of zeroes that are written at once: a cancelled restore ends soon.
const ZERO_BYTES_MAX: u64 = 4 << 20;
/// Shorter runs of zeroes are written like data: a device releases space slowly.
const PUNCH_BYTES_MIN: u64 = 1 << 20;
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

/// How much of a target was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Bytes of the target that were compared: the size of the disk.
    pub compared_bytes: u64,
    /// Bytes that differed and were made zeroes.
    pub zeroed_bytes: u64,
}

/// The result of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Size of the target in bytes.
    pub size_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes that were compared first, and of these the bytes that were made zeroes, where only changes were written.
    pub compared: Option<Compared>,
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
    let zero_bytes_max = if options.target_is_zero {
        u64::MAX / CLUSTER_BYTES * CLUSTER_BYTES
    } else {
        ZERO_BYTES_MAX
    };
    let mut pieces = Pieces::new(disk, zero_bytes_max);
    let written = AtomicU64::new(0);
    task::on_threads(
        task::threads(options.threads, THREADS_MAX),
        monitor,
        move || pieces.take(),
        || vec![0; usize_from_u64(STEP_BYTES)],
        |buf, piece| {
            let bytes = match &piece.data {
                Some(page) => write_data(disk, target, (&piece, page), buf)?,
                None if options.target_is_zero => 0,
                None => write_zeroes(target, &piece, buf)?,
            };
            written.fetch_add(bytes, Ordering::Relaxed);
            monitor.advance(piece.length_bytes);
            Ok(())
        },
    )?;
    target.flush()?;
    Ok(Restored {
        size_bytes: disk.size_bytes(),
        written_bytes: written.into_inner(),
        compared: None,
    })
}

/// Reads, proves and writes a piece of data; returns the bytes written.
fn write_data(
    disk: &ProvedDisk,
    target: &dyn WriteAt,
    (piece, page): (&Piece, &LeafPage),
    buf: &mut [u8],
) -> Result<u64> {
    let whole = piece.length_bytes.next_multiple_of(CLUSTER_BYTES);
    let bytes = part(buf, whole)?;
    disk.read_clusters(page, piece.at, bytes)?;
    target.write_at(piece.at, part(bytes, piece.length_bytes)?)?;
    Ok(piece.length_bytes)
}

/// Makes a piece read as zero; returns the bytes written for that.
fn write_zeroes(target: &dyn WriteAt, piece: &Piece, buf: &mut [u8]) -> Result<u64> {
    if piece.length_bytes >= PUNCH_BYTES_MIN {
        target.punch(piece.at, piece.length_bytes)?;
        return Ok(0);
    }
    buf.fill(0);
    let mut done = 0;
    while done < piece.length_bytes {
        let step = STEP_BYTES.min(piece.length_bytes - done);
        target.write_at(piece.at + done, part(buf, step)?)?;
        done += step;
    }
    Ok(done)
}

fn part(buf: &mut [u8], length_bytes: u64) -> Result<&mut [u8]> {
    buf.get_mut(..usize_from_u64(length_bytes))
        .ok_or_else(|| Error::invalid("a piece is longer than a step"))
}
