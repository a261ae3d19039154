//! Entries of L1 and L2 tables, which locate guest clusters: decoding and encoding.
//!
//! # On-disk layout
//! QEMU `docs/interop/qcow2.rst`, "Cluster mapping"; 64 bits, big-endian.
//!
//! | entry | bits |
//! |---|---|
//! | L1 | 9-55 offset of the L2 table, 63 its refcount is 1, others 0 |
//! | L2, standard | 0 reads as zero, 9-55 host offset, 62 is 0, 63 refcount is 1, others 0 |
//! | L2, compressed | 62 is 1; with x = 62 - (cluster_bits - 8): 0..x host offset in bytes, x..62 further sectors |
//!
//! With extended L2 entries a second word follows: bits 0-31 mark the allocated ones of 32 subclusters, bits
//! 32-63 those that read as zero; bit 0 of the first word is then reserved.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::header::Header;
use crate::error::{Error, Result};
use crate::types::{ClusterBits, HostOffset};

/// Bit 63: the refcount of the cluster is exactly 1.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const L1_RESERVED: u64 = !(COPIED | OFFSET_MASK);
const L2_RESERVED: u64 = !(COPIED | COMPRESSED | OFFSET_MASK | ZERO);
const SECTOR_BYTES: u64 = 512;

/// A compressed cluster in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompressedCluster {
    /// Its first byte; any alignment.
    pub host: HostOffset,
    /// Bytes up to the end of the last sector that it touches: at least its own length, at most 511 more.
    pub length_bytes: u32,
}

impl CompressedCluster {
    /// The cluster of `length_bytes` at `host`, extended to whole sectors as in an L2 entry.
    pub(super) fn of(host: HostOffset, length_bytes: u64) -> Option<Self> {
        let end = host
            .get()
            .checked_add(length_bytes)?
            .checked_next_multiple_of(SECTOR_BYTES)?;
        Some(Self {
            host,
            length_bytes: u32::try_from(end.checked_sub(host.get())?).ok()?,
        })
    }
}

/// Location of a guest cluster's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// Not in this image: in the backing file, or zero without one.
    Unallocated,
    /// Reads as zero; a host cluster may be reserved for it.
    Zero {
        /// The reserved host cluster.
        host: Option<HostOffset>,
    },
    /// One host cluster, uncompressed.
    Data(HostOffset),
    /// Compressed.
    Compressed(CompressedCluster),
    /// Subclusters differ (extended L2 entries only). A subcluster is 1/32 of a cluster, and bit 0 is the
    /// first one. A subcluster that is neither allocated nor zero is in the backing file.
    Subclusters {
        /// The host cluster; always present when a subcluster is allocated.
        host: Option<HostOffset>,
        /// Subclusters with their bytes in `host`.
        allocated: u32,
        /// Subclusters that read as zero.
        zero: u32,
    },
}

/// The properties of an image that decoding an entry needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) cluster_bits: ClusterBits,
    pub(super) version: u32,
    pub(super) is_extended: bool,
    /// Guest data lie in another file, whose size is unknown here.
    pub(super) is_external: bool,
    /// Size of the image's own file.
    pub(super) file_bytes: u64,
}

