//! Copying a source to a writable target, holes as zeroes, on several threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::{ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::usize_from_u64;

/// Bytes of one request.
const CHUNK_BYTES: u64 = 1 << 20;
/// LIMIT: threads, and so requests in flight.
const THREADS: usize = 4;

/// Writes all of `source` to `target`. What the target had before is replaced everywhere.
///
/// # Errors
/// What source or target return; `Cancelled` when `stop` was set.
pub fn transfer(
    source: &dyn ReadAt,
    target: &dyn WriteAt,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let size = source.size_bytes();
    check_range(target.size_bytes(), 0, size)?;
    let cursor = Mutex::new(0);
    let failed = AtomicBool::new(false);
    let work = || -> Result<()> {
        let mut buf = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Cancelled, "the copy was stopped"));
            }
            let (at, length, zero) = {
                let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
                if *cursor >= size {
                    return Ok(());
                }
                let at = *cursor;
                let extent = source.extent_at(at, size - at)?;
                let zero = extent.kind.reads_zero();
                let stop = (at / CHUNK_BYTES + 1) * CHUNK_BYTES;
                let length = if zero {
                    extent.length_bytes
                } else {
                    extent.length_bytes.min(stop - at)
                };
                *cursor = at + length;
                (at, length, zero)
            };
            if zero {
                target.punch(at, length)?;
            } else {
                buf.resize(usize_from_u64(length), 0);
                source.read_at(at, &mut buf)?;
                target.write_at(at, &buf)?;
            }
            progress(length);
        }
        Ok(())
    };
    let guarded = || {
        let result = work();
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        result
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..THREADS).map(|_| scope.spawn(guarded)).collect();
        let mut result = guarded();
        for other in others {
            result =
                result.and(other.join().unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Io, "a copying thread panicked"))
                }));
        }
        result
    })
}
