//! DOS partition table: four primary entries, and logical partitions in a chain of extended boot records.
//!
//! # On-disk layout
//! | offset | size | field |
//! |---|---|---|
//! | 440 | 4 | disk signature |
//! | 446 | 4 x 16 | entries: boot flag (0x00 or 0x80), CHS, type at 4, CHS, first sector at 8, sectors at 12 |
//! | 510 | 2 | 55 AA |
//!
//! An extended boot record has the same layout. Its first entry is a logical partition, relative to the
//! record; its second entry is the next record, relative to the extended partition.
//!
//! # Invariants
//! The chain ends: at most [`PARTITIONS_MAX`] records are read, none twice.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::HashSet;

use super::{Kind, PARTITIONS_MAX, Partition, Table, TableEntry, TableKind, read};
use crate::block::ReadAt;
use crate::error::Result;
use crate::guest::bytes::{array, le32};

/// Type of the entry that protects a GPT: it covers the whole disk.
const TYPE_PROTECTIVE: u8 = 0xee;

/// One entry of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// Partition type; 0 is unused.
    pub(super) type_byte: u8,
    start: u32,
    sectors: u32,
}

impl Record {
    const fn is_used(self) -> bool {
        self.type_byte != 0 && self.sectors != 0
    }
    /// The last protected sector, if this entry protects a GPT.
    pub(super) fn protected_end(self) -> Option<u64> {
        let end = u64::from(self.start).saturating_add(u64::from(self.sectors));
        (self.type_byte == TYPE_PROTECTIVE).then_some(end.saturating_sub(1))
    }
    const fn is_extended(self) -> bool {
        matches!(self.type_byte, 0x05 | 0x0f | 0x85 | 0xc5 | 0xd5)
    }
}

/// Parses the four entries; `None` when this is not such a record: no signature, or an impossible boot flag.
pub(super) fn parse_primaries(sector: &[u8]) -> Option<Vec<Record>> {
    if array(sector, 510)? != [0x55, 0xaa] {
        return None;
    }
    let mut records = Vec::new();
    for entry in sector.get(446..510)?.chunks_exact(16) {
        let flag = *entry.first()?;
        if flag != 0 && flag != 0x80 {
            return None;
        }
        records.push(Record {
            type_byte: *entry.get(4)?,
            start: le32(entry, 8)?,
            sectors: le32(entry, 12)?,
        });
    }
    Some(records)
}

/// Whether any entry is used.
pub(super) fn has_partitions(records: &[Record]) -> bool {
    records.iter().any(|record| record.is_used())
}

/// Whether the used entries are possible partitions of a disk of `disk_bytes`: behind the first sector, on
/// the disk, without overlaps.
pub(super) fn is_possible(records: &[Record], sector_bytes: u64, disk_bytes: u64) -> bool {
    let mut places: Vec<(u64, u64)> = records
        .iter()
        .filter(|record| record.is_used())
        .map(|record| {
            let start = u64::from(record.start);
            (start, start.saturating_add(u64::from(record.sectors)))
        })
        .collect();
    places.sort_unstable();
    let is_apart = places
        .iter()
        .zip(places.iter().skip(1))
        .all(|((_, end), (next, _))| end <= next);
    let is_there =
        |(start, end): &(u64, u64)| *start > 0 && end.saturating_mul(sector_bytes) <= disk_bytes;
    !places.is_empty() && is_apart && places.iter().all(is_there)
}

const fn type_of(byte: u8) -> (Option<&'static str>, Kind) {
    match byte {
        0x05 | 0x0f | 0x85 | 0xc5 | 0xd5 => (Some("extended"), Kind::Extended),
        0x82 => (Some("Linux swap"), Kind::Swap),
        0x83 => (Some("Linux"), Kind::Candidate),
        0x8e => (Some("Linux LVM"), Kind::Candidate),
        0xfd => (Some("Linux RAID"), Kind::Candidate),
        0x07 => (Some("NTFS or exFAT"), Kind::Candidate),
        0x01 | 0x04 | 0x06 | 0x0e => (Some("FAT"), Kind::Candidate),
        0x0b | 0x0c => (Some("FAT32"), Kind::Candidate),
        0x27 => (Some("Windows recovery"), Kind::Candidate),
        0x41 => (Some("PowerPC PReP boot"), Kind::Reserved),
        0xef => (Some("EFI system"), Kind::Candidate),
        _ => (None, Kind::Candidate),
    }
}

