//! Sums of a layer: the hashes that prove every bit of it.
//!
//! # On-disk layout
//! All integers little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `RFSSUMS1` |
//! | 8 | 32 | BLAKE3 of everything from offset 40 on |
//! | 40 | 4 | version, 1 |
//! | 44 | 4 | flags, 0 |
//! | 48 | 16 | `layer_id` |
//! | 64 | 8 | size of the disk in bytes as of this layer |
//! | 72 | 8 | size of the layer file in bytes |
//! | 80 | 8 | R: regions of the disk |
//! | 88 | 8 | T: touched regions |
//! | 96 | 8 | M: metadata host clusters |
//! | 104 | 32 R | hash of each region of the disk as of this layer |
//! | | 16 T | touched regions, ascending: number (u64), leaves held (u32), 0 (u32) |
//! | | 40 M | metadata clusters, ascending: host cluster (u64), BLAKE3 of its 64 KiB |
//! | | | per touched region: bitmap of 1,024 bytes (bit i of byte i/8 = cluster i is held), then 32 bytes for each held cluster |
//!
//! # Invariants
//! A held cluster is one that the layer maps itself (data, compressed or zero). The file ends with the last
//! leaf.

use std::sync::Arc;

use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, HostCluster, LayerId};

use super::content::{LEAVES_PER_REGION, Region, content_root, set_leaf};

const MAGIC: &[u8; 8] = b"RFSSUMS1";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 104;
/// The file's own hash covers everything from here on.
const HASHED_FROM: u64 = 40;
const BITMAP_BYTES: usize = LEAVES_PER_REGION / 8;
/// LIMIT: 16 TiB disks have 32,768 regions; QCOW2's L1 limit of 32 MiB allows 4,194,304 (2 EiB).
const REGIONS_MAX: u64 = 1 << 22;

/// One touched region in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The region.
    pub region: Region,
    /// Bit i: cluster i of the region is held by the layer.
    pub bitmap: Vec<u8>,
    /// The leaves of the held clusters, in order.
    pub leaves: Vec<u8>,
}

impl Touched {
    /// Takes the leaves of the held clusters out of a page.
    #[must_use]
    pub fn pick(region: Region, held: impl Fn(usize) -> bool, page: &[u8]) -> Self {
        let mut touched = Self {
            region,
            bitmap: vec![0; BITMAP_BYTES],
            leaves: Vec::new(),
        };
        for (index, leaf) in page.chunks_exact(Digest::BYTES).enumerate() {
            if held(index) {
                if let Some(byte) = touched.bitmap.get_mut(index / 8) {
                    *byte |= 1 << (index % 8);
                }
                touched.leaves.extend_from_slice(leaf);
            }
        }
        touched
    }

    /// Copies the held leaves for which `wanted` returns true into `page`.
    pub fn spread(&self, page: &mut [u8], mut wanted: impl FnMut(usize) -> bool) {
        let mut leaves = self.leaves.chunks_exact(Digest::BYTES);
        for index in 0..LEAVES_PER_REGION {
            if self.holds(index)
                && let Some(leaf) = leaves.next().and_then(|l| l.try_into().ok())
                && wanted(index)
            {
                set_leaf(page, index, &Digest(leaf));
            }
        }
    }

    /// Whether the layer holds cluster `index` of the region.
    #[must_use]
    pub fn holds(&self, index: usize) -> bool {
        self.bitmap
            .get(index / 8)
            .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }
}

/// Header and tables of a sums file; leaves are read on demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The layer to which the sums belong.
    pub layer_id: LayerId,
    /// Size of the disk in bytes as of this layer.
    pub size_bytes: u64,
    /// Size of the layer file in bytes.
    pub layer_bytes: u64,
    /// Hash of each region of the disk as of this layer.
    pub regions: Vec<Digest>,
    /// BLAKE3 of each metadata host cluster of the layer file.
    pub metadata: Vec<(HostCluster, Digest)>,
}

impl Summary {
    /// Content root of the disk as of this layer.
    #[must_use]
    pub fn content_root(&self) -> Digest {
        content_root(self.size_bytes, &self.regions)
    }
}

