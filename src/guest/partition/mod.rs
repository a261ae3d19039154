//! Partition tables: GPT, MBR with logical partitions, or none.
//!
//! # Invariants
//! A partition is a run map over the disk that never passes its end: a range beyond is cut, and
//! [`Partition::damage`] records it.
//!
//! # Why
//! A virtual disk does not record its sector size, so both 512 and 4096 are tried; the checksum of a GPT
//! header decides. Boot sectors of FAT and NTFS end with the signature of an MBR, so a disk whose first
//! sector is one of those has no table.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod gpt;
mod mbr;
mod sector;

use std::sync::Arc;

use crate::block::ReadAt;
use crate::block::run::RunMap;
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u64};

use super::probe::is_boot_sector_of_filesystem;

/// LIMIT: partitions of one disk (GPT's usual table has 128 entries; Linux stops at 256).
pub const PARTITIONS_MAX: usize = 128;

/// Sector sizes to try, in bytes.
const SECTORS: [u64; 2] = [512, 4096];

/// Purpose of a partition according to its type; its content may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// May hold a filesystem, or a physical volume, array member, encrypted volume.
    Candidate,
    /// Holds the logical partitions.
    Extended,
    /// Swap space.
    Swap,
    /// Never holds a filesystem (BIOS boot, Microsoft reserved, PReP).
    Reserved,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Number by Linux's counting (1 to 4 primary, from 5 logical; the position of the entry in a GPT).
    pub number: u32,
    /// Start on the disk, in bytes.
    pub start_bytes: u64,
    /// Length in bytes according to the table.
    pub length_bytes: u64,
    /// Type: a GUID, or `0x83`.
    pub type_id: String,
    /// Name of the type, if it is known.
    pub type_name: Option<&'static str>,
    /// Name in the table (GPT).
    pub label: Option<String>,
    /// UUID of the partition (GPT), or signature and number (MBR: `1a2b3c4d-01`), as in
    /// /dev/disk/by-partuuid.
    pub uuid: Option<String>,
    /// Whether systemd mounts it by its type; attribute 63 of a GPT entry forbids it.
    pub is_automatic: bool,
    /// Its purpose.
    pub kind: Kind,
    /// The part that is on the disk.
    pub map: RunMap<usize>,
    /// The fault of its entry.
    pub damage: Option<String>,
}

/// Kind of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// DOS partition table.
    Mbr,
    /// None: the whole disk may be a filesystem.
    None,
}

/// A disk's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Kind.
    pub kind: TableKind,
    /// Sector size of the table in bytes.
    pub sector_bytes: u64,
    /// In order of their numbers.
    pub partitions: Vec<Partition>,
    /// Remarks for people: "the backup table was used".
    pub notes: Vec<String>,
    /// A valid GPT at the end of the disk, where its front shows no sign of one: Linux does not see it.
    pub backup: Option<Box<Table>>,
}

/// Place of a partition according to a table.
struct TableEntry {
    number: u32,
    start_bytes: u64,
    length_bytes: u64,
}

impl TableEntry {
    /// The map over disk number `source`, cut at the disk's end, and the fault if there is one.
    fn map(&self, source: usize, disk_bytes: u64) -> (RunMap<usize>, Option<String>) {
        let there = self
            .length_bytes
            .min(disk_bytes.saturating_sub(self.start_bytes));
        let damage = (there < self.length_bytes).then(|| {
            format!(
                "it passes the end of the disk: {there} of its {} bytes are there",
                self.length_bytes
            )
        });
        (RunMap::linear(source, self.start_bytes, there), damage)
    }
}

/// Reads `length` bytes at `offset`; `None` when they are not all on the disk.
fn read(disk: &dyn ReadAt, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
    match offset.checked_add(u64_from_usize(length)) {
        Some(end) if end <= disk.size_bytes() => {}
        _ => return Ok(None),
    }
    let mut bytes = vec![0; length];
    disk.read_at(offset, &mut bytes)?;
    Ok(Some(bytes))
}

