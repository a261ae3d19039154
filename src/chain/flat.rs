//! Flattened maps on disk: the resolved extents of a deep chain, kept in `cache/` so that the chain is
//! resolved once.
//!
//! # On-disk layout
//! `cache/maps/<layer_id of the top>.map`, integers little-endian, may be deleted at any time:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `RFSFLAT2` |
//! | 8 | 8 | ranges of the disk (R) |
//! | 16 | 32 | BLAKE3 of the layer ids of the chain, top first |
//! | 48 | 8 R | offset of each range's record, 0 when there is none |
//! | | | records: range (u64), extents (u32), CRC-32 of the extents (u32), 32 bytes for each extent |
//!
//! An extent: first, count, kind (0 hole, 1 zero, 2 data, 3 compressed), layer index (u32 each), host offset (u64),
//! compressed length (u32), 0 (u32).
//!
//! # Invariants
//! A record is used only when its range, size and CRC are right; otherwise the range is resolved again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::extent::{Extent, ExtentLocation, LayerIndex};
use super::range::{RANGE_CLUSTERS, Range};
use crate::block::WriteAt;
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u32};
use crate::types::{HostOffset, LayerId};

const MAGIC: &[u8; 8] = b"RFSFLAT2";
const TABLE_AT: u64 = 48;
const RECORD_BYTES: usize = 16;
const EXTENT_BYTES: usize = 32;

/// Where flattened maps are kept; the repository implements it for a chain.
pub trait FlatStore: Send + Sync {
    /// Opens the map of the chain with this top layer, and creates it when it is missing; `None` where this
    /// process cannot write.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn open_flat(&self, top: LayerId) -> Result<Option<Arc<dyn WriteAt>>>;
}

/// One open flattened map.
pub(super) struct Flat {
    file: Arc<dyn WriteAt>,
    end: AtomicU64,
}

impl Flat {
    /// Opens a map for a chain of these layers, and empties it when it belongs to another chain.
    pub(super) fn open(
        file: Arc<dyn WriteAt>,
        layers: impl Iterator<Item = LayerId>,
        ranges: u64,
    ) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        for layer in layers {
            hasher.update(&layer.to_bytes());
        }
        let mut header = Vec::with_capacity(48);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&ranges.to_le_bytes());
        header.extend_from_slice(hasher.finalize().as_bytes());
        let first = TABLE_AT + ranges * 8;
        let mut found = vec![0; header.len()];
        let same =
            file.size_bytes() >= first && file.read_at(0, &mut found).is_ok() && found == header;
        if !same {
            file.set_size(0)?;
            file.set_size(first)?;
            file.write_at(0, &header)?;
        }
        let end = AtomicU64::new(file.size_bytes());
        Ok(Self { file, end })
    }

    /// The range's extents, if a good record is there.
    pub(super) fn load(&self, range: u64) -> Option<Range> {
        let mut word = [0; 8];
        self.file.read_at(TABLE_AT + range * 8, &mut word).ok()?;
        let at = u64::from_le_bytes(word);
        if at == 0 {
            return None;
        }
        let mut head = [0; RECORD_BYTES];
        self.file.read_at(at, &mut head).ok()?;
        let count = u32_at(&head, 8)?;
        if u64_at(&head, 0)? != range || count > RANGE_CLUSTERS {
            return None;
        }
        let mut bytes = vec![0; usize_from_u32(count) * EXTENT_BYTES];
        self.file
            .read_at(at + u64_from_usize(RECORD_BYTES), &mut bytes)
            .ok()?;
        if u32_at(&head, 12)? != crc32fast::hash(&bytes) {
            return None;
        }
        let extents = bytes
            .chunks_exact(EXTENT_BYTES)
            .map(decode)
            .collect::<Option<Vec<_>>>()?;
        Range::from_extents(extents).ok()
    }

    /// Appends the range's extents.
    pub(super) fn store(&self, range: u64, resolved: &Range) -> Result<()> {
        let mut extents = Vec::with_capacity(resolved.extents().len() * EXTENT_BYTES);
        for extent in resolved.extents() {
            encode(extent, &mut extents);
        }
        let mut record = Vec::with_capacity(RECORD_BYTES + extents.len());
        record.extend_from_slice(&range.to_le_bytes());
        let count = u32::try_from(resolved.extents().len()).unwrap_or(u32::MAX);
        record.extend_from_slice(&count.to_le_bytes());
        record.extend_from_slice(&crc32fast::hash(&extents).to_le_bytes());
        record.extend_from_slice(&extents);
        let at = self
            .end
            .fetch_add(u64_from_usize(record.len()), Ordering::SeqCst);
        self.file.write_at(at, &record)?;
        self.file.write_at(TABLE_AT + range * 8, &at.to_le_bytes())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u64::from_le_bytes(*b))
}

