//! Copying a source into a disk of a session, on several threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::DiskWriter;
use super::session::Session;
use crate::block::{ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read and submitted at once: large enough for one contiguous write, small enough to stay warm.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: threads; two for each processor keep reading and hashing apart.
const THREADS_MAX: usize = 16;

/// What is told while copying: bytes of the source that are done, holes included.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Where the next piece begins.
struct Cursor<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    /// End of the data extent that `at` lies in.
    data_end: u64,
}

enum Piece {
    Data { offset: u64, length_bytes: u64 },
    Zero { offset: u64, length_bytes: u64 },
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        let size = self.source.size_bytes();
        if self.at >= size {
            return Ok(None);
        }
        if self.at >= self.data_end {
            let extent = self.source.extent_at(self.at, size - self.at)?;
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
        // Pieces end on multiples of the chunk, so that whole clusters are submitted.
        let stop = ((self.at / CHUNK_BYTES + 1) * CHUNK_BYTES).min(self.data_end);
        let piece = Piece::Data {
            offset: self.at,
            length_bytes: stop - self.at,
        };
        self.at = stop;
        Ok(Some(piece))
    }
}

/// Copies all of `source` into `disk`, holes as zeroes, and declares the disk finished.
///
/// # Errors
/// What the source or the session returns; `Cancelled` when `stop` was set. The session stays open.
pub fn copy_into(
    session: &Session,
    disk: &Arc<DiskWriter>,
    source: &dyn ReadAt,
    stop: &AtomicBool,
    progress: Progress<'_>,
) -> Result<()> {
    check_range(disk.size_bytes(), 0, source.size_bytes())?;
    let cursor = Mutex::new(Cursor {
        source,
        at: 0,
        data_end: 0,
    });
    let failed = AtomicBool::new(false);
    let work = || -> Result<()> {
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Cancelled, "the copy was stopped"));
            }
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Some(piece) = cursor
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next()?
            else {
                return Ok(());
            };
            match piece {
                Piece::Data {
                    offset,
                    length_bytes,
                } => {
                    let mut reservation = session.reserve(disk, offset, length_bytes)?;
                    source.read_at(offset, reservation.bytes_mut())?;
                    reservation.submit()?;
                    progress(length_bytes);
                }
                Piece::Zero {
                    offset,
                    length_bytes,
                } => {
                    disk.zero(offset, length_bytes)?;
                    progress(length_bytes);
                }
            }
        }
    };
    let guarded = || {
        let result = work();
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        result
    };
    let threads = std::thread::available_parallelism()
        .map_or(2, |n| n.get() * 2)
        .min(THREADS_MAX);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(guarded)).collect();
        let mut result = guarded();
        for other in others {
            let ended = other
                .join()
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "a copying thread panicked")));
            result = result.and(ended);
        }
        result
    })?;
    disk.set_finished(true);
    Ok(())
}
