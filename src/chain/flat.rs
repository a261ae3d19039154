//! Flattened maps on disk: the resolved extents of a deep chain, kept in `cache/` so that the chain is
//! resolved once.
//!
//! # On-disk layout
//! `cache/maps/<vm_id>/<chain id>.map`, integers little-endian, may be deleted at any time:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `RFSFLAT2` |
//! | 8 | 8 | ranges of the disk (R) |
//! | 16 | 32 | chain id: BLAKE3 of the layer ids of the chain, top first |
//! | 48 | 8 R | offset of each range's record, 0 when there is none |
//! | | | records: range (u64), extents (u32), CRC-32 of the extents (u32), 32 bytes for each extent |
//!
//! An extent: first, count, kind (0 hole, 1 zero, 2 data, 3 compressed), layer index (u32 each), host offset (u64),
//! compressed length (u32), 0 (u32).
//!
//! # Invariants
//! - A record is used only when its range, size and CRC are right; otherwise the range is resolved again.
//! - A file is only appended to. One with another header is damaged: it is deleted and made anew, so that no reader
//!   sees the records of a chain change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::extent::{Extent, ExtentLocation, LayerIndex};
use super::range::{RANGE_CLUSTERS, Range};
use super::walk::ChainId;
use crate::block::WriteAt;
use crate::error::Result;
use crate::types::HostOffset;
use crate::types::width::{u64_from_usize, usize_from_u32};

const MAGIC: &[u8; 8] = b"RFSFLAT2";
const TABLE_AT: u64 = 48;
const RECORD_BYTES: usize = 16;
const EXTENT_BYTES: usize = 32;

/// Where flattened maps are kept; the repository implements it for a chain.
pub trait FlatStore: Send + Sync {
    /// Opens the map of a chain, and creates an empty one when it is missing; `None` where this process cannot
    /// write.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn open_flat(&self, chain: ChainId) -> Result<Option<Arc<dyn WriteAt>>>;

    /// Deletes the map of a chain. A map that is missing is no error.
    ///
    /// # Errors
    /// `Io`.
    fn discard_flat(&self, chain: ChainId) -> Result<()>;
}

/// One open flattened map.
pub(super) struct Flat {
    file: Arc<dyn WriteAt>,
    end: AtomicU64,
}

impl Flat {
    /// Opens the map of a chain whose disk has this number of ranges. `None` where this process cannot write maps,
    /// or the map that is there cannot be replaced.
    pub(super) fn open(store: &dyn FlatStore, chain: ChainId, ranges: u64) -> Result<Option<Self>> {
        let mut header = Vec::with_capacity(48);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&ranges.to_le_bytes());
        header.extend_from_slice(&chain.to_bytes());
        let Some(file) = store.open_flat(chain)? else {
            return Ok(None);
        };
        if let Some(flat) = Self::over(file, &header, ranges)? {
            return Ok(Some(flat));
        }
        store.discard_flat(chain)?;
        let Some(file) = store.open_flat(chain)? else {
            return Ok(None);
        };
        Self::over(file, &header, ranges)
    }

    /// The map in a file that is empty or has this header.
    fn over(file: Arc<dyn WriteAt>, header: &[u8], ranges: u64) -> Result<Option<Self>> {
        let first = TABLE_AT + ranges * 8;
        if file.size_bytes() == 0 {
            file.set_size(first)?;
            file.write_at(0, header)?;
        }
        let mut found = vec![0; header.len()];
        if file.size_bytes() < first || file.read_at(0, &mut found).is_err() || found != header {
            return Ok(None);
        }
        let end = AtomicU64::new(file.size_bytes());
        Ok(Some(Self { file, end }))
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
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::{Flat, FlatStore};
    use crate::block::WriteAt;
    use crate::block::memory::MemoryDisk;
    use crate::chain::extent::{ExtentLocation, LayerIndex};
    use crate::chain::range::Range;
    use crate::chain::walk::ChainId;
    use crate::error::Result;
    use crate::types::sync::Mutex;
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

    /// Maps by chain.
    #[derive(Default)]
    struct Maps(Mutex<HashMap<ChainId, Arc<MemoryDisk>>>);

    impl FlatStore for Maps {
        fn open_flat(&self, chain: ChainId) -> Result<Option<Arc<dyn WriteAt>>> {
            let mut maps = self.0.lock();
            let file = maps
                .entry(chain)
                .or_insert_with(|| Arc::new(MemoryDisk::new()));
            Ok(Some(Arc::clone(file) as Arc<dyn WriteAt>))
        }
        fn discard_flat(&self, chain: ChainId) -> Result<()> {
            self.0.lock().remove(&chain);
            Ok(())
        }
    }

    #[test]
    fn records_round_trip_and_damage_is_a_miss() {
        let maps = Maps::default();
        let layers = [LayerId::from_bytes([1; 16]), LayerId::from_bytes([2; 16])];
        let chain = ChainId::of(layers);
        let flat = Flat::open(&maps, chain, 3).unwrap().unwrap();
        assert!(flat.load(1).is_none());
        flat.store(1, &sample()).unwrap();
        assert_eq!(flat.load(1), Some(sample()));
        let again = Flat::open(&maps, chain, 3).unwrap().unwrap();
        assert_eq!(again.load(1), Some(sample()));
        assert!(again.load(2).is_none());
        let file = maps.open_flat(chain).unwrap().unwrap();
        file.write_at(file.size_bytes() - 40, &[9]).unwrap();
        assert!(again.load(1).is_none());
        let other = Flat::open(&maps, ChainId::of([layers[0]]), 3)
            .unwrap()
            .unwrap();
        assert!(other.load(1).is_none());
    }

    #[test]
    fn a_damaged_map_is_replaced_and_not_rewritten_under_its_readers() {
        let maps = Maps::default();
        let chain = ChainId::of([LayerId::from_bytes([1; 16])]);
        let reader = Flat::open(&maps, chain, 3).unwrap().unwrap();
        reader.store(1, &sample()).unwrap();
        let file = maps.open_flat(chain).unwrap().unwrap();
        file.write_at(16, &[9]).unwrap();
        let anew = Flat::open(&maps, chain, 3).unwrap().unwrap();
        assert!(anew.load(1).is_none());
        assert_eq!(reader.load(1), Some(sample()));
    }
}
