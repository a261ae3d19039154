//! Restores a disk onto a target that has most of it already: compares the target with the leaves, and writes only what differs.
//!
//! # Invariants
//! - At the end every byte of the disk's size is that of the point: a cluster of the target is left as it is only when its bytes have the
//!   hash that the leaf states, or are zeroes where the leaf is that of zeroes.
//! - A cluster of the point is read only when the target differs, and is proved before it is written.
//! - An error in the middle leaves clusters of both contents in the target; the same command run again finishes the work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::piece::{Piece, Pieces, STEP_BYTES};
use super::{Compared, Restored, THREADS_MAX, ZERO_BYTES_MAX};
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::point::{LeafPage, ProvedDisk};
use crate::repo::content::{CLUSTER_BYTES, is_zero, leaf_of};
use crate::task::{self, Monitor};
use crate::types::GuestCluster;
use crate::types::width::{u64_from_usize, usize_from_u64};

#[derive(Default)]
struct Counts {
    /// Whether anything was begun to be changed: what fails half-way counts nothing.
    is_begun: AtomicBool,
    written: AtomicU64,
    zeroed: AtomicU64,
}

/// The buffers of a thread.
struct Buffers {
    target: Vec<u8>,
    disk: Vec<u8>,
}

/// Makes the first bytes of `target` equal to the disk, and durable: writes the clusters that differ. `target` has at least the disk's
/// size; bytes past it are left as they are. It reports the bytes compared to `monitor`.
///
/// # Errors
/// `InvalidInput` when the target is smaller than the disk; `Corrupt` naming the range when a cluster of the point differs from what was
/// committed; `NoSpace`, `Io`; `Cancelled`. The error names what the target then has.
pub fn restore_changed(
    disk: &ProvedDisk,
    target: &dyn WriteAt,
    threads: Option<usize>,
    monitor: &Monitor,
) -> Result<Restored> {
    let size_bytes = disk.size_bytes();
    if target.size_bytes() < size_bytes {
        return Err(Error::invalid(format!(
            "the target has {} bytes, the disk {size_bytes}",
            target.size_bytes()
        )));
    }
    let counts = Counts::default();
    let mut pieces = Pieces::new(disk, ZERO_BYTES_MAX);
    let buffer = || vec![0; usize_from_u64(STEP_BYTES)];
    task::on_threads(
        task::threads(threads, THREADS_MAX),
        monitor,
        move || pieces.take(),
        || Buffers {
            target: buffer(),
            disk: buffer(),
        },
        |buffers, piece| {
            match &piece.data {
                Some(page) => compare_data((disk, page), target, &piece, buffers, &counts)?,
                None => compare_zeroes(target, &piece, &mut buffers.target, &counts)?,
            }
            monitor.advance(piece.length_bytes);
            Ok(())
        },
    )
    .and_then(|()| target.flush())
    .map_err(|error| unfinished(error, &counts))?;
    Ok(Restored {
        size_bytes,
        written_bytes: counts.written.into_inner(),
        compared: Some(Compared {
            compared_bytes: size_bytes,
            zeroed_bytes: counts.zeroed.into_inner(),
        }),
    })
}

/// Adds to an error what the target then has. The place is that of the cause.
fn unfinished(cause: Error, counts: &Counts) -> Error {
    let changed = counts.written.load(Ordering::Relaxed) + counts.zeroed.load(Ordering::Relaxed);
    let what = if !counts.is_begun.load(Ordering::Relaxed) {
        "the target was compared in part, and nothing of it was changed".to_owned()
    } else if changed == 0 {
        "the target may have content of the restore point beside what it had before".to_owned()
    } else {
        format!(
            "the target has content of the restore point ({changed} bytes were changed) beside what it had before"
        )
    };
    let place = cause.context().clone();
    let mut error = Error::new(cause.kind(), what).caused_by(cause);
    if let Some(path) = place.path {
        error = error.at_path(path);
    }
    if let Some(offset) = place.offset {
        error = error.at_offset(offset);
    }
    error.advise("run the same command again: it continues where the target differs")
}

/// Compares a piece that has data with the leaves, and writes the runs of clusters that differ.
fn compare_data(
    (disk, page): (&ProvedDisk, &LeafPage),
    target: &dyn WriteAt,
    piece: &Piece,
    buffers: &mut Buffers,
    counts: &Counts,
) -> Result<()> {
    let present = part(&mut buffers.target, 0, piece.length_bytes)?;
    read_target(target, piece.at, present)?;
    let first = piece.at / CLUSTER_BYTES;
    let mut differs = Vec::new();
    for (cluster, bytes) in (first..).zip(present.chunks(usize_from_u64(CLUSTER_BYTES))) {
        differs.push(leaf_of(bytes) != page.leaf(GuestCluster(cluster))?);
    }
    for (from, end) in runs(&differs, piece.length_bytes) {
        let whole = (end - from).next_multiple_of(CLUSTER_BYTES);
        let bytes = part(&mut buffers.disk, 0, whole)?;
        disk.read_clusters(page, piece.at + from, bytes)?;
        counts.is_begun.store(true, Ordering::Relaxed);
        target.write_at(piece.at + from, part(bytes, 0, end - from)?)?;
        counts.written.fetch_add(end - from, Ordering::Relaxed);
    }
    Ok(())
}

/// Compares a piece of zeroes: what the target knows to be zeroes is not read.
fn compare_zeroes(
    target: &dyn WriteAt,
    piece: &Piece,
    buf: &mut [u8],
    counts: &Counts,
) -> Result<()> {
    let end = piece.at + piece.length_bytes;
    let mut at = piece.at;
    while at < end {
        let extent = target.extent_at(at, end - at)?;
        if extent.kind.reads_zero() {
            at += extent.length_bytes;
            continue;
        }
        let length = extent.length_bytes.min(STEP_BYTES - at % STEP_BYTES);
        let bytes = part(buf, 0, length)?;
        read_target(target, at, bytes)?;
        let chunks = bytes.chunks(usize_from_u64(CLUSTER_BYTES));
        let differs: Vec<bool> = chunks.map(|bytes| !is_zero(bytes)).collect();
        for (from, end) in runs(&differs, length) {
            counts.is_begun.store(true, Ordering::Relaxed);
            target.punch(at + from, end - from)?;
            counts.zeroed.fetch_add(end - from, Ordering::Relaxed);
        }
        at += length;
    }
    Ok(())
}

/// Reads the target. A target that has become shorter is no damage of the repository.
fn read_target(target: &dyn WriteAt, at: u64, buf: &mut [u8]) -> Result<()> {
    ReadAt::read_at(target, at, buf).map_err(|error| match error.kind() {
        ErrorKind::Corrupt => error.with_kind(ErrorKind::Io),
        _ => error,
    })
}

/// The runs of clusters that differ, in bytes from the beginning of a piece of `length_bytes`.
fn runs(differs: &[bool], length_bytes: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (number, _) in differs.iter().enumerate().filter(|(_, differs)| **differs) {
        let from = u64_from_usize(number) * CLUSTER_BYTES;
        let end = (from + CLUSTER_BYTES).min(length_bytes);
        match runs.last_mut() {
            Some((_, last)) if *last == from => *last = end,
            _ => runs.push((from, end)),
        }
    }
    runs
}

fn part(buf: &mut [u8], from: u64, length_bytes: u64) -> Result<&mut [u8]> {
    buf.get_mut(usize_from_u64(from)..usize_from_u64(from + length_bytes))
        .ok_or_else(|| Error::invalid("a piece is longer than a step"))
}
