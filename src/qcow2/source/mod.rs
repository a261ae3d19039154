//! An image with its whole backing chain as one disk, for imports and conversions.
//!
//! # Invariants
//! - Files that images name are opened only through a [`Gate`]; formats are stated, never guessed.
//! - A chain has at most [`DEPTH_MAX`] images, each only once.
//! - An extent is reported as zero or hole only when the tables state it.
//!
//! # Why
//! Chains of layers in a repository are resolved once into a flat map. Here an image is read only once, so
//! each piece walks down the chain and takes runs of equal kind.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod backing;
mod gate;

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

pub use gate::{Below, DenyAll, Gate, OpenedFile};

use self::backing::{open_backing, open_image};
use super::entry::{CompressedCluster, Mapping};
use super::image::{Image, L2Table};
use crate::block::{Extent, ExtentKind, ReadAt, Weighted, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{GuestOffset, HostOffset};

/// LIMIT: images in one chain.
pub const DEPTH_MAX: usize = 1_024;

/// LIMIT: bytes of cached L2 tables of all images of a chain.
const TABLE_BYTES_MAX: usize = 64 << 20;

/// LIMIT: pieces that one extent combines.
const PIECES_MAX: usize = 1_024;

/// Subclusters of a cluster (specification, "Extended L2 Entries").
const SUBCLUSTERS: u64 = 32;

/// One image of the chain.
enum Level {
    Qcow2(Box<Image>),
    Raw(Arc<dyn ReadAt>),
}

/// Location of a range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeLocation {
    Hole,
    Zero,
    /// In data clusters of a level.
    Data(usize, HostOffset),
    /// In a compressed cluster of a level, from this byte on.
    Packed(usize, CompressedCluster, u64),
    /// In a raw file.
    Raw(usize),
    /// In the level below.
    Below,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    place: RangeLocation,
    length_bytes: u64,
}

/// The last decompressed cluster: level, host offset, bytes.
type Unpacked = Option<(usize, HostOffset, Arc<[u8]>)>;

/// A QCOW2 disk with its backing chain.
pub struct Source {
    levels: Vec<Level>,
    files: Vec<(PathBuf, Arc<File>)>,
    size_bytes: u64,
    /// L2 tables by level and index.
    tables: Weighted<(usize, u64), Arc<L2Table>>,
    unpacked: Mutex<Unpacked>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({} images)", self.levels.len())
    }
}

fn local_file(opened: &OpenedFile) -> Option<(PathBuf, Arc<File>)> {
    let file = opened.local.as_ref()?;
    Some((opened.path.clone(), Arc::clone(file)))
}

