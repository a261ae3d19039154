//! Chooses the sector size of a table that can be read with either.
//!
//! # Why
//! A table does not record it, and the disk's original sector size is not stored with its bytes. But usually
//! only one interpretation finds known content at the starts of its partitions. Disks that were copied
//! between the two sizes have a header of each.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::{Partition, Table, TableKind, read};
use crate::block::ReadAt;
use crate::error::Result;
use crate::guest::probe;

/// LIMIT: partitions of a table to examine for the choice (our limit).
const LOOKED_AT_MAX: usize = 16;

/// A part of a disk.
struct Part<'a> {
    disk: &'a dyn ReadAt,
    start: u64,
    length: u64,
}

impl ReadAt for Part<'_> {
    fn size_bytes(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        crate::block::check_range(
            self.length,
            offset,
            crate::types::width::u64_from_usize(buf.len()),
        )?;
        self.disk.read_at(self.start.saturating_add(offset), buf)
    }
}

/// Whether a partition begins with known content. An unreadable one counts as unknown.
fn holds(disk: &dyn ReadAt, partition: &Partition) -> bool {
    let there = disk.size_bytes().saturating_sub(partition.start_bytes);
    let part = Part {
        disk,
        start: partition.start_bytes,
        length: partition.length_bytes.min(there),
    };
    if part.length == 0 {
        return false;
    }
    if partition.kind == super::Kind::Extended {
        let sector = read(disk, partition.start_bytes, 512).ok().flatten();
        return sector.is_some_and(|sector| super::mbr::parse_primaries(&sector).is_some());
    }
    probe::probe(&part).is_ok_and(|content| content.is_some())
}

fn score(disk: &dyn ReadAt, table: &Table) -> usize {
    let looked_at = table.partitions.iter().take(LOOKED_AT_MAX);
    looked_at.filter(|partition| holds(disk, partition)).count()
}

/// Among interpretations of a table, chooses the one with the most partitions of known content; among equals
/// the first. A GPT that is not chosen is noted.
pub(super) fn choose(disk: &dyn ReadAt, mut tables: Vec<Table>) -> Option<Table> {
    if tables.len() < 2 {
        return tables.pop();
    }
    let mut best: Option<(usize, Table)> = None;
    let mut sizes = Vec::new();
    for table in tables {
        let found = score(disk, &table);
        sizes.push(table.sector_bytes);
        if best.as_ref().is_none_or(|(most, _)| found > *most) {
            best = Some((found, table));
        }
    }
    best.map(|(_, mut table)| {
        let own = table.sector_bytes;
        if table.kind == TableKind::Gpt {
            for other in sizes.iter().filter(|size| **size != own) {
                table.notes.push(format!(
                    "there are partition tables for sectors of {own} and of {other} bytes; that for {own} was used, by what its partitions hold"
                ));
            }
        }
        table
    })
}
