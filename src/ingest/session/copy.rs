//! Copying a source into a disk of a session, on several threads.

use std::sync::Arc;

use super::Session;
use crate::block::{ReadAt, check_range};
use crate::error::{Error, Result};
use crate::ingest::disk::DiskWriter;
use crate::task::{self, Monitor};

/// Bytes of one read and submit: large enough for one contiguous write, small enough to stay in the
/// CPU cache.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: threads.
const THREADS_MAX: usize = 16;

/// A dirty bitmap: the ranges of a source that have changed since the content that its disk is
/// compared with.
pub trait Changes: Send + Sync {
    /// Whether the bytes from `offset` on have changed, and the length for which that holds: at
    /// least 1 and at most `length_max`.
    ///
    /// # Errors
    /// What the lookup returns.
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)>;
}

/// The start of the next piece.
struct Cursor<'a> {
    source: &'a dyn ReadAt,
    changes: Option<&'a dyn Changes>,
    at: u64,
    /// End of the changed range that `at` lies in.
    changed_end: u64,
    /// End of the data extent that `at` lies in.
    data_end: u64,
}

enum Piece {
    Data {
        offset: u64,
        length_bytes: u64,
    },
    Zero {
        offset: u64,
        length_bytes: u64,
    },
    /// The parent's content: the copy reads and writes nothing.
    Unchanged {
        length_bytes: u64,
    },
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        let size = self.source.size_bytes();
        if self.at >= size {
            return Ok(None);
        }
        if self.at >= self.changed_end {
            let left = size - self.at;
            let (is_changed, length) = match self.changes {
                Some(changes) => changes.changed_at(self.at, left)?,
                None => (true, left),
            };
            let length_bytes = length.clamp(1, left);
            if !is_changed {
                self.at += length_bytes;
                return Ok(Some(Piece::Unchanged { length_bytes }));
            }
            self.changed_end = self.at + length_bytes;
            self.data_end = self.at;
        }
        if self.at >= self.data_end {
            let extent = self.source.extent_at(self.at, self.changed_end - self.at)?;
            let end = self.at + extent.length_bytes;
            if extent.kind.reads_zero() {
                let piece = Piece::Zero {
                    offset: self.at,
                    length_bytes: extent.length_bytes,
                };
                self.at = end;
                return Ok(Some(piece));
            }
            self.data_end = end;
        }
        // Pieces end on multiples of the chunk size, so that whole clusters are submitted.
        let stop = ((self.at / CHUNK_BYTES + 1) * CHUNK_BYTES).min(self.data_end);
        let piece = Piece::Data {
            offset: self.at,
            length_bytes: stop - self.at,
        };
        self.at = stop;
        Ok(Some(piece))
    }
}

/// Copies all of `source` into `disk`, holes as zeroes, and declares the disk finished. Reports the
/// source bytes that are done, holes included, to `monitor`.
///
/// # Errors
/// What the source or the session returns; `Cancelled` when the monitor was cancelled. The session
/// stays open.
pub fn copy_into(
    session: &Session,
    disk: &Arc<DiskWriter>,
    source: &dyn ReadAt,
    monitor: &Monitor,
) -> Result<()> {
    copy(session, disk, (source, None), monitor)
}

/// Copies what has changed since the parent's content, as [`copy_into`]; the rest of the disk is
/// the parent's.
///
/// # Errors
/// As [`copy_into`]; `InvalidInput` for a disk without a parent, whose other bytes would be lost.
pub fn copy_changes_into(
    session: &Session,
    disk: &Arc<DiskWriter>,
    source: &dyn ReadAt,
    changes: &dyn Changes,
    monitor: &Monitor,
) -> Result<()> {
    if disk.meta().parent.is_none() {
        let name = &disk.meta().name;
        return Err(Error::invalid(format!(
            "disk {name} has no parent, so changes alone are not all of it"
        ))
        .advise("copy the whole disk"));
    }
    copy(session, disk, (source, Some(changes)), monitor)
}

fn copy(
    session: &Session,
    disk: &Arc<DiskWriter>,
    (source, changes): (&dyn ReadAt, Option<&dyn Changes>),
    monitor: &Monitor,
) -> Result<()> {
    check_range(disk.size_bytes(), 0, source.size_bytes())?;
    let mut cursor = Cursor {
        source,
        changes,
        at: 0,
        changed_end: 0,
        data_end: 0,
    };
    task::on_threads(
        task::threads(None, THREADS_MAX),
        monitor,
        || cursor.next(),
        || (),
        |(), piece| {
            let length_bytes = match piece {
                Piece::Data {
                    offset,
                    length_bytes,
                } => {
                    let mut reservation = session.reserve(disk, offset, length_bytes)?;
                    source.read_at(offset, reservation.bytes_mut())?;
                    reservation.submit()?;
                    length_bytes
                }
                Piece::Zero {
                    offset,
                    length_bytes,
                } => {
                    disk.zero(offset, length_bytes)?;
                    length_bytes
                }
                Piece::Unchanged { length_bytes } => length_bytes,
            };
            monitor.advance(length_bytes);
            Ok(())
        },
    )?;
    disk.set_finished(true);
    Ok(())
}
