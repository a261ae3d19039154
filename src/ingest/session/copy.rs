//! Copying a source into a disk of a session, on several threads.

use std::sync::Arc;

use super::Session;
use crate::block::check_range;
use crate::block::piece::{CopySource, Piece, Pieces};
use crate::error::{Error, Result};
use crate::ingest::disk::DiskWriter;
use crate::task::{self, Monitor};

/// LIMIT: threads.
const THREADS_MAX: usize = 16;

/// Copies a source into `disk`, holes as zeroes, and declares the disk finished. What has not changed stays the parent's. Reports the
/// source bytes that are done, holes included, to `monitor`.
///
/// # Errors
/// What the source or the session returns; `InvalidInput` for changes of a disk without a parent, whose other bytes would be lost;
/// `Cancelled` when the monitor was cancelled. The session stays open.
pub fn copy_into(
    session: &Session,
    disk: &Arc<DiskWriter>,
    source: CopySource<'_>,
    monitor: &Monitor,
) -> Result<()> {
    if source.changes.is_some() && disk.meta().parent.is_none() {
        let name = &disk.meta().name;
        return Err(Error::invalid(format!(
            "disk {name} has no parent, so changes alone are not all of it"
        ))
        .advise("copy the whole disk"));
    }
    check_range(disk.size_bytes(), 0, source.disk.size_bytes())?;
    let mut pieces = Pieces::of(source);
    task::on_threads(
        task::threads(None, THREADS_MAX),
        monitor,
        || pieces.next_piece(),
        || (),
        |(), piece| {
            match piece {
                Piece::Data {
                    offset,
                    length_bytes,
                } => {
                    let mut reservation = session.reserve(disk, offset, length_bytes)?;
                    source.disk.read_at(offset, reservation.bytes_mut())?;
                    reservation.submit()?;
                }
                Piece::Zero {
                    offset,
                    length_bytes,
                } => disk.zero(offset, length_bytes)?,
                Piece::Unchanged { .. } => {}
            }
            monitor.advance(piece.length_bytes());
            Ok(())
        },
    )?;
    disk.set_finished(true);
    Ok(())
}
