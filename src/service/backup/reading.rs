//! A source whose reads are counted, and wait for their pace.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::piece::Changes;
use crate::block::{Extent, ReadAt};
use crate::error::Result;
use crate::task::{Monitor, Pace};
use crate::types::width::u64_from_usize;

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
        let length = u64_from_usize(buf.len());
        self.pace.wait_for(length, self.monitor)?;
        self.source.read_at(offset, buf)?;
        self.read_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.source.extent_at(offset, length_max)
    }
}

/// Changes that are counted as they are asked for; a copy asks once for each range.
pub(super) struct Counted<'a> {
    changes: &'a dyn Changes,
    changed_bytes: AtomicU64,
}

impl<'a> Counted<'a> {
    pub(super) const fn new(changes: &'a dyn Changes) -> Self {
        Self {
            changes,
            changed_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes that were called changed.
    pub(super) fn into_bytes(self) -> u64 {
        self.changed_bytes.into_inner()
    }
}

impl Changes for Counted<'_> {
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        let (is_changed, length) = self.changes.changed_at(offset, length_max)?;
        let length = length.clamp(1, length_max);
        if is_changed {
            self.changed_bytes.fetch_add(length, Ordering::Relaxed);
        }
        Ok((is_changed, length))
    }
}
