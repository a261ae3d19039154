//! The boot sector, which gives the places of all other structures.
//!
//! # On-disk layout
//! Microsoft, "FAT: General Overview of On-Disk Format" 1.03; little-endian. 11 bytes of a sector, 13 sectors
//! of a cluster, 14 sectors before the tables, 16 number of tables, 17 entries of the root directory, 19 and
//! 32 total sectors, 22 and 36 sectors of a table, 40 which table is in use, 44 first cluster of the root
//! directory, 48 sector with the number of free clusters. The number of clusters determines which of the
//! three formats it is; Linux (`fs/fat/inode.c`) assumes FAT32 where 22 is zero, and so does this reader.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::error::{Error, Result};
use crate::guest::bytes::{le16, le32};

/// Largest number of clusters of FAT12 (Linux: `MAX_FAT12`).
const FAT12_MAX: u64 = 4084;
/// LIMIT: clusters of FAT16 and FAT32 (the format's limits).
const FAT16_MAX: u64 = 65_524;
const FAT32_MAX: u64 = 0x0fff_fff5;
/// The first cluster; lower numbers have another meaning.
pub(super) const FIRST_CLUSTER: u64 = 2;

/// Width of an entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// FAT12.
    Bits12,
    /// FAT16.
    Bits16,
    /// FAT32; 28 bits are used.
    Bits32,
}

/// Location of the root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// A separate area: offset and length in bytes.
    Area(u64, u64),
    /// A chain of clusters that begins with this one.
    Cluster(u64),
}

/// A consistent boot sector.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub(super) width: Width,
    /// Bytes of a cluster.
    pub(super) cluster_bytes: u64,
    /// Number of clusters; the last one's number is one more.
    pub(super) clusters: u64,
    /// Offset of the table in use, and its size in bytes.
    pub(super) table: u64,
    pub(super) table_bytes: u64,
    pub(super) root: Root,
    /// Offset of the first cluster.
    pub(super) data: u64,
    /// Total size in bytes.
    pub(super) total_bytes: u64,
    /// Offset of the sector with the number of free clusters.
    pub(super) free_hint: Option<u64>,
    pub(super) serial: u32,
    /// Whether it was not unmounted cleanly.
    pub(super) is_dirty: bool,
}

fn wrong(what: &'static str, expected: &'static str, found: impl std::fmt::Display) -> Error {
    Error::corrupt(what, expected, found).at_offset(0)
}