impl Layout {
    pub(super) fn new(header: &Header, file_bytes: u64) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            version: header.version,
            is_extended: header.has_extended_l2(),
            is_external: header.has_data_file(),
            file_bytes,
        }
    }

    /// Number of bits of the host offset in a compressed entry.
    const fn compressed_shift(self) -> u32 {
        // cluster_bits is 9 to 21.
        62_u32.saturating_sub(self.cluster_bits.get().saturating_sub(8))
    }

    /// Offset of the L2 table in an L1 entry; `None` when the entry has none.
    pub(super) fn decode_l1(self, entry: u64) -> Result<Option<HostOffset>> {
        if entry & L1_RESERVED != 0 {
            return Err(bad("reserved bits of an L1 entry are set", "0", entry));
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if self.cluster_bits.within(offset) != 0 {
            return Err(bad(
                "an L2 table is not aligned to a cluster",
                "an aligned offset",
                offset,
            ));
        }
        let end = offset.checked_add(self.cluster_bits.size_bytes());
        if end.is_none_or(|end| end > self.file_bytes) {
            return Err(bad(
                "an L2 table passes the end of the file",
                format!("an end of at most {:#x}", self.file_bytes),
                offset,
            ));
        }
        Ok(Some(HostOffset(offset)))
    }

    /// Decodes and checks an L2 entry; `bitmap` is the second word of an extended one.
    pub(super) fn decode_l2(self, entry: u64, bitmap: u64) -> Result<Mapping> {
        if entry & COMPRESSED != 0 {
            return self.decode_compressed(entry);
        }
        let reserved = if self.is_extended || self.version < 3 {
            L2_RESERVED | ZERO
        } else {
            L2_RESERVED
        };
        if entry & reserved != 0 {
            return Err(bad("reserved bits of an L2 entry are set", "0", entry));
        }
        let offset = entry & OFFSET_MASK;
        if self.cluster_bits.within(offset) != 0 {
            return Err(bad(
                "a data cluster is not aligned",
                "an aligned offset",
                offset,
            ));
        }
        // Only an external data file can have data at offset 0; bit 63 then marks it.
        let host = (offset != 0 || (self.is_external && entry & COPIED != 0))
            .then_some(HostOffset(offset));
        if self.is_extended {
            return self.decode_subclusters(host, bitmap);
        }
        if entry & ZERO != 0 {
            return Ok(Mapping::Zero { host });
        }
        match host {
            None => Ok(Mapping::Unallocated),
            Some(host) => {
                self.check_data(host)?;
                Ok(Mapping::Data(host))
            }
        }
    }

    fn decode_subclusters(self, host: Option<HostOffset>, bitmap: u64) -> Result<Mapping> {
        let (zero, allocated) = (high(bitmap), low(bitmap));
        if zero & allocated != 0 {
            return Err(bad(
                "subclusters are both allocated and zero",
                "one of the two",
                bitmap,
            ));
        }
        match host {
            None if allocated != 0 => Err(bad(
                "subclusters are allocated without a host cluster",
                "a host offset",
                bitmap,
            )),
            _ if zero == u32::MAX => Ok(Mapping::Zero { host }),
            None if zero == 0 => Ok(Mapping::Unallocated),
            Some(host) if allocated == u32::MAX => {
                self.check_data(host)?;
                Ok(Mapping::Data(host))
            }
            _ => {
                if let (Some(host), true) = (host, allocated != 0) {
                    self.check_data(host)?;
                }
                Ok(Mapping::Subclusters {
                    host,
                    allocated,
                    zero,
                })
            }
        }
    }

    fn decode_compressed(self, entry: u64) -> Result<Mapping> {
        if self.is_external {
            return Err(bad(
                "a compressed cluster in an image with an external data file",
                "none",
                entry,
            ));
        }
        if entry & COPIED != 0 {
            return Err(bad(
                "a compressed cluster has the flag of a refcount of 1",
                "bit 63 clear",
                entry,
            ));
        }
        let shift = self.compressed_shift();
        let (host, sectors) = split(entry & !(COPIED | COMPRESSED), shift);
        let length = sectors
            .saturating_add(1)
            .saturating_mul(SECTOR_BYTES)
            .saturating_sub(host % SECTOR_BYTES);
        let end = host.checked_add(length);
        let file_end = self.file_bytes.checked_next_multiple_of(SECTOR_BYTES);
        let in_file = host != 0 && host < self.file_bytes && end.is_some() && end <= file_end;
        match u32::try_from(length) {
            Ok(length_bytes) if in_file => Ok(Mapping::Compressed(CompressedCluster {
                host: HostOffset(host),
                length_bytes,
            })),
            _ => Err(bad(
                "a compressed cluster passes the end of the file",
                format!("an end of at most {:#x}", self.file_bytes),
                host,
            )),
        }
    }

    fn check_data(self, host: HostOffset) -> Result<()> {
        if self.is_external || host.get() < self.file_bytes {
            return Ok(());
        }
        Err(bad(
            "a data cluster is beyond the end of the file",
            format!("an offset below {:#x}", self.file_bytes),
            host.get(),
        ))
    }

    /// The L2 entry of a mapping in an image without extended entries; `None` when it has no representation
    /// there.
    pub(super) fn encode_l2(self, mapping: Mapping) -> Option<u64> {
        let placed = |host: HostOffset| {
            let is_good = host.get() != 0
                && self.cluster_bits.within(host.get()) == 0
                && host.get() & OFFSET_MASK == host.get();
            is_good.then_some(host.get() | COPIED)
        };
        match mapping {
            Mapping::Unallocated => Some(0),
            Mapping::Zero { host: None } => Some(ZERO),
            Mapping::Zero { host: Some(host) } => placed(host).map(|entry| entry | ZERO),
            Mapping::Data(host) => placed(host),
            Mapping::Compressed(cluster) => {
                let shift = self.compressed_shift();
                let start = cluster.host.get();
                let last = start.checked_add(u64::from(cluster.length_bytes).checked_sub(1)?)?;
                let sectors = (last / SECTOR_BYTES).checked_sub(start / SECTOR_BYTES)?;
                let fits = start != 0
                    && start.checked_shr(shift) == Some(0)
                    && sectors < self.cluster_bits.size_bytes() >> 8;
                fits.then_some(COMPRESSED | sectors.checked_shl(shift)? | start)
            }
            Mapping::Subclusters { .. } => None,
        }
    }
}

