//! Reservations: buffers that a door receives into. The bytes are hashed and written from the
//! buffer, without a copy.

use std::sync::Arc;

use super::DiskWriter;
use crate::block::{Buffer, BufferPool};
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes of free buffers that are kept for reuse.
pub(in crate::ingest) const FREE_BYTES_MAX: usize = 64 << 20;

/// A buffer lent to a door for one write. Nothing is written if it is dropped without
/// [`Reservation::submit`].
pub struct Reservation {
    disk: Arc<DiskWriter>,
    offset: u64,
    buffer: Buffer,
}

impl Reservation {
    pub(in crate::ingest) fn new(
        disk: &Arc<DiskWriter>,
        pool: &Arc<BufferPool>,
        offset: u64,
        length_bytes: u64,
    ) -> Self {
        Self {
            disk: Arc::clone(disk),
            offset,
            buffer: pool.take(usize_from_u64(length_bytes)),
        }
    }

    /// The buffer, which the caller must fill completely: it still holds the bytes of an earlier
    /// write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Whether the write is a short one: it reads nothing of the parent, and waits for no other cluster to be completed.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.disk.takes_at_once(self.offset)
    }

    /// Takes the bytes into the session: hashes them in place, compares them with the parent's, and
    /// writes or drops them.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Corrupt` (a parent's cluster that the write is completed from is damaged),
    /// `ReadOnly` (sealed).
    pub fn submit(self) -> Result<()> {
        let written = self.disk.write(self.offset, &self.buffer);
        let end = self
            .offset
            .saturating_add(u64_from_usize(self.buffer.len()));
        self.disk.completion.note_range(self.offset..end, &written);
        written
    }
}
