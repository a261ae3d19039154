//! The location of a file's bytes: its extent items, decoded once.
//!
//! # Invariants
//! - Extents are in order and do not overlap. Holes, and space that was allocated but never written, have
//!   none.
//! - Runs are plain only where there is one copy without checksums on the first given device.
//!
//! # On-disk layout
//! Linux, `struct btrfs_file_extent_item`; little-endian. 0 generation, 8 decoded size, 16 compression, 17 encryption, 18 other
//! encoding, 20 type (0 inline, 1 regular, 2 unwritten), 21 inline bytes or address, 29 bytes there, 37 offset in what is decoded,
//! 45 length.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;

use fs_btrfs::chunk::{ChunkProfile, DiskKey};

use super::decode::{PACKED_BYTES_MAX, decode};
use super::pool::Pool;
use crate::block::run::{Run, RunMap, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{le16, le64};
use crate::types::width::u64_from_usize;

/// LIMIT: extents of one file (our limit: about 500 MB of memory; compressed, that many hold 1 TiB).
const EXTENTS_MAX: usize = 8 << 20;
/// Type of extent items.
const EXTENT_DATA: u8 = 108;

/// How the bytes of an extent are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// In the tree.
    Inline(Arc<[u8]>),
    /// At a logical address.
    Plain(u64),
    /// Compressed.
    Packed {
        /// Logical address and length of the compressed bytes.
        logical: u64,
        length: u64,
        /// Length of the decoded bytes, and the offset of the extent in them.
        decoded: u64,
        offset: u64,
        method: u8,
    },
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: Kind,
}

/// A file's extents.
#[derive(Debug, Default)]
pub(super) struct Extents {
    pub(super) list: Vec<Extent>,
    /// Size of the file, and whether its sectors have checksums.
    pub(super) size_bytes: u64,
    pub(super) is_checked: bool,
}

fn corrupt(ino: u64, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("btrfs: an extent of inode {ino} {what}"),
    )
}

/// Parses an item; `None` for an item that reads as zero.
fn parse(ino: u64, start: u64, item: &[u8], sector: u64) -> Result<Option<Extent>> {
    let field = |at| le64(item, at).ok_or_else(|| corrupt(ino, "is too short"));
    let byte = |at: usize| {
        item.get(at)
            .copied()
            .ok_or_else(|| corrupt(ino, "is too short"))
    };
    let (decoded, method, kind) = (field(8)?, byte(16)?, byte(20)?);
    if byte(17)? != 0 || le16(item, 18) != Some(0) {
        return Err(Error::unsupported("btrfs: encrypted files"));
    }
    if method > 3 {
        return Err(Error::unsupported(format!(
            "btrfs: compression of type {method}"
        )));
    }
    if kind == 0 {
        let raw = item.get(21..).unwrap_or_default();
        let bytes: Arc<[u8]> = if method == 0 {
            raw.into()
        } else {
            decode(method, raw, decoded, sector)?.into()
        };
        return Ok((!bytes.is_empty()).then(|| Extent {
            start,
            length: u64_from_usize(bytes.len()),
            kind: Kind::Inline(bytes),
        }));
    }
    let (logical, stored, offset, length) = (field(21)?, field(29)?, field(37)?, field(45)?);
    let aligned = [start, logical, stored, offset, length]
        .iter()
        .all(|n| n.is_multiple_of(sector));
    if !aligned {
        return Err(corrupt(ino, "is not of whole sectors"));
    }
    if kind > 2 {
        return Err(corrupt(ino, "is of no known type"));
    }
    if logical == 0 || kind == 2 {
        return Ok(None);
    }
    let whole = if method == 0 { stored } else { decoded };
    if length == 0 || offset.checked_add(length).is_none_or(|end| end > whole) {
        return Err(corrupt(ino, "passes its own end"));
    }
    let kind = if method == 0 {
        let logical = logical.checked_add(offset);
        Kind::Plain(logical.ok_or_else(|| corrupt(ino, "has no address"))?)
    } else if stored > PACKED_BYTES_MAX || decoded > PACKED_BYTES_MAX {
        return Err(corrupt(ino, "is too large for a compressed one"));
    } else {
        Kind::Packed {
            logical,
            length: stored,
            decoded,
            offset,
            method,
        }
    };
    Ok(Some(Extent {
        start,
        length,
        kind,
    }))
}