/// Writes a sums file front to back: tables first, then region by region, so that memory is bounded.
pub struct SumsWriter {
    file: Arc<dyn WriteAt>,
    hasher: blake3::Hasher,
    at: u64,
}

impl SumsWriter {
    /// Begins a file. `touched` lists the regions that will be appended, ascending, with the number of
    /// leaves held in each.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn create(
        file: Arc<dyn WriteAt>,
        summary: &Summary,
        touched: &[(Region, u32)],
    ) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&summary.layer_id.to_bytes());
        for number in [
            summary.size_bytes,
            summary.layer_bytes,
            u64_from_usize(summary.regions.len()),
            u64_from_usize(touched.len()),
            u64_from_usize(summary.metadata.len()),
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for region in &summary.regions {
            bytes.extend_from_slice(&region.0);
        }
        for (region, held) in touched {
            bytes.extend_from_slice(&region.0.to_le_bytes());
            bytes.extend_from_slice(&held.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        for (cluster, digest) in &summary.metadata {
            bytes.extend_from_slice(&cluster.0.to_le_bytes());
            bytes.extend_from_slice(&digest.0);
        }
        let mut writer = Self {
            file,
            hasher: blake3::Hasher::new(),
            at: HASHED_FROM,
        };
        writer.put(&bytes)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_at(self.at, bytes)?;
        self.at += u64_from_usize(bytes.len());
        Ok(())
    }

    /// Appends one region.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn append(&mut self, touched: &Touched) -> Result<()> {
        self.put(&touched.bitmap)?;
        self.put(&touched.leaves)
    }

    /// Writes magic and hash, and makes the file durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn finish(self) -> Result<()> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(self.hasher.finalize().as_bytes());
        self.file.write_at(0, &head)?;
        self.file.flush()
    }
}

/// Open sums of a committed layer.
pub type LayerSums = Sums<Arc<dyn ReadAt>>;

/// An open sums file.
pub struct Sums<R> {
    file: R,
    summary: Summary,
    /// Touched regions: number, held leaves, offset of the bitmap.
    touched: Vec<(Region, u32, u64)>,
}

