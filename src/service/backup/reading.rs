//! A source whose reads are counted, and wait for their pace.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::piece::Changes;
use crate::block::{Extent, ReadAt};
use crate::error::Result;
use crate::task::{Monitor, Pace};

/// A source of a copy.
pub(super) struct Reading<'a> {
    pub(super) source: &'a dyn ReadAt,
    pub(super) pace: &'a Pace,
    pub(super) monitor: &'a Monitor,
    /// Bytes that were read.
    pub(super) read_bytes: AtomicU64,
}

impl ReadAt for Reading<'_> {
    fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        self.pace.wait_for(length, self.monitor)?;
        self.source.read_at(offset, buf)?;
        self.read_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.source.extent_at(offset, length_max)
    }
}

/// Bytes that changes call changed.
///
/// # Errors
/// What the lookup returns.
pub(super) fn changed_bytes(changes: &dyn Changes, size_bytes: u64) -> Result<u64> {
    let (mut at, mut changed) = (0, 0);
    while at < size_bytes {
        let (is_changed, length) = changes.changed_at(at, size_bytes - at)?;
        let length = length.clamp(1, size_bytes - at);
        changed += if is_changed { length } else { 0 };
        at += length;
    }
    Ok(changed)
}