/// Finds the partitions of `disk`; `source` is its number in the maps.
///
/// # Errors
/// `Corrupt` when there is a table and neither copy is readable; `Io`.
pub fn scan(disk: &Arc<dyn ReadAt>, source: usize) -> Result<Table> {
    let none = Table {
        kind: TableKind::None,
        sector_bytes: 512,
        partitions: Vec::new(),
        notes: Vec::new(),
        backup: None,
    };
    let Some(first) = read(disk, 0, usize_from_u64(512))? else {
        return Ok(none);
    };
    let records = mbr::parse_primaries(&first);
    let protective = records.as_ref().and_then(|records| {
        let mut entries = records.iter();
        entries.find_map(|record| record.protected_end())
    });
    // The boot sector of a filesystem ends like an MBR. Linux takes it for one where its boot flags are
    // possible; its code rarely forms possible partitions.
    let records = records.filter(|records| {
        !is_boot_sector_of_filesystem(&first)
            || SECTORS
                .iter()
                .any(|sector| mbr::is_possible(records, *sector, disk.size_bytes()))
    });
    // As in Linux, an MBR with partitions and no protective entry is newer than a left-over GPT. A hybrid MBR
    // has a protective entry.
    let is_mbr = protective.is_none()
        && records
            .as_ref()
            .is_some_and(|records| mbr::has_partitions(records));
    if !is_mbr && let Some(table) = gpt::load(disk, source, protective)? {
        return Ok(table);
    }
    let mut table = match records {
        Some(records) => load_mbr(disk, source, &first, &records)?.unwrap_or(none),
        None => none,
    };
    match gpt::load_left_over(disk, source) {
        Ok(backup) => table.backup = backup.map(Box::new),
        // The table at the front is used anyway.
        Err(error) => table.notes.push(format!(
            "whether there is a copy of a GPT at the end could not be read: {}",
            error.report()
        )),
    }
    Ok(table)
}

/// Reads an MBR. Sectors have 4096 bytes where all partitions would then be on the disk, and more of them
/// begin with known content.
fn load_mbr(
    disk: &dyn ReadAt,
    source: usize,
    first: &[u8],
    records: &[mbr::Record],
) -> Result<Option<Table>> {
    let mut tables = Vec::new();
    for sector_bytes in SECTORS {
        if sector_bytes == 512 || mbr::is_possible(records, sector_bytes, disk.size_bytes()) {
            let on = mbr::Disk {
                disk,
                source,
                sector_bytes,
            };
            tables.extend(mbr::load(on, first, records)?);
        }
    }
    Ok(sector::choose(disk, tables))
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the tests build tables by sums of constants"
)]
mod tests {
    use super::{Kind, TableKind, scan};
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use crate::error::ErrorKind;
    use std::sync::Arc;

    const SIZE: u64 = 64 << 20;

    fn write(disk: &MemoryDisk, offset: u64, bytes: &[u8]) {
        disk.write_at(offset, bytes).unwrap();
    }

    /// A first sector with entries `(type, start, sectors)`.
    fn record(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut sector = vec![0; 440];
        sector.extend([0x78, 0x56, 0x34, 0x12, 0, 0]);
        for (type_byte, start, sectors) in entries {
            sector.extend([0, 0, 0, 0, *type_byte, 0, 0, 0]);
            sector.extend(start.to_le_bytes());
            sector.extend(sectors.to_le_bytes());
        }
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        sector
    }

    fn header(own: u64, other: u64, entries_lba: u64, entries: &[u8]) -> Vec<u8> {
        let mut header = b"EFI PART\0\0\x01\0".to_vec();
        header.extend(92u32.to_le_bytes());
        header.extend([0; 8]);
        for n in [own, other, 34, 1000] {
            header.extend(n.to_le_bytes());
        }
        header.extend([7; 16]);
        header.extend(entries_lba.to_le_bytes());
        header.extend(128u32.to_le_bytes());
        header.extend(128u32.to_le_bytes());
        header.extend(crc32fast::hash(entries).to_le_bytes());
        let crc = crc32fast::hash(&header).to_le_bytes();
        header.splice(16..20, crc);
        header
    }

