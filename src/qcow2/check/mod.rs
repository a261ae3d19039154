//! Checks the structure of one image: refcounts against uses, overlaps, ranges, flags. It reads no data.
//!
//! # Invariants
//! Every byte may be hostile: a wrong entry is a finding and is skipped. Only faults that make the whole
//! image unreadable (header, L1 table) and read errors are errors. A table that is used twice is visited
//! once.
//!
//! # Why
//! Internal snapshots and bitmaps use clusters that the active tables do not name. They are not followed: an
//! image with them is checked without refcounts, and the report states that.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod report;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use report::{FINDINGS_MAX, FindingKind, Report};

use super::entry::Mapping;
use super::field;
use super::image::{Image, L2Table};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::types::HostOffset;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: blocks of counters, of 64 KiB each: 256 MiB, for 134 million host clusters in use.
const COUNTER_BLOCKS_MAX: usize = 4_096;
/// Host clusters in one block of counters.
const COUNTERS: u64 = 32_768;

/// Header extension that names bitmaps (specification, "Bitmaps extension").
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// Bit of a counter: a table or the header uses this cluster.
const IS_METADATA: u16 = 1 << 15;
/// Bit of a counter: a guest cluster uses this cluster as a whole.
const IS_DATA: u16 = 1 << 14;
/// LIMIT: counted uses of one host cluster.
const USES_MAX: u16 = IS_DATA - 1;

/// Checks one image file; backing and data files are not opened.
///
/// # Errors
/// Errors of [`Image::open`]; `Io`; `LimitExceeded` when more host clusters are in use than can be counted.
pub fn check(file: Arc<dyn ReadAt>) -> Result<Report> {
    let image = Image::open(file)?;
    let header = image.header();
    let has_bitmaps = header
        .unknown_extensions
        .iter()
        .any(|extension| extension.kind == EXTENSION_BITMAPS);
    let mut check = Check {
        report: Report {
            is_partial: header.snapshots > 0 || has_bitmaps,
            ..Report::default()
        },
        uses: Uses::default(),
        image: &image,
    };
    check.padding();
    check.header_and_l1()?;
    let blocks = check.refcount_table()?;
    check.guest()?;
    if !check.report.is_partial {
        check.refcounts(&blocks)?;
        check.flags()?;
    }
    Ok(check.report)
}

/// Number of uses of each host cluster; blocks of counters are made on demand.
#[derive(Default)]
struct Uses {
    blocks: BTreeMap<u64, Box<[u16]>>,
}

impl Uses {
    fn get(&self, cluster: u64) -> u16 {
        let (block, at) = Self::place(cluster);
        self.blocks
            .get(&block)
            .and_then(|counters| counters.get(at))
            .copied()
            .unwrap_or(0)
    }

    /// Counts another use; false when it collides with an earlier one.
    fn add(&mut self, cluster: u64, mark: u16) -> Result<bool> {
        let (block, at) = Self::place(cluster);
        if self.blocks.len() >= COUNTER_BLOCKS_MAX && !self.blocks.contains_key(&block) {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "more host clusters are in use than can be checked at once",
            ));
        }
        let counters = self
            .blocks
            .entry(block)
            .or_insert_with(|| vec![0; usize_from_u64(COUNTERS)].into_boxed_slice());
        let Some(counter) = counters.get_mut(at) else {
            return Ok(true);
        };
        // Compressed clusters may share host clusters; whole clusters and tables may not.
        let is_alone = *counter == 0 || (mark | *counter) & (IS_METADATA | IS_DATA) == 0;
        if *counter & USES_MAX < USES_MAX {
            *counter = counter.saturating_add(1);
        }
        *counter |= mark;
        Ok(is_alone)
    }

    fn place(cluster: u64) -> (u64, usize) {
        (cluster / COUNTERS, usize_from_u64(cluster % COUNTERS))
    }
}

struct Check<'a> {
    image: &'a Image,
    report: Report,
    uses: Uses,
}