impl Boot {
    /// Parses the first 512 bytes of a volume.
    pub(super) fn parse(sector: &[u8]) -> Result<Self> {
        let short = || wrong("the boot sector", "512 bytes", sector.len());
        let word = |at| le16(sector, at).map(u64::from).ok_or_else(short);
        let long = |at| le32(sector, at).map(u64::from).ok_or_else(short);
        let byte = |at: usize| sector.get(at).copied().map(u64::from).ok_or_else(short);
        let sector_bytes = word(11)?;
        if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
            return Err(wrong("bytes of a sector", "512 to 4096", sector_bytes));
        }
        let per_cluster = byte(13)?;
        if !per_cluster.is_power_of_two() {
            return Err(wrong("sectors of a cluster", "a power of two", per_cluster));
        }
        let (reserved, tables) = (word(14)?, byte(16)?);
        if reserved == 0 || tables == 0 {
            return Err(wrong("reserved sectors and tables", "some of both", "none"));
        }
        let is_wide = word(22)? == 0;
        let table_sectors = if is_wide { long(36)? } else { word(22)? };
        let sectors = match word(19)? {
            0 => long(32)?,
            few => few,
        };
        // All values are below 2^32, so no product or sum of them exceeds 2^64.
        let root_bytes = word(17)?.saturating_mul(32);
        let root_sectors = root_bytes.div_ceil(sector_bytes);
        let root_start = reserved.saturating_add(tables.saturating_mul(table_sectors));
        let data_start = root_start.saturating_add(root_sectors);
        let data_sectors = sectors
            .checked_sub(data_start)
            .filter(|n| *n >= per_cluster);
        let Some(data_sectors) = data_sectors.filter(|_| table_sectors > 0) else {
            return Err(wrong("sectors in all", "room for a cluster", sectors));
        };
        let clusters = data_sectors.checked_div(per_cluster).unwrap_or(0);
        let (width, limit) = match (is_wide, clusters) {
            (true, _) => (Width::Bits32, FAT32_MAX),
            (false, 0..=FAT12_MAX) => (Width::Bits12, FAT12_MAX),
            (false, _) => (Width::Bits16, FAT16_MAX),
        };
        let table_bytes = table_sectors.saturating_mul(sector_bytes);
        let described = match width {
            Width::Bits12 => table_bytes.saturating_mul(2).checked_div(3),
            Width::Bits16 => table_bytes.checked_div(2),
            Width::Bits32 => table_bytes.checked_div(4),
        };
        let described = described.unwrap_or(0).saturating_sub(FIRST_CLUSTER);
        if is_wide && word(42)? != 0 {
            return Err(Error::unsupported(format!(
                "FAT32 of version {}.{}",
                byte(43)?,
                byte(42)?
            )));
        }
        // Without mirroring only one of the tables is up to date.
        let active = if is_wide && word(40)? & 0x80 != 0 {
            (word(40)? & 0xf).min(tables.saturating_sub(1))
        } else {
            0
        };
        let root = if is_wide {
            Root::Cluster(long(44)?)
        } else {
            Root::Area(root_start.saturating_mul(sector_bytes), root_bytes)
        };
        Ok(Self {
            width,
            cluster_bytes: per_cluster.saturating_mul(sector_bytes),
            clusters: clusters.min(limit).min(described),
            table: reserved
                .saturating_add(active.saturating_mul(table_sectors))
                .saturating_mul(sector_bytes),
            table_bytes,
            root,
            data: data_start.saturating_mul(sector_bytes),
            total_bytes: sectors.saturating_mul(sector_bytes),
            free_hint: (is_wide && matches!(word(48)?, 1..0xffff))
                .then(|| word(48).map(|n| n.saturating_mul(sector_bytes)))
                .transpose()?,
            serial: le32(sector, if is_wide { 67 } else { 39 }).unwrap_or(0),
            is_dirty: byte(if is_wide { 65 } else { 37 })? & 1 != 0,
        })
    }

    /// Whether a number is that of a cluster.
    pub(super) fn has(&self, cluster: u64) -> bool {
        cluster
            .checked_sub(FIRST_CLUSTER)
            .is_some_and(|n| n < self.clusters)
    }

    /// Offset of a cluster.
    pub(super) fn offset(&self, cluster: u64) -> u64 {
        let n = cluster.saturating_sub(FIRST_CLUSTER);
        self.data
            .saturating_add(n.saturating_mul(self.cluster_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{Boot, Root, Width};
    use crate::error::ErrorKind;

    /// 512-byte sectors, 4 of a cluster, 2 tables.
    fn sector(changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let base: [(usize, &[u8]); 6] = [
            (11, &[0, 2, 4]),
            (14, &[1, 0, 2]),
            (17, &[0, 2]),
            (19, &[0, 0x80]),
            (22, &[32, 0]),
            (39, &[1, 2, 3, 4]),
        ];
        for (at, new) in base.iter().chain(changes) {
            bytes
                .iter_mut()
                .skip(*at)
                .zip(*new)
                .for_each(|(to, from)| *to = *from);
        }
        bytes
    }

    #[test]
    fn the_number_of_clusters_tells_the_width() {
        let boot = Boot::parse(&sector(&[])).unwrap();
        assert_eq!(boot.width, Width::Bits16);
        assert_eq!(boot.root, Root::Area(65 * 512, 512 * 32));
        assert_eq!((boot.data, boot.clusters), (97 * 512, 8167));
        assert_eq!(boot.serial, 0x0403_0201);
        let boot = Boot::parse(&sector(&[(19, &[0, 0x40])])).unwrap();
        assert_eq!((boot.width, boot.clusters), (Width::Bits12, 4071));
        let wide = [
            (17, &[0, 0][..]),
            (22, &[0, 0]),
            (36, &[9, 0, 0, 0, 0, 0, 0, 0, 2]),
        ];
        let boot = Boot::parse(&sector(&wide)).unwrap();
        assert_eq!(boot.width, Width::Bits32);
        // The table describes no more clusters.
        assert_eq!(boot.clusters, 9 * 128 - 2);
    }

    #[test]
    fn nonsense_is_damage() {
        for change in [
            (11, &[0, 3][..]),
            (13, &[3]),
            (13, &[0]),
            (14, &[0, 0]),
            (16, &[0]),
            (19, &[50, 0]),
            (22, &[255, 255]),
        ] {
            let error = Boot::parse(&sector(&[change])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{change:?}");
        }
        assert!(Boot::parse(&[0; 40]).is_err());
        let newer = [
            (17, &[0, 0][..]),
            (22, &[0, 0]),
            (36, &[9, 0, 0, 0, 0, 0, 1, 0]),
        ];
        let error = Boot::parse(&sector(&newer)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
