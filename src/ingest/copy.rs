//! Copying a source into a disk of a session, on several threads.

use std::sync::Arc;

use super::disk::DiskWriter;
use super::session::Session;
use crate::block::{ReadAt, check_range};
use crate::error::Result;
use crate::task::{self, Monitor};

/// Bytes read and submitted at once: large enough for one contiguous write, small enough to stay warm.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: threads.
const THREADS_MAX: usize = 16;

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

/// Copies all of `source` into `disk`, holes as zeroes, and declares the disk finished. `monitor` is told the bytes of the source that are
/// done, holes included.
///
/// # Errors
/// What the source or the session returns; `Cancelled` when the monitor was told to stop. The session stays open.
pub fn copy_into(
    session: &Session,
    disk: &Arc<DiskWriter>,
    source: &dyn ReadAt,
    monitor: &Monitor,
) -> Result<()> {
    check_range(disk.size_bytes(), 0, source.size_bytes())?;
    let mut cursor = Cursor {
        source,
        at: 0,
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
            };
            monitor.advance(length_bytes);
            Ok(())
        },
    )?;
    disk.set_finished(true);
    Ok(())
}