impl<R: ReadAt> Sums<R> {
    /// Reads header and tables. [`Sums::verify`] checks the file's own hash; this call does not.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` (a newer version), `Io`.
    pub fn open(file: R) -> Result<Self> {
        let size = file.size_bytes();
        let cut = || {
            Error::corrupt(
                "a sums file is cut short",
                format!("at least {HEADER_BYTES} bytes"),
                size,
            )
        };
        if size < HEADER_BYTES {
            return Err(cut());
        }
        let header = read_vec(&file, 0, HEADER_BYTES)?;
        if header.get(..8) != Some(MAGIC.as_slice()) {
            return Err(
                Error::corrupt("not a sums file", "magic RFSSUMS1", "something else").at_offset(0),
            );
        }
        let version = u32::from_le_bytes(array(&header, 40)?);
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "sums of version {version}, this release reads {VERSION}"
            ))
            .advise("use the release that wrote them, or a newer one"));
        }
        let number = |at: usize| array(&header, at).map(u64::from_le_bytes);
        let (regions, touched, metadata) = (number(80)?, number(88)?, number(96)?);
        let disk_bytes = number(64)?;
        if regions > REGIONS_MAX || regions != Region::count(disk_bytes) {
            return Err(Error::corrupt(
                "wrong number of regions",
                Region::count(disk_bytes),
                regions,
            )
            .at_offset(80));
        }
        if touched > regions {
            return Err(
                Error::corrupt("more regions touched than there are", regions, touched)
                    .at_offset(88),
            );
        }
        // Counts are checked against the file's size before memory is allocated for them.
        let tables = metadata
            .checked_mul(40)
            .and_then(|m| m.checked_add(regions * 32 + touched * 16));
        let tables = tables
            .filter(|t| t.checked_add(HEADER_BYTES).is_some_and(|end| end <= size))
            .ok_or_else(cut)?;
        let bytes = read_vec(&file, HEADER_BYTES, tables)?;
        let (region_bytes, rest) = bytes.split_at(usize_from_u64(regions * 32));
        let (touched_bytes, metadata_bytes) = rest.split_at(usize_from_u64(touched * 16));
        let mut at = HEADER_BYTES + tables;
        let mut index: Vec<(Region, u32, u64)> = Vec::with_capacity(usize_from_u64(touched));
        for entry in touched_bytes.chunks_exact(16) {
            let region = Region(u64::from_le_bytes(array(entry, 0)?));
            let held = u32::from_le_bytes(array(entry, 8)?);
            let after = index.last().is_none_or(|&(last, ..)| last < region);
            if !after || region.0 >= regions || usize_from_u64(held.into()) > LEAVES_PER_REGION {
                return Err(Error::corrupt(
                    "the table of touched regions is out of order or range",
                    "ascending regions",
                    region.0,
                ));
            }
            index.push((region, held, at));
            at += u64_from_usize(BITMAP_BYTES) + u64::from(held) * 32;
        }
        if at != size {
            return Err(Error::corrupt("a sums file has the wrong size", at, size));
        }
        let digests = region_bytes
            .chunks_exact(32)
            .map(|c| array(c, 0).map(Digest))
            .collect::<Result<_>>()?;
        let metadata = metadata_bytes
            .chunks_exact(40)
            .map(|c| {
                Ok((
                    HostCluster(u64::from_le_bytes(array(c, 0)?)),
                    Digest(array(c, 8)?),
                ))
            })
            .collect::<Result<_>>()?;
        let summary = Summary {
            layer_id: LayerId::from_bytes(array(&header, 48)?),
            size_bytes: disk_bytes,
            layer_bytes: number(72)?,
            regions: digests,
            metadata,
        };
        Ok(Self {
            file,
            summary,
            touched: index,
        })
    }

    /// Header and tables.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Size of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    /// Frees the region hashes, which only the topmost layer of a chain needs.
    pub fn forget_regions(&mut self) {
        self.summary.regions = Vec::new();
    }

    /// The regions that the layer touches, ascending, with the number of clusters that it holds there.
    pub fn touched(&self) -> impl Iterator<Item = (Region, u32)> + '_ {
        self.touched.iter().map(|&(region, held, _)| (region, held))
    }

    /// The bitmap of one region (bit i of byte i/8: cluster i is held), without the leaves; `None` when the layer does
    /// not touch it.
    ///
    /// # Errors
    /// `Io`.
    pub fn load_bitmap(&self, region: Region) -> Result<Option<Vec<u8>>> {
        let Ok(ix) = self.touched.binary_search_by_key(&region, |&(r, ..)| r) else {
            return Ok(None);
        };
        let place = self.touched.get(ix).map(|&(_, _, at)| at);
        let bitmap = place.map(|at| read_vec(&self.file, at, u64_from_usize(BITMAP_BYTES)));
        bitmap.transpose()
    }

    /// Bitmap and leaves of one region; `None` when the layer does not touch it.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn load_region(&self, region: Region) -> Result<Option<Touched>> {
        let Ok(ix) = self.touched.binary_search_by_key(&region, |&(r, ..)| r) else {
            return Ok(None);
        };
        let Some(&(_, held, at)) = self.touched.get(ix) else {
            return Ok(None);
        };
        let mut bitmap = read_vec(
            &self.file,
            at,
            u64_from_usize(BITMAP_BYTES) + u64::from(held) * 32,
        )?;
        let leaves = bitmap.split_off(BITMAP_BYTES);
        let set: u32 = bitmap.iter().map(|byte| byte.count_ones()).sum();
        if set != held {
            return Err(Error::corrupt(
                "a bitmap in the sums has the wrong number of bits",
                held,
                set,
            )
            .at_offset(at));
        }
        Ok(Some(Touched {
            region,
            bitmap,
            leaves,
        }))
    }

    /// Proves the file against its own hash.
    ///
    /// # Errors
    /// `Corrupt` when they differ; `Io`.
    pub fn verify(&self) -> Result<()> {
        let mut stated = [0; 32];
        self.file.read_at(8, &mut stated)?;
        let mut hasher = blake3::Hasher::new();
        let (mut at, size) = (HASHED_FROM, self.file.size_bytes());
        let mut buf = vec![0; 1 << 20];
        while at < size {
            let length = usize_from_u64((size - at).min(1 << 20));
            let part = buf.get_mut(..length).unwrap_or_default();
            self.file.read_at(at, part)?;
            hasher.update(part);
            at += u64_from_usize(length);
        }
        let found = Digest::from(hasher.finalize());
        if found != Digest(stated) {
            return Err(Error::corrupt(
                "a sums file does not match its own hash",
                Digest(stated),
                found,
            ));
        }
        Ok(())
    }
}