/// The entry of an L1 table for an L2 table of refcount 1.
pub(super) const fn encode_l1(table: HostOffset) -> u64 {
    table.get() | COPIED
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

fn high(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or_default()
}

/// Splits a word into its low `shift` bits and the rest.
fn split(word: u64, shift: u32) -> (u64, u64) {
    let rest = word.checked_shr(shift).unwrap_or(0);
    let upper = rest.checked_shl(shift).unwrap_or(0);
    (word ^ upper, rest)
}

fn bad(what: &'static str, expected: impl std::fmt::Display, found: u64) -> Error {
    Error::corrupt(what, expected, format!("{found:#x}"))
}

#[cfg(test)]
mod tests {
    use super::{ClusterBits, CompressedCluster, HostOffset, Layout, Mapping};
    use crate::error::ErrorKind;

    fn layout(bits: u32) -> Layout {
        Layout {
            cluster_bits: ClusterBits::new(bits).unwrap(),
            version: 3,
            is_extended: false,
            is_external: false,
            file_bytes: 1 << 40,
        }
    }

    #[test]
    fn entries_round_trip_at_every_cluster_size() {
        for bits in 9..=21 {
            let layout = layout(bits);
            let host = HostOffset(5 << bits);
            for mapping in [
                Mapping::Unallocated,
                Mapping::Zero { host: None },
                Mapping::Zero { host: Some(host) },
                Mapping::Data(host),
                Mapping::Compressed(CompressedCluster::of(HostOffset(1000), 500).unwrap()),
                Mapping::Compressed(CompressedCluster::of(HostOffset(1023), 1).unwrap()),
                Mapping::Compressed(CompressedCluster::of(host, (1 << bits) - 1).unwrap()),
            ] {
                let Some(entry) = layout.encode_l2(mapping) else {
                    panic!("{mapping:?} at {bits}");
                };
                assert_eq!(layout.decode_l2(entry, 0).unwrap(), mapping, "{bits}");
            }
        }
    }

    #[test]
    fn golden_compressed_entry() {
        // 64 KiB clusters: x = 54; host 0x50123, two further sectors.
        let mapping = layout(16).decode_l2(0x4080_0000_0005_0123, 0).unwrap();
        assert_eq!(
            mapping,
            Mapping::Compressed(CompressedCluster {
                host: HostOffset(0x50123),
                length_bytes: 3 * 512 - 0x123,
            })
        );
    }

    #[test]
    fn wrong_entries_are_corrupt() {
        let mut v2 = layout(16);
        v2.version = 2;
        let mut extended = layout(16);
        extended.is_extended = true;
        let mut external = layout(16);
        external.is_external = true;
        for (layout, entry, bitmap, what) in [
            (
                layout(16),
                1 << 1,
                0,
                "reserved bits of an L2 entry are set",
            ),
            (
                layout(16),
                1 << 56,
                0,
                "reserved bits of an L2 entry are set",
            ),
            (v2, 1, 0, "reserved bits of an L2 entry are set"),
            (extended, 1, 0, "reserved bits of an L2 entry are set"),
            (layout(16), 512, 0, "a data cluster is not aligned"),
            (
                layout(16),
                1 << 40,
                0,
                "a data cluster is beyond the end of the file",
            ),
            (
                layout(16),
                1 << 62,
                0,
                "a compressed cluster passes the end of the file",
            ),
            (
                external,
                1 << 62,
                0,
                "a compressed cluster in an image with an external data file",
            ),
            (
                extended,
                0,
                1,
                "subclusters are allocated without a host cluster",
            ),
            (
                extended,
                1 << 16,
                1 << 32 | 1,
                "subclusters are both allocated and zero",
            ),
        ] {
            let error = layout.decode_l2(entry, bitmap).unwrap_err();
            assert_eq!((error.kind(), error.what()), (ErrorKind::Corrupt, what));
        }
        let error = layout(16).decode_l1(1 << 40).unwrap_err();
        assert_eq!(error.what(), "an L2 table passes the end of the file");
        assert!(layout(16).decode_l1(512).is_err());
        assert!(layout(16).decode_l1(1).is_err());
    }
}