impl Extents {
    /// Reads the extent items of an inode in the tree at `root`.
    pub(super) fn load(
        pool: &Pool,
        root: u64,
        ino: u64,
        size_bytes: u64,
        is_checked: bool,
    ) -> Result<Self> {
        let sector = u64::from(pool.superblock.sectorsize);
        let mut list = Vec::new();
        let mut failed = None;
        let first = DiskKey {
            objectid: ino,
            key_type: EXTENT_DATA,
            offset: 0,
        };
        pool.with_trees(|tree| {
            tree.for_each_from(root, &first, &mut |key: &DiskKey, item: &[u8]| {
                if key.objectid != ino || key.key_type != EXTENT_DATA {
                    return Ok(false);
                }
                match parse(ino, key.offset, item, sector) {
                    Ok(extent) => list.extend(extent),
                    Err(error) => failed = Some(error),
                }
                if list.len() > EXTENTS_MAX {
                    failed = Some(Error::new(
                        ErrorKind::LimitExceeded,
                        format!("inode {ino} is in more than {EXTENTS_MAX} pieces"),
                    ));
                }
                Ok(failed.is_none())
            })
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut end = 0;
        for extent in &list {
            if extent.start < end {
                return Err(corrupt(ino, "overlaps the one before"));
            }
            end = extent
                .start
                .checked_add(extent.length)
                .ok_or_else(|| corrupt(ino, "has no end"))?;
        }
        Ok(Self {
            list,
            size_bytes,
            is_checked,
        })
    }

    /// The extent at `offset`, or the next one.
    pub(super) fn at(&self, offset: u64) -> Option<&Extent> {
        let ix = self
            .list
            .partition_point(|extent| extent.start.saturating_add(extent.length) <= offset);
        self.list.get(ix)
    }

    /// The file's map.
    pub(super) fn map(&self, pool: &Pool) -> Result<RunMap<()>> {
        let runs = self.list.iter().flat_map(|extent| self.runs(extent, pool));
        RunMap::new(self.size_bytes, runs)
    }

    fn runs(&self, extent: &Extent, pool: &Pool) -> Vec<Run<()>> {
        let whole = |target| {
            vec![Run {
                start: extent.start,
                length_bytes: extent.length,
                target,
            }]
        };
        match &extent.kind {
            Kind::Inline(bytes) => whole(Target::Inline(Arc::clone(bytes))),
            Kind::Plain(logical) if !self.is_checked => {
                plain(extent, *logical, pool).unwrap_or_else(|| whole(Target::Encoded))
            }
            Kind::Plain(_) | Kind::Packed { .. } => whole(Target::Encoded),
        }
    }
}

/// The runs of an extent that has one copy, on the first device.
fn plain(extent: &Extent, logical: u64, pool: &Pool) -> Option<Vec<Run<()>>> {
    let mut runs = Vec::new();
    let mut done = 0;
    while done < extent.length {
        let at = logical.checked_add(done)?;
        let chunk = pool.map.chunk_for(at)?;
        let mapping = chunk.map(at).ok()?;
        let is_single = matches!(chunk.profile(), Ok(ChunkProfile::Single));
        if !is_single || mapping.devid != pool.first || mapping.len == 0 {
            return None;
        }
        let length_bytes = mapping.len.min(extent.length.saturating_sub(done));
        runs.push(Run {
            start: extent.start.saturating_add(done),
            length_bytes,
            target: Target::Source {
                source: (),
                offset: mapping.physical,
            },
        });
        done = done.saturating_add(length_bytes);
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::{Extent, Kind, parse};
    use crate::error::ErrorKind;

    /// An item of a regular extent.
    fn item(method: u8, kind: u8, numbers: [u64; 5]) -> Vec<u8> {
        let [decoded, rest @ ..] = numbers;
        let mut bytes = vec![0; 8];
        bytes.extend(decoded.to_le_bytes());
        bytes.extend([method, 0, 0, 0, kind]);
        for number in rest {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn kinds_of_extents() {
        let read = |bytes: &[u8]| parse(300, 4096, bytes, 4096);
        let plain = item(0, 1, [8192, 1 << 20, 8192, 4096, 4096]);
        let extent = Extent {
            start: 4096,
            length: 4096,
            kind: Kind::Plain((1 << 20) + 4096),
        };
        assert_eq!(read(&plain).unwrap(), Some(extent));
        let hole = item(0, 1, [8192, 0, 0, 0, 8192]);
        assert_eq!(read(&hole).unwrap(), None);
        let unwritten = item(0, 2, [8192, 1 << 20, 8192, 0, 8192]);
        assert_eq!(read(&unwritten).unwrap(), None);
        let packed = item(3, 1, [131_072, 1 << 20, 4096, 65_536, 65_536]);
        assert!(matches!(
            read(&packed).unwrap().unwrap().kind,
            Kind::Packed { method: 3, .. }
        ));
    }

    #[test]
    fn nonsense_is_damage_and_what_is_beyond_us_is_named() {
        let kind = |bytes: &[u8]| parse(300, 0, bytes, 4096).unwrap_err().kind();
        for bad in [
            item(0, 1, [8192, 1 << 20, 8192, 4096, 8192]),
            item(0, 1, [8192, 1 << 20, 8192, u64::MAX - 4095, 8192]),
            item(0, 1, [8192, 1 << 20, 8192, 0, 0]),
            item(0, 1, [8192, 1, 8192, 0, 4096]),
            item(0, 3, [8192, 1 << 20, 8192, 0, 8192]),
            item(2, 1, [1 << 40, 1 << 20, 4096, 0, 4096]),
            vec![0; 20],
        ] {
            assert_eq!(kind(&bad), ErrorKind::Corrupt, "{bad:?}");
        }
        let mut encrypted = item(0, 1, [8192, 1 << 20, 8192, 0, 8192]);
        encrypted.splice(17..18, [1]);
        assert_eq!(kind(&encrypted), ErrorKind::Unsupported);
        let unknown = item(4, 1, [8192, 1 << 20, 8192, 0, 8192]);
        assert_eq!(kind(&unknown), ErrorKind::Unsupported);
    }
}