    /// A disk with two partitions; the second may pass the end.
    fn gpt(sector: u64, second_sectors: u64) -> MemoryDisk {
        let disk = MemoryDisk::sparse(SIZE);
        let mut entries = Vec::new();
        for (n, sectors) in [(1u64, 100), (2, second_sectors)] {
            entries.extend(
                uuid::Uuid::parse_str("0fc63daf-8483-4772-8e79-3d69d8477de4")
                    .unwrap()
                    .to_bytes_le(),
            );
            entries.extend([n.to_le_bytes()[0]; 16]);
            entries.extend((n * 1000).to_le_bytes());
            entries.extend((n * 1000 + sectors - 1).to_le_bytes());
            entries.extend([0; 8]);
            entries.extend([b'r', 0, 0xe4, 0]);
            entries.resize(128 * usize::try_from(n).unwrap(), 0);
        }
        entries.resize(128 * 128, 0);
        let last = SIZE / sector - 1;
        let array_sectors = 128 * 128 / sector;
        write(&disk, 0, &record(&[(0xee, 1, u32::MAX)]));
        write(&disk, sector, &header(1, last, 2, &entries));
        write(&disk, 2 * sector, &entries);
        write(
            &disk,
            last * sector,
            &header(last, 1, last - array_sectors, &entries),
        );
        write(&disk, (last - array_sectors) * sector, &entries);
        disk
    }

    fn dynamic(disk: MemoryDisk) -> Arc<dyn ReadAt> {
        Arc::new(disk)
    }

    #[test]
    fn gpt_of_both_sector_sizes() {
        for sector in [512, 4096] {
            let table = scan(&dynamic(gpt(sector, 200)), 3).unwrap();
            assert_eq!((table.kind, table.sector_bytes), (TableKind::Gpt, sector));
            assert!(table.notes.is_empty());
            let [one, two] = table.partitions.as_slice() else {
                panic!("{table:?}");
            };
            assert_eq!((one.number, one.start_bytes), (1, 1000 * sector));
            assert_eq!((two.number, two.length_bytes), (2, 200 * sector));
            assert_eq!(one.type_name, Some("Linux filesystem"));
            assert_eq!(one.label.as_deref(), Some("rä"));
            assert_eq!(
                one.uuid.as_deref(),
                Some("01010101-0101-0101-0101-010101010101")
            );
            let run = two.map.run_at(5, 10).unwrap();
            let target = crate::block::run::Target::Source {
                source: 3,
                offset: 2000 * sector + 5,
            };
            assert_eq!(run.target, target);
            assert_eq!(two.damage, None);
        }
    }

