//! A disk in pieces, as a copy of it goes on: data to read, zeroes, and what has not changed.

use super::ReadAt;
use crate::error::Result;

/// Bytes of a piece with data, at most: large enough for one contiguous write, small enough to stay in the CPU cache.
const CHUNK_BYTES: u64 = 1 << 20;

/// A dirty bitmap: the ranges of a source that have changed since the content that its disk is compared with.
pub trait Changes: Send + Sync {
    /// Whether the bytes from `offset` on have changed, and the length for which that holds: at least 1 and at most `length_max`.
    ///
    /// # Errors
    /// What the lookup returns.
    fn changed_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)>;
}

/// A source, with the changes if only these are to be copied.
#[derive(Clone, Copy)]
pub struct CopySource<'a> {
    /// The bytes.
    pub disk: &'a dyn ReadAt,
    /// Its changes; `None`: all of it counts.
    pub changes: Option<&'a dyn Changes>,
}

impl<'a> CopySource<'a> {
    /// All of a source.
    #[must_use]
    pub const fn whole(disk: &'a dyn ReadAt) -> Self {
        Self {
            disk,
            changes: None,
        }
    }
}

/// A piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes to read.
    Data {
        /// Where it begins.
        offset: u64,
        /// Its length.
        length_bytes: u64,
    },
    /// Zeroes.
    Zero {
        /// Where it begins.
        offset: u64,
        /// Its length.
        length_bytes: u64,
    },
    /// The content that the disk is compared with: the copy reads and writes nothing.
    Unchanged {
        /// Where it begins.
        offset: u64,
        /// Its length.
        length_bytes: u64,
    },
}

impl Piece {
    /// Its length in bytes.
    #[must_use]
    pub const fn length_bytes(&self) -> u64 {
        match self {
            Self::Data { length_bytes, .. }
            | Self::Zero { length_bytes, .. }
            | Self::Unchanged { length_bytes, .. } => *length_bytes,
        }
    }
}

/// The pieces of a source, in order.
pub struct Pieces<'a> {
    origin: CopySource<'a>,
    /// The start of the next piece.
    at: u64,
    /// End of the changed range that `at` lies in.
    changed_end: u64,
    /// End of the data extent that `at` lies in.
    data_end: u64,
}

impl<'a> Pieces<'a> {
    /// All pieces of a source.
    #[must_use]
    pub const fn of(origin: CopySource<'a>) -> Self {
        Self {
            origin,
            at: 0,
            changed_end: 0,
            data_end: 0,
        }
    }

    /// The next piece; `None` at the end of the source.
    ///
    /// # Errors
    /// What looking at the source or its changes returns.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        let size = self.origin.disk.size_bytes();
        let offset = self.at;
        if offset >= size {
            return Ok(None);
        }
        if offset >= self.changed_end {
            let left = size - offset;
            let (is_changed, length) = match self.origin.changes {
                Some(changes) => changes.changed_at(offset, left)?,
                None => (true, left),
            };
            let length_bytes = length.clamp(1, left);
            if !is_changed {
                self.at += length_bytes;
                return Ok(Some(Piece::Unchanged {
                    offset,
                    length_bytes,
                }));
            }
            self.changed_end = offset + length_bytes;
            self.data_end = offset;
        }
        if offset >= self.data_end {
            let extent = self
                .origin
                .disk
                .extent_at(offset, self.changed_end - offset)?;
            let end = offset + extent.length_bytes;
            if extent.kind.reads_zero() {
                self.at = end;
                return Ok(Some(Piece::Zero {
                    offset,
                    length_bytes: extent.length_bytes,
                }));
            }
            self.data_end = end;
        }
        // Pieces end on multiples of the chunk size, so that whole clusters are submitted.
        let stop = ((offset / CHUNK_BYTES + 1) * CHUNK_BYTES).min(self.data_end);
        self.at = stop;
        Ok(Some(Piece::Data {
            offset,
            length_bytes: stop - offset,
        }))
    }
}