impl Check<'_> {
    fn cluster_bytes(&self) -> u64 {
        self.image.cluster_bits().size_bytes()
    }

    fn host_cluster(&self, offset: u64) -> u64 {
        self.image
            .cluster_bits()
            .host_cluster(HostOffset(offset))
            .get()
    }

    fn offset_of(&self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.cluster_bytes())
    }

    fn padding(&mut self) {
        let size = self.image.file_bytes();
        if self.image.layer_id().is_some() && self.image.cluster_bits().within(size) != 0 {
            self.report.add(
                FindingKind::Padding,
                size,
                None,
                "the layer does not end with a whole cluster".to_owned(),
            );
        }
    }

    /// Marks a range as used; false when a part of it is used already.
    fn mark(&mut self, offset: u64, bytes: u64, mark: u16, guest: Option<u64>) -> Result<bool> {
        if bytes == 0 {
            return Ok(true);
        }
        let first = self.host_cluster(offset);
        let last = self.host_cluster(offset.saturating_add(bytes.saturating_sub(1)));
        let mut is_alone = true;
        for cluster in first..=last {
            if !self.uses.add(cluster, mark)? {
                is_alone = false;
                let place = self.offset_of(cluster);
                self.report.add(
                    FindingKind::Overlap,
                    place,
                    guest,
                    format!("host cluster {cluster} is used twice"),
                );
            }
        }
        Ok(is_alone)
    }

    fn header_and_l1(&mut self) -> Result<()> {
        self.mark(0, self.cluster_bytes(), IS_METADATA, None)?;
        let header = self.image.header();
        let bytes = u64::from(header.l1_entries).saturating_mul(8);
        self.mark(header.l1_offset.get(), bytes, IS_METADATA, None)?;
        Ok(())
    }

    /// Marks refcount table and blocks; returns the offsets of the blocks by index.
    fn refcount_table(&mut self) -> Result<BTreeMap<u64, u64>> {
        let header = self.image.header();
        let start = header.refcount_table_offset.get();
        // LIMIT: `Header::parse` bounds the table at 8 MiB.
        let bytes = u64::from(header.refcount_table_clusters).saturating_mul(self.cluster_bytes());
        let end = start.checked_add(bytes);
        let mut blocks = BTreeMap::new();
        if end.is_none_or(|end| end > self.image.file_bytes()) {
            self.report.add(
                FindingKind::BadTable,
                start,
                None,
                "the refcount table passes the end of the file".to_owned(),
            );
            return Ok(blocks);
        }
        self.mark(start, bytes, IS_METADATA, None)?;
        let mut table = vec![0; usize_from_u64(bytes)];
        self.image.file().read_at(start, &mut table)?;
        for (index, entry) in (0_u64..).zip(table.chunks_exact(8)) {
            let offset = field::u64_at(entry, 0).unwrap_or(0);
            if offset == 0 {
                continue;
            }
            let place = start.saturating_add(index.saturating_mul(8));
            // Bits 0 to 8 are reserved; a nonzero value is reported as misalignment.
            let end = offset.checked_add(self.cluster_bytes());
            if self.image.cluster_bits().within(offset) != 0
                || end.is_none_or(|end| end > self.image.file_bytes())
            {
                self.report.add(
                    FindingKind::BadTable,
                    place,
                    None,
                    format!("refcount block {index} at {offset:#x} is misaligned or out of range"),
                );
                continue;
            }
            if self.mark(offset, self.cluster_bytes(), IS_METADATA, None)? {
                blocks.insert(index, offset);
            }
        }
        Ok(blocks)
    }

    /// Marks all L2 tables and the clusters that they map.
    fn guest(&mut self) -> Result<()> {
        for l1_index in self.image.l1_indices().collect::<Vec<_>>() {
            let table = match self.image.load_l2(l1_index) {
                Ok(Some(table)) => table,
                Ok(None) => continue,
                Err(error) => {
                    self.report.take(error, FindingKind::BadEntry, None)?;
                    continue;
                }
            };
            let bytes = self.cluster_bytes();
            if !self.mark(table.host().get(), bytes, IS_METADATA, None)? {
                continue;
            }
            for index in 0..table.len() {
                let guest = l1_index
                    .saturating_mul(self.image.l2_entries())
                    .saturating_add(index);
                match table.mapping(index) {
                    Ok(mapping) => self.mapping(mapping, guest)?,
                    Err(error) => self
                        .report
                        .take(error, FindingKind::BadEntry, Some(guest))?,
                }
            }
        }
        Ok(())
    }

    fn mapping(&mut self, mapping: Mapping, guest: u64) -> Result<()> {
        let (counter, host) = match mapping {
            Mapping::Unallocated => return Ok(()),
            Mapping::Zero { host } => (&mut self.report.zero_clusters, host),
            Mapping::Data(host) => (&mut self.report.data_clusters, Some(host)),
            Mapping::Subclusters { host, .. } => (&mut self.report.data_clusters, host),
            Mapping::Compressed(cluster) => {
                self.report.compressed_clusters = self.report.compressed_clusters.saturating_add(1);
                // The last sector may pass the end of the file; its cluster may not.
                let bytes = u64::from(cluster.length_bytes);
                return self
                    .mark(cluster.host.get(), bytes, 0, Some(guest))
                    .map(drop);
            }
        };
        *counter = counter.saturating_add(1);
        let Some(host) = host else {
            return Ok(());
        };
        if self.image.header().has_data_file() {
            return Ok(());
        }
        if host.get() >= self.image.file_bytes() {
            self.report.add(
                FindingKind::BadEntry,
                host.get(),
                Some(guest),
                "a host cluster is beyond the end of the file".to_owned(),
            );
            return Ok(());
        }
        self.mark(host.get(), self.cluster_bytes(), IS_DATA, Some(guest))
            .map(drop)
    }

    /// Compares all refcounts with the uses.
    fn refcounts(&mut self, blocks: &BTreeMap<u64, u64>) -> Result<()> {
        let order = self.image.header().refcount_order;
        let per_block = self
            .cluster_bytes()
            .saturating_mul(8)
            .checked_shr(order)
            .unwrap_or(1)
            .max(1);
        let mut block = vec![0; usize_from_u64(self.cluster_bytes())];
        for (index, offset) in blocks {
            self.image.file().read_at(*offset, &mut block)?;
            for n in 0..per_block {
                let cluster = index.saturating_mul(per_block).saturating_add(n);
                let stored = refcount(&block, n, order).unwrap_or(0);
                self.compare(cluster, stored);
            }
        }
        // Used clusters without a refcount block are not counted at all.
        let used: Vec<u64> = self.uses.blocks.keys().copied().collect();
        for counters in used {
            let first = counters.saturating_mul(COUNTERS);
            for cluster in first..first.saturating_add(COUNTERS) {
                if !blocks.contains_key(&cluster.checked_div(per_block).unwrap_or(0)) {
                    self.compare(cluster, 0);
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, cluster: u64, stored: u64) {
        let uses = self.uses.get(cluster) & USES_MAX;
        let place = self.offset_of(cluster);
        // A counted cluster beyond the end of the file takes no space; QEMU does not check it either.
        let is_in_file = place < self.image.file_bytes();
        if stored > u64::from(uses) && uses < USES_MAX && is_in_file {
            self.report.add(
                FindingKind::Leak,
                place,
                None,
                format!("host cluster {cluster} has refcount {stored} and {uses} uses"),
            );
        } else if stored < u64::from(uses) {
            self.report.add(
                FindingKind::RefcountTooLow,
                place,
                None,
                format!("host cluster {cluster} has refcount {stored} and {uses} uses"),
            );
        }
    }

    /// Compares the flags "refcount is 1" with the uses.
    fn flags(&mut self) -> Result<()> {
        for l1_index in self.image.l1_indices().collect::<Vec<_>>() {
            let Ok(Some(host)) = self.image.l2_offset(l1_index) else {
                continue;
            };
            let place = self
                .image
                .header()
                .l1_offset
                .get()
                .saturating_add(l1_index.saturating_mul(8));
            self.flag(self.image.is_l1_copied(l1_index), host, place, None);
            if self.uses.get(self.host_cluster(host.get())) & USES_MAX != 1 {
                continue;
            }
            if let Some(table) = self.image.load_l2(l1_index)? {
                self.table_flags(&table, l1_index);
            }
        }
        Ok(())
    }

    fn table_flags(&mut self, table: &L2Table, l1_index: u64) {
        for index in 0..table.len() {
            let host = match table.mapping(index) {
                Ok(Mapping::Data(host)) => host,
                Ok(Mapping::Zero { host: Some(host) }) => host,
                Ok(Mapping::Subclusters {
                    host: Some(host), ..
                }) => host,
                _ => continue,
            };
            if self.image.header().has_data_file() {
                continue;
            }
            let guest = l1_index
                .saturating_mul(self.image.l2_entries())
                .saturating_add(index);
            self.flag(
                table.is_copied(index),
                host,
                table.entry_offset(index),
                Some(guest),
            );
        }
    }

    fn flag(&mut self, is_copied: bool, host: HostOffset, place: u64, guest: Option<u64>) {
        let uses = self.uses.get(self.host_cluster(host.get())) & USES_MAX;
        if is_copied != (uses == 1) {
            self.report.add(
                FindingKind::CopiedFlag,
                place,
                guest,
                format!("an entry's flag of a refcount of 1 is {is_copied} with {uses} uses"),
            );
        }
    }
}

/// Refcount `index` of a block with entries of 2^`order` bits (QEMU `get_refcount_ro0` to `ro6`).
fn refcount(block: &[u8], index: u64, order: u32) -> Option<u64> {
    match order {
        0..=2 => {
            let bits = 1_u64.checked_shl(order)?;
            let bit = index.checked_mul(bits)?;
            let byte = *block.get(usize_from_u64(bit / 8))?;
            let shift = u32::try_from(bit % 8).ok()?;
            let mask = 1_u64
                .checked_shl(u32::try_from(bits).ok()?)?
                .checked_sub(1)?;
            Some(u64::from(byte).checked_shr(shift)? & mask)
        }
        3 => field::u8_at(block, usize_from_u64(index)).map(u64::from),
        4 => field::u16_at(block, field::position(index, 2)?).map(u64::from),
        5 => field::u32_at(block, field::position(index, 4)?).map(u64::from),
        6 => field::u64_at(block, field::position(index, 8)?),
        _ => None,
    }
}

impl L2Table {
    fn entry_offset(&self, index: u64) -> u64 {
        let bytes = u64_from_usize(self.byte_len())
            .checked_div(self.len())
            .unwrap_or(8);
        self.host()
            .get()
            .saturating_add(index.saturating_mul(bytes))
    }
}