impl Source {
    /// Opens a QCOW2 image and, through `gate`, all files that it names.
    ///
    /// # Errors
    /// As [`Image::open`] and the gate, naming the image; `Corrupt` when the chain is circular;
    /// `LimitExceeded` beyond [`DEPTH_MAX`]; `Unsupported` for a backing format other than raw and qcow2;
    /// `InvalidInput` when the format is not stated.
    pub fn open(top: OpenedFile, gate: &dyn Gate) -> Result<Self> {
        let mut levels = Vec::new();
        let mut files = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some((top, true));
        while let Some((opened, is_qcow2)) = next.take() {
            if levels.len() >= DEPTH_MAX {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("the backing chain has more than {DEPTH_MAX} images"),
                )
                .at_path(&opened.path));
            }
            if opened.identity.is_some_and(|id| !seen.insert(id)) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the backing chain comes back to itself",
                )
                .at_path(&opened.path));
            }
            files.extend(local_file(&opened));
            if !is_qcow2 {
                levels.push(Level::Raw(opened.file));
                break;
            }
            let (image, data_file) = open_image(&opened, gate)?;
            files.extend(data_file.as_ref().and_then(local_file));
            next = open_backing(&opened, &image, gate)?;
            levels.push(Level::Qcow2(Box::new(image)));
        }
        let size_bytes = match levels.first() {
            Some(Level::Qcow2(image)) => image.size_bytes(),
            Some(Level::Raw(file)) => file.size_bytes(),
            None => 0,
        };
        Ok(Self {
            levels,
            files,
            size_bytes,
            tables: Weighted::new(TABLE_BYTES_MAX),
            unpacked: Mutex::new(None),
        })
    }

    /// The local files and devices of the chain, the image's own first, including data files.
    #[must_use]
    pub fn files(&self) -> &[(PathBuf, Arc<File>)] {
        &self.files
    }

    /// Number of images in the chain, including the top one.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The location of the byte at `offset`, and the number of following bytes of the same kind.
    fn piece(&self, offset: u64, length_max: u64) -> Result<Piece> {
        let mut length_bytes = length_max;
        for (number, level) in self.levels.iter().enumerate() {
            let size = match level {
                Level::Raw(file) => file.size_bytes(),
                Level::Qcow2(image) => image.size_bytes(),
            };
            let Some(present) = size.checked_sub(offset).filter(|n| *n > 0) else {
                // A range past the end of a smaller backing file reads as zero.
                break;
            };
            length_bytes = length_bytes.min(present);
            let piece = match level {
                Level::Raw(_) => Piece {
                    place: RangeLocation::Raw(number),
                    length_bytes,
                },
                Level::Qcow2(image) => self.image_piece(number, image, offset, length_bytes)?,
            };
            length_bytes = piece.length_bytes;
            if piece.place != RangeLocation::Below {
                return Ok(piece);
            }
        }
        Ok(Piece {
            place: RangeLocation::Hole,
            length_bytes,
        })
    }

    fn image_piece(
        &self,
        level: usize,
        image: &Image,
        offset: u64,
        length_max: u64,
    ) -> Result<Piece> {
        let bits = image.cluster_bits();
        let cluster = bits.guest_cluster(GuestOffset(offset)).get();
        let entries = image.l2_entries();
        let l1_index = cluster.checked_div(entries).unwrap_or(0);
        let Some(table) = self.table(level, image, l1_index)? else {
            // Nothing is mapped here up to the next table.
            let end = image
                .next_l2(l1_index.saturating_add(1))
                .and_then(|next| next.checked_mul(entries))
                .and_then(|cluster| cluster.checked_mul(bits.size_bytes()))
                .unwrap_or(u64::MAX);
            return Ok(Piece {
                place: RangeLocation::Below,
                length_bytes: length_max.min(end.saturating_sub(offset)),
            });
        };
        let index = cluster.checked_rem(entries).unwrap_or(0);
        let mapping = table.mapping(index)?;
        let within = bits.within(offset);
        let in_cluster = bits.size_bytes().saturating_sub(within);
        let place = match mapping {
            Mapping::Unallocated => RangeLocation::Below,
            Mapping::Zero { .. } => RangeLocation::Zero,
            Mapping::Data(host) => RangeLocation::Data(level, advanced(host, within)?),
            Mapping::Compressed(packed) => {
                return Ok(Piece {
                    place: RangeLocation::Packed(level, packed, within),
                    length_bytes: length_max.min(in_cluster),
                });
            }
            Mapping::Subclusters {
                host,
                allocated,
                zero,
            } => {
                let sub_bytes = bits.size_bytes() / SUBCLUSTERS;
                let (kind, end) = subcluster_run(allocated, zero, within, sub_bytes);
                let place = match (kind, host) {
                    (Subcluster::Zero, _) => RangeLocation::Zero,
                    (Subcluster::Allocated, Some(host)) => {
                        RangeLocation::Data(level, advanced(host, within)?)
                    }
                    _ => RangeLocation::Below,
                };
                return Ok(Piece {
                    place,
                    length_bytes: length_max.min(end.saturating_sub(within)),
                });
            }
        };
        let mut length_bytes = in_cluster;
        let mut previous = mapping;
        for next_index in index.saturating_add(1)..table.len() {
            if length_bytes >= length_max {
                break;
            }
            // A wrong entry is reported when its own bytes are read.
            let Ok(next) = table.mapping(next_index) else {
                break;
            };
            if !continues(previous, next, bits.size_bytes()) {
                break;
            }
            previous = next;
            length_bytes = length_bytes.saturating_add(bits.size_bytes());
        }
        Ok(Piece {
            place,
            length_bytes: length_bytes.min(length_max),
        })
    }

    fn table(&self, level: usize, image: &Image, l1_index: u64) -> Result<Option<Arc<L2Table>>> {
        if let Some(table) = self.tables.get(&(level, l1_index)) {
            return Ok(Some(table));
        }
        let Some(table) = image.load_l2(l1_index)? else {
            return Ok(None);
        };
        let table = Arc::new(table);
        self.tables
            .put((level, l1_index), Arc::clone(&table), table.byte_len());
        Ok(Some(table))
    }

    fn read_piece(&self, piece: Piece, offset: u64, buf: &mut [u8]) -> Result<()> {
        match piece.place {
            RangeLocation::Hole | RangeLocation::Zero | RangeLocation::Below => {
                buf.fill(0);
                Ok(())
            }
            RangeLocation::Raw(level) => match self.levels.get(level) {
                Some(Level::Raw(file)) => file.read_at(offset, buf),
                _ => Err(no_level(level)),
            },
            RangeLocation::Data(level, host) => self.image(level)?.read_data(host, buf),
            RangeLocation::Packed(level, packed, within) => {
                let image = self.image(level)?;
                if u64_from_usize(buf.len()) == image.cluster_bits().size_bytes() {
                    return image.read_compressed(packed, buf);
                }
                let bytes = self.unpack(level, image, packed)?;
                let start = usize_from_u64(within);
                let part = start
                    .checked_add(buf.len())
                    .and_then(|end| bytes.get(start..end))
                    .ok_or_else(|| Error::invalid("a read passes the end of its cluster"))?;
                buf.copy_from_slice(part);
                Ok(())
            }
        }
    }

    fn unpack(&self, level: usize, image: &Image, packed: CompressedCluster) -> Result<Arc<[u8]>> {
        if let Some((at, host, bytes)) = &*self.unpacked.lock()
            && (*at, *host) == (level, packed.host)
        {
            return Ok(Arc::clone(bytes));
        }
        let mut bytes = vec![0; usize_from_u64(image.cluster_bits().size_bytes())];
        image.read_compressed(packed, &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        *self.unpacked.lock() = Some((level, packed.host, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn image(&self, level: usize) -> Result<&Image> {
        match self.levels.get(level) {
            Some(Level::Qcow2(image)) => Ok(image),
            _ => Err(no_level(level)),
        }
    }

    fn kind_of(&self, piece: Piece, offset: u64) -> Result<Extent> {
        let kind = match piece.place {
            RangeLocation::Hole | RangeLocation::Below => ExtentKind::Hole,
            RangeLocation::Zero => ExtentKind::Zero,
            RangeLocation::Data(..) | RangeLocation::Packed(..) => ExtentKind::Data,
            RangeLocation::Raw(level) => {
                return match self.levels.get(level) {
                    Some(Level::Raw(file)) => file.extent_at(offset, piece.length_bytes),
                    _ => Err(no_level(level)),
                };
            }
        };
        Ok(Extent {
            kind,
            length_bytes: piece.length_bytes,
        })
    }
}

impl ReadAt for Source {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes, offset, u64_from_usize(buf.len()))?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let piece = self.piece(at, u64_from_usize(rest.len()))?;
            let (part, after) = rest
                .split_at_mut_checked(usize_from_u64(piece.length_bytes).max(1))
                .ok_or_else(|| Error::invalid("a piece is longer than was asked for"))?;
            self.read_piece(piece, at, part)?;
            at = at.saturating_add(piece.length_bytes);
            rest = after;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.size_bytes, offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        let mut whole = self.kind_of(self.piece(offset, length_max)?, offset)?;
        for _ in 1..PIECES_MAX {
            let rest = length_max.saturating_sub(whole.length_bytes);
            if rest == 0 {
                break;
            }
            let at = offset.saturating_add(whole.length_bytes);
            // As above: an unreadable piece is reported when it is read.
            let Ok(next) = self.piece(at, rest).and_then(|p| self.kind_of(p, at)) else {
                break;
            };
            if next.kind != whole.kind {
                break;
            }
            whole.length_bytes = whole.length_bytes.saturating_add(next.length_bytes);
        }
        Ok(whole)
    }
}

fn no_level(level: usize) -> Error {
    Error::invalid(format!("the chain has no such image {level}"))
}

fn advanced(host: HostOffset, by: u64) -> Result<HostOffset> {
    host.checked_add(by)
        .ok_or_else(|| Error::corrupt("a host offset overflows", "below 2^64", host))
}

/// Whether `next` continues `previous`, which maps the cluster before.
fn continues(previous: Mapping, next: Mapping, cluster_bytes: u64) -> bool {
    match (previous, next) {
        (Mapping::Unallocated, Mapping::Unallocated)
        | (Mapping::Zero { .. }, Mapping::Zero { .. }) => true,
        (Mapping::Data(a), Mapping::Data(b)) => a.checked_add(cluster_bytes) == Some(b),
        _ => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Subcluster {
    Below,
    Allocated,
    Zero,
}

/// The kind of the subcluster at byte `within` of its cluster, and the end of the run of the same kind.
fn subcluster_run(allocated: u32, zero: u32, within: u64, sub_bytes: u64) -> (Subcluster, u64) {
    let kind_of = |index: u64| {
        let mask = u32::try_from(index)
            .ok()
            .and_then(|shift| 1_u32.checked_shl(shift))
            .unwrap_or(0);
        if allocated & mask != 0 {
            Subcluster::Allocated
        } else if zero & mask != 0 {
            Subcluster::Zero
        } else {
            Subcluster::Below
        }
    };
    let first = within.checked_div(sub_bytes).unwrap_or(0);
    let kind = kind_of(first);
    let end = (first..SUBCLUSTERS)
        .find(|index| kind_of(*index) != kind)
        .unwrap_or(SUBCLUSTERS);
    (kind, end.saturating_mul(sub_bytes))
}