fn read_vec(file: &impl ReadAt, offset: u64, length_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize_from_u64(length_bytes)];
    file.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "a sums file is cut short").at_offset(u64_from_usize(at))
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Result, Summary, Sums, SumsWriter, Touched};
    use crate::block::memory::MemoryDisk;
    use crate::block::{ReadAt, WriteAt};
    use crate::repo::content::{Region, set_leaf, zero_page, zero_region};
    use crate::types::width::usize_from_u64;
    use crate::types::{Digest, HostCluster, LayerId};

    fn encode(summary: &Summary, touched: &[Touched]) -> Vec<u8> {
        let file: Arc<dyn WriteAt> = Arc::new(MemoryDisk::new());
        let table: Vec<_> = touched
            .iter()
            .map(|t| (t.region, u32::try_from(t.leaves.len() / 32).unwrap()))
            .collect();
        let mut writer = SumsWriter::create(Arc::clone(&file), summary, &table).unwrap();
        for region in touched {
            writer.append(region).unwrap();
        }
        writer.finish().unwrap();
        let mut bytes = vec![0; usize_from_u64(file.size_bytes())];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Sums<MemoryDisk>> {
        let file = MemoryDisk::new();
        file.write_at(0, bytes).unwrap();
        Sums::open(file)
    }

    fn golden() -> (Summary, Vec<Touched>) {
        let summary = Summary {
            layer_id: LayerId::from_bytes([3; 16]),
            size_bytes: 1 << 30,
            layer_bytes: 262_144,
            regions: vec![zero_region(), Digest([9; 32])],
            metadata: vec![
                (HostCluster(0), Digest([1; 32])),
                (HostCluster(3), Digest([2; 32])),
            ],
        };
        let mut page = zero_page().to_vec();
        set_leaf(&mut page, 5, &Digest([5; 32]));
        set_leaf(&mut page, 8000, &Digest([8; 32]));
        (
            summary,
            vec![Touched::pick(Region(1), |i| i == 5 || i == 8000, &page)],
        )
    }

    #[test]
    fn round_trip() {
        let (summary, touched) = golden();
        let sums = open(&encode(&summary, &touched)).unwrap();
        sums.verify().unwrap();
        assert_eq!(sums.summary(), &summary);
        assert_eq!(sums.load_region(Region(0)).unwrap(), None);
        assert_eq!(
            sums.load_region(Region(1)).unwrap().as_ref(),
            touched.first()
        );
        let mut page = zero_page().to_vec();
        touched[0].spread(&mut page, |i| i != 5);
        assert_eq!(crate::repo::content::data_leaves(&page), 1);
    }

    #[test]
    fn any_flipped_bit_is_found_and_never_panics() {
        let (summary, touched) = golden();
        let good = encode(&summary, &touched);
        for byte in 0..good.len() {
            for bit in [0, 7] {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                let verdict = open(&bad).and_then(|s| s.verify());
                assert!(verdict.is_err(), "byte {byte} bit {bit}");
            }
        }
    }

    #[test]
    fn every_cut_is_found() {
        let (summary, touched) = golden();
        let good = encode(&summary, &touched);
        for length in (0..good.len()).step_by(7) {
            assert!(open(&good[..length]).is_err(), "{length}");
        }
    }
}
