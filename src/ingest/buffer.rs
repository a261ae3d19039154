//! Reservations: buffers that a door receives into, hashed and written from where they are.

use std::sync::Arc;

use super::disk::DiskWriter;
use crate::error::Result;
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes of free buffers that are kept for reuse.
const FREE_BYTES_MAX: usize = 64 << 20;

/// Buffers for reuse, so that none is zeroed or mapped anew for each request.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    free: Mutex<(Vec<Vec<u8>>, usize)>,
}

impl BufferPool {
    fn take(&self, length: usize) -> Vec<u8> {
        let mut free = self.free.lock();
        let fits = free
            .0
            .iter()
            .rposition(|buffer| buffer.capacity() >= length);
        let mut buffer = match fits {
            Some(ix) => free.0.swap_remove(ix),
            None => Vec::with_capacity(length.next_multiple_of(65_536)),
        };
        free.1 = free.0.iter().map(Vec::capacity).sum();
        drop(free);
        // Only what the buffer never held is zeroed.
        if buffer.len() < length {
            buffer.resize(length, 0);
        } else {
            buffer.truncate(length);
        }
        buffer
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock();
        if free.1 + buffer.capacity() <= FREE_BYTES_MAX {
            free.1 += buffer.capacity();
            free.0.push(buffer);
        }
    }
}

/// A buffer lent to a door for one write; dropped without [`Reservation::submit`], nothing is written.
pub struct Reservation {
    disk: Arc<DiskWriter>,
    pool: Arc<BufferPool>,
    offset: u64,
    buffer: Vec<u8>,
}

impl Reservation {
    pub(super) fn new(
        disk: &Arc<DiskWriter>,
        pool: &Arc<BufferPool>,
        offset: u64,
        length_bytes: u64,
    ) -> Self {
        let buffer = pool.take(usize_from_u64(length_bytes));
        Self {
            disk: Arc::clone(disk),
            pool: Arc::clone(pool),
            offset,
            buffer,
        }
    }

    /// Where the write begins on the disk, in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        u64_from_usize(self.buffer.len())
    }

    /// The buffer, to be filled wholly; its content is whatever an earlier write left.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Takes the bytes into the session: hashed in place, compared, written or dropped.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Corrupt` (a parent's cluster that had to be completed from is damaged), `ReadOnly` (sealed).
    pub fn submit(self) -> Result<()> {
        let written = self.disk.write(self.offset, &self.buffer);
        let end = self
            .offset
            .saturating_add(u64_from_usize(self.buffer.len()));
        self.disk.note_range(self.offset..end, &written);
        written
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.buffer));
    }
}