/// The disk of a table.
#[derive(Clone, Copy)]
pub(super) struct Disk<'a> {
    pub(super) disk: &'a dyn ReadAt,
    /// Its number in the maps.
    pub(super) source: usize,
    /// Sector size in bytes of the table.
    pub(super) sector_bytes: u64,
}

/// Builds a partition; `start` is in sectors of the disk.
fn partition(number: u32, start: u64, record: Record, signature: u32, on: Disk<'_>) -> Partition {
    let place = TableEntry {
        number,
        start_bytes: start.saturating_mul(on.sector_bytes),
        length_bytes: u64::from(record.sectors).saturating_mul(on.sector_bytes),
    };
    let (map, damage) = place.map(on.source, on.disk.size_bytes());
    let (type_name, kind) = type_of(record.type_byte);
    Partition {
        number,
        start_bytes: place.start_bytes,
        length_bytes: place.length_bytes,
        type_id: format!("0x{:02x}", record.type_byte),
        type_name,
        label: None,
        uuid: (signature != 0).then(|| format!("{signature:08x}-{number:02x}")),
        kind,
        is_automatic: false,
        map,
        damage,
    }
}

/// Reads the whole table; `None` when no entry is used.
pub(super) fn load(on: Disk<'_>, first: &[u8], records: &[Record]) -> Result<Option<Table>> {
    let signature = le32(first, 440).unwrap_or(0);
    let mut table = Table {
        kind: TableKind::Mbr,
        sector_bytes: on.sector_bytes,
        partitions: Vec::new(),
        notes: Vec::new(),
        backup: None,
    };
    for (record, number) in records.iter().zip(1..) {
        if record.is_used() {
            let start = u64::from(record.start);
            table
                .partitions
                .push(partition(number, start, *record, signature, on));
        }
    }
    if table.partitions.is_empty() {
        return Ok(None);
    }
    // Linux follows only the first extended partition, and so does every tool that writes one.
    if let Some(extended) = records.iter().find(|r| r.is_used() && r.is_extended()) {
        load_logical(on, *extended, signature, &mut table)?;
    }
    Ok(Some(table))
}

fn load_logical(on: Disk<'_>, extended: Record, signature: u32, table: &mut Table) -> Result<()> {
    let base = u64::from(extended.start);
    let mut at = base;
    let mut seen = HashSet::new();
    let mut number = 5u32;
    let broken = |table: &mut Table, number: u32, why: &str| {
        table.notes.push(format!(
            "the chain of logical partitions is damaged after partition {}: {why}",
            number.saturating_sub(1)
        ));
    };
    // LIMIT: records to read, which ends an endless chain.
    for _ in 0..PARTITIONS_MAX {
        if !seen.insert(at) {
            broken(table, number, "it runs in a circle");
            return Ok(());
        }
        let offset = at.saturating_mul(on.sector_bytes);
        let Some(sector) = read(on.disk, offset, 512)? else {
            broken(table, number, "it leaves the disk");
            return Ok(());
        };
        let Some(records) = parse_primaries(&sector) else {
            // An empty extended partition need not have a record.
            if at != base {
                broken(table, number, "a record has no signature");
            }
            return Ok(());
        };
        if let Some(logical) = records.first().filter(|r| r.is_used() && !r.is_extended()) {
            let start = at.saturating_add(u64::from(logical.start));
            table
                .partitions
                .push(partition(number, start, *logical, signature, on));
            number = number.saturating_add(1);
        }
        match records.get(1).filter(|r| r.is_used() && r.is_extended()) {
            Some(next) => at = base.saturating_add(u64::from(next.start)),
            None => return Ok(()),
        }
    }
    table.notes.push(format!(
        "more than {PARTITIONS_MAX} logical partitions; the rest is left out"
    ));
    Ok(())
}