fn encode(extent: &Extent, out: &mut Vec<u8>) {
    let (kind, layer, host, length) = match extent.place {
        ExtentLocation::Hole => (0u32, 0, 0, 0),
        ExtentLocation::Zero { layer } => (1, layer.0, 0, 0),
        ExtentLocation::Data { layer, host } => (2, layer.0, host.0, 0),
        ExtentLocation::Compressed {
            layer,
            host,
            length_bytes,
        } => (3, layer.0, host.0, length_bytes),
    };
    for word in [extent.first, extent.count, kind, layer] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&host.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn decode(bytes: &[u8]) -> Option<Extent> {
    let layer = LayerIndex(u32_at(bytes, 12)?);
    let host = HostOffset(u64_at(bytes, 16)?);
    let place = match u32_at(bytes, 8)? {
        0 => ExtentLocation::Hole,
        1 => ExtentLocation::Zero { layer },
        2 => ExtentLocation::Data { layer, host },
        3 => ExtentLocation::Compressed {
            layer,
            host,
            length_bytes: u32_at(bytes, 24)?,
        },
        _ => return None,
    };
    Some(Extent {
        first: u32_at(bytes, 0)?,
        count: u32_at(bytes, 4)?,
        place,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Flat;
    use crate::block::WriteAt;
    use crate::block::memory::MemoryDisk;
    use crate::chain::extent::{ExtentLocation, LayerIndex};
    use crate::chain::range::Range;
    use crate::types::{HostOffset, LayerId};

    fn sample() -> Range {
        Range::join((0..8192u64).map(|n| match n % 4 {
            0 => ExtentLocation::Hole,
            1 => ExtentLocation::Zero {
                layer: LayerIndex(3),
            },
            2 => ExtentLocation::Data {
                layer: LayerIndex(7),
                host: HostOffset(n << 16),
            },
            _ => ExtentLocation::Compressed {
                layer: LayerIndex(2),
                host: HostOffset(n),
                length_bytes: 77,
            },
        }))
    }

    #[test]
    fn records_round_trip_and_damage_is_a_miss() {
        let file: Arc<dyn WriteAt> = Arc::new(MemoryDisk::new());
        let layers = [LayerId::from_bytes([1; 16]), LayerId::from_bytes([2; 16])];
        let flat = Flat::open(Arc::clone(&file), layers.into_iter(), 3).unwrap();
        assert!(flat.load(1).is_none());
        flat.store(1, &sample()).unwrap();
        assert_eq!(flat.load(1), Some(sample()));
        let again = Flat::open(Arc::clone(&file), layers.into_iter(), 3).unwrap();
        assert_eq!(again.load(1), Some(sample()));
        assert!(again.load(2).is_none());
        file.write_at(file.size_bytes() - 40, &[9]).unwrap();
        assert!(again.load(1).is_none());
        let other = Flat::open(Arc::clone(&file), layers.into_iter().take(1), 3).unwrap();
        assert!(other.load(1).is_none());
    }
}
