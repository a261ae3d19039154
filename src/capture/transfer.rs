//! Copies a source to a writable target on several threads; holes are written as zeroes.

use crate::block::{ReadAt, WriteAt, check_range};
use crate::error::Result;
use crate::task::{self, Monitor};
use crate::types::width::usize_from_u64;

/// Bytes of one request.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: threads, and so requests in flight.
const THREADS: usize = 4;

/// Writes all of `source` to `target`, and replaces all earlier content of the target.
///
/// # Errors
/// Errors of source and target; `Cancelled` when the monitor asks to stop.
pub fn transfer(source: &dyn ReadAt, target: &dyn WriteAt, monitor: &Monitor) -> Result<()> {
    let size = source.size_bytes();
    check_range(target.size_bytes(), 0, size)?;
    let mut cursor = 0;
    let next = move || {
        if cursor >= size {
            return Ok(None);
        }
        let at = cursor;
        let extent = source.extent_at(at, size - at)?;
        let zero = extent.kind.reads_zero();
        let stop = (at / CHUNK_BYTES + 1) * CHUNK_BYTES;
        let length = if zero {
            extent.length_bytes
        } else {
            extent.length_bytes.min(stop - at)
        };
        cursor = at + length;
        Ok(Some((at, length, zero)))
    };
    task::on_threads(
        THREADS,
        monitor,
        next,
        Vec::new,
        |buf, (at, length, zero)| {
            if zero {
                target.punch(at, length)?;
            } else {
                buf.resize(usize_from_u64(length), 0);
                source.read_at(at, buf)?;
                target.write_at(at, buf)?;
            }
            monitor.advance(length);
            Ok(())
        },
    )
}