    /// Flips every significant byte of the header: the backup is then used; when both are damaged, the result
    /// is an error.
    #[test]
    fn a_damaged_gpt_is_read_from_its_backup_or_is_corrupt() {
        for at in (0..92).chain([1024, 1024 + 40]) {
            let disk = gpt(512, 200);
            let offset = if at < 92 { 512 + at } else { at };
            let mut byte = [0];
            disk.read_at(offset, &mut byte).unwrap();
            write(&disk, offset, &[!byte.first().unwrap()]);
            let table = scan(&dynamic(disk.clone()), 0).unwrap();
            assert_eq!(table.partitions.len(), 2, "offset {offset}");
            assert_eq!(table.notes.len(), 1, "offset {offset}");
            write(&disk, SIZE - 500, &[0; 8]);
            let error = scan(&dynamic(disk), 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn hybrid_and_left_behind_tables() {
        // A hybrid MBR lists partitions beside the GPT.
        let disk = gpt(512, 200);
        write(&disk, 0, &record(&[(0xee, 1, 999), (0x83, 1000, 100)]));
        let table = scan(&dynamic(disk), 0).unwrap();
        assert_eq!(table.kind, TableKind::Gpt);
        // A new MBR, and an old GPT.
        let disk = gpt(512, 200);
        write(&disk, 0, &record(&[(0x83, 2048, 100)]));
        let table = scan(&dynamic(disk), 0).unwrap();
        assert_eq!((table.kind, table.partitions.len()), (TableKind::Mbr, 1));
        // No MBR at all.
        let disk = gpt(512, 200);
        write(&disk, 0, &[0; 512]);
        let table = scan(&dynamic(disk), 0).unwrap();
        assert_eq!(table.kind, TableKind::Gpt);
    }

    #[test]
    fn what_passes_the_end_is_cut_and_said() {
        let table = scan(&dynamic(gpt(512, 1 << 40)), 0).unwrap();
        let two = table.partitions.get(1).unwrap();
        assert_eq!(two.map.size_bytes(), SIZE - 2000 * 512);
        assert!(two.damage.as_ref().unwrap().contains("end of the disk"));
        // An end before the start, and overflowing sums.
        for (first, last) in [(9u64, 8u64), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let disk = MemoryDisk::sparse(SIZE);
            let mut entries = vec![1; 32];
            entries.extend(first.to_le_bytes());
            entries.extend(last.to_le_bytes());
            entries.resize(128 * 128, 0);
            write(&disk, 512, &header(1, 9, 2, &entries));
            write(&disk, 1024, &entries);
            let table = scan(&dynamic(disk), 0).unwrap();
            let one = table.partitions.first().unwrap();
            assert!(one.damage.is_some(), "{one:?}");
        }
    }

    #[test]
    fn mbr_with_logical_partitions() {
        let disk = MemoryDisk::sparse(SIZE);
        write(
            &disk,
            0,
            &record(&[
                (0x83, 2048, 1000),
                (0, 0, 0),
                (0x05, 10_000, 20_000),
                (0x82, 40_000, 8),
            ]),
        );
        write(
            &disk,
            10_000 * 512,
            &record(&[(0x83, 16, 100), (0x05, 5000, 200)]),
        );
        write(&disk, 15_000 * 512, &record(&[(0x8e, 32, 50), (0, 0, 0)]));
        let table = scan(&dynamic(disk), 0).unwrap();
        assert_eq!(table.kind, TableKind::Mbr);
        let found: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.number, p.start_bytes / 512, p.length_bytes / 512, p.kind))
            .collect();
        assert_eq!(
            found,
            [
                (1, 2048, 1000, Kind::Candidate),
                (3, 10_000, 20_000, Kind::Extended),
                (4, 40_000, 8, Kind::Swap),
                (5, 10_016, 100, Kind::Candidate),
                (6, 15_032, 50, Kind::Candidate),
            ]
        );
        let uuid = table.partitions.first().unwrap().uuid.clone();
        assert_eq!(uuid.as_deref(), Some("12345678-01"));
    }

    #[test]
    fn a_chain_that_never_ends_does() {
        let circle = MemoryDisk::sparse(SIZE);
        write(&circle, 0, &record(&[(0x05, 100, 1000)]));
        write(&circle, 100 * 512, &record(&[(0x83, 1, 1), (0x05, 10, 10)]));
        write(&circle, 110 * 512, &record(&[(0x83, 1, 1), (0x05, 0, 10)]));
        let table = scan(&dynamic(circle), 0).unwrap();
        assert_eq!((table.partitions.len(), table.notes.len()), (3, 1));
        let long = MemoryDisk::sparse(SIZE);
        write(&long, 0, &record(&[(0x05, 100, 1_000_000)]));
        for n in 0..1000u32 {
            let sector = record(&[(0x83, 1, 1), (0x05, n + 1, 1)]);
            write(&long, (100 + u64::from(n)) * 512, &sector);
        }
        let table = scan(&dynamic(long), 0).unwrap();
        assert_eq!(table.partitions.len(), 129);
        let away = MemoryDisk::sparse(SIZE);
        write(&away, 0, &record(&[(0x05, u32::MAX, u32::MAX)]));
        assert_eq!(scan(&dynamic(away), 0).unwrap().notes.len(), 1);
    }

    #[test]
    fn no_table_is_no_error() {
        for bytes in [vec![], vec![0; 512], vec![0xff; 4096]] {
            let table = scan(&dynamic(MemoryDisk::from_bytes(&bytes)), 0).unwrap();
            assert_eq!(table.kind, TableKind::None);
        }
        // The boot sector of NTFS, whose code may look like entries.
        let mut sector = record(&[(0x83, 1, 1)]);
        sector.splice(3..11, *b"NTFS    ");
        let table = scan(&dynamic(MemoryDisk::from_bytes(&sector)), 0).unwrap();
        assert_eq!(table.kind, TableKind::None);
        // A protective MBR without a GPT.
        let disk = MemoryDisk::sparse(SIZE);
        write(&disk, 0, &record(&[(0xee, 1, u32::MAX)]));
        let error = scan(&dynamic(disk), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
