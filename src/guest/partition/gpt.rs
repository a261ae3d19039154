//! GUID partition table (UEFI specification 2.10, section 5.3).
//!
//! # On-disk layout
//! | header offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `EFI PART` |
//! | 12 | 4 | header size, at least 92 |
//! | 16 | 4 | CRC-32 of the header, with this field zero |
//! | 24, 32 | 8 | own sector, the other copy's sector |
//! | 56 | 16 | disk GUID |
//! | 72 | 8 | first sector of the entries |
//! | 80, 84, 88 | 4 | number of entries, size of one, CRC-32 of all |
//!
//! | entry offset | size | field |
//! |---|---|---|
//! | 0, 16 | 16 | type GUID (zero: unused), partition GUID |
//! | 32, 40 | 8 | first and last sector |
//! | 56 | 72 | name, UTF-16LE |
//!
//! The primary header is in sector 1, the backup in the last one.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::{Kind, PARTITIONS_MAX, Partition, SECTORS, Table, TableEntry, TableKind, read};
use crate::block::ReadAt;
use crate::error::{Error, Result};
use crate::guest::bytes::{array, guid, le32, le64};
use crate::types::width::{usize_from_u32, usize_from_u64};

const SIGNATURE: [u8; 8] = *b"EFI PART";
const HEADER_BYTES_MIN: u32 = 92;
const ENTRY_BYTES_MIN: u32 = 128;
/// LIMIT: bytes of the entry array to read (our limit; the usual one has 16 KiB).
const ENTRIES_BYTES_MAX: u64 = 1 << 20;

/// Attribute 63: the partition must not be mounted by its type alone (Discoverable Partitions Specification).
const NO_AUTO: u64 = 1 << 63;
/// Types by GUID (UEFI, systemd's Discoverable Partitions Specification, Microsoft).
const TYPES: [(&str, &str, Kind); 15] = [
    (
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "EFI system",
        Kind::Candidate,
    ),
    (
        "21686148-6449-6e6f-744e-656564454649",
        "BIOS boot",
        Kind::Reserved,
    ),
    (
        "e3c9e316-0b5c-4db8-817d-f92df00215ae",
        "Microsoft reserved",
        Kind::Reserved,
    ),
    (
        "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
        "PowerPC PReP boot",
        Kind::Reserved,
    ),
    (
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
        "Microsoft basic data",
        Kind::Candidate,
    ),
    (
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac",
        "Windows recovery",
        Kind::Candidate,
    ),
    (
        "0fc63daf-8483-4772-8e79-3d69d8477de4",
        "Linux filesystem",
        Kind::Candidate,
    ),
    (
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
        "Linux swap",
        Kind::Swap,
    ),
    (
        "e6d6d379-f507-44c2-a23c-238f2a3df928",
        "Linux LVM",
        Kind::Candidate,
    ),
    (
        "a19d880f-05fc-4d3b-a006-743f0f84911e",
        "Linux RAID",
        Kind::Candidate,
    ),
    (
        "ca7d7ccb-63ed-4c53-861c-1742536059cc",
        "LUKS",
        Kind::Candidate,
    ),
    (
        "bc13c2ff-59e6-4262-a352-b275fd6f7172",
        "Linux extended boot",
        Kind::Candidate,
    ),
    (
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "Linux root (x86-64)",
        Kind::Candidate,
    ),
    (
        "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
        "Linux home",
        Kind::Candidate,
    ),
    (
        "44479540-f297-41b2-9af7-d131d5f0458a",
        "Linux root (x86)",
        Kind::Candidate,
    ),
];

#[derive(Debug)]
struct Header {
    entries_lba: u64,
    entries: u32,
    entry_bytes: u32,
    entries_crc: u32,
}

/// Parses one header; `block` is its whole sector, `lba` its place.
fn parse_header(block: &[u8], lba: u64) -> Result<Header> {
    let short = || Error::corrupt("GPT header", "a whole sector", "less");
    let signature: [u8; 8] = array(block, 0).ok_or_else(short)?;
    if signature != SIGNATURE {
        return Err(Error::corrupt(
            "GPT header signature",
            "EFI PART",
            signature.escape_ascii(),
        ));
    }
    let size = le32(block, 12).ok_or_else(short)?;
    let mut header = block
        .get(..usize_from_u32(size))
        .filter(|_| size >= HEADER_BYTES_MIN)
        .ok_or_else(|| Error::corrupt("GPT header size", "92 to the sector's size", size))?
        .to_vec();
    let stored = le32(block, 16).ok_or_else(short)?;
    header.get_mut(16..20).ok_or_else(short)?.fill(0);
    let crc = crc32fast::hash(&header);
    if crc != stored {
        return Err(Error::corrupt(
            "GPT header checksum",
            format!("{crc:08x}"),
            format!("{stored:08x}"),
        ));
    }
    let own = le64(block, 24).ok_or_else(short)?;
    if own != lba {
        return Err(Error::corrupt("GPT header's own sector", lba, own));
    }
    Ok(Header {
        entries_lba: le64(block, 72).ok_or_else(short)?,
        entries: le32(block, 80).ok_or_else(short)?,
        entry_bytes: le32(block, 84).ok_or_else(short)?,
        entries_crc: le32(block, 88).ok_or_else(short)?,
    })
}

/// Reads the header at sector `lba` and its entries.
fn load_copy(disk: &dyn ReadAt, source: usize, sector: u64, lba: u64) -> Result<Vec<Partition>> {
    let offset = lba.saturating_mul(sector);
    let missing =
        || Error::corrupt("GPT", "to lie on the disk", "beyond its end").at_offset(offset);
    let block = read(disk, offset, usize_from_u64(sector))?.ok_or_else(missing)?;
    let header = parse_header(&block, lba).map_err(|e| e.at_offset(offset))?;
    let bytes = u64::from(header.entries).saturating_mul(u64::from(header.entry_bytes));
    if header.entry_bytes < ENTRY_BYTES_MIN || bytes > ENTRIES_BYTES_MAX {
        let found = format!("{} of {} bytes", header.entries, header.entry_bytes);
        return Err(Error::corrupt(
            "GPT entries",
            "at most 1 MiB, each of 128 or more",
            found,
        ));
    }
    let at = header.entries_lba.checked_mul(sector).ok_or_else(missing)?;
    let entries = read(disk, at, usize_from_u64(bytes))?.ok_or_else(missing)?;
    let crc = crc32fast::hash(&entries);
    if crc != header.entries_crc {
        let (expected, found) = (format!("{crc:08x}"), format!("{:08x}", header.entries_crc));
        return Err(Error::corrupt("GPT entries' checksum", expected, found).at_offset(at));
    }
    Ok(entries
        .chunks_exact(usize_from_u32(header.entry_bytes))
        .zip(1..)
        .filter_map(|(entry, number)| parse_entry(entry, number, sector, source, disk.size_bytes()))
        .take(PARTITIONS_MAX)
        .collect())
}

fn parse_entry(
    entry: &[u8],
    number: u32,
    sector: u64,
    source: usize,
    disk_bytes: u64,
) -> Option<Partition> {
    let type_guid: [u8; 16] = array(entry, 0)?;
    if type_guid == [0; 16] {
        return None;
    }
    let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
    let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1));
    let start_bytes = first.checked_mul(sector);
    let length_bytes = sectors.and_then(|n| n.checked_mul(sector));
    let (place, broken) = match (start_bytes, length_bytes) {
        (Some(start_bytes), Some(length_bytes))
            if start_bytes.checked_add(length_bytes).is_some() =>
        {
            (
                TableEntry {
                    number,
                    start_bytes,
                    length_bytes,
                },
                None,
            )
        }
        _ => (
            TableEntry {
                number,
                start_bytes: 0,
                length_bytes: 0,
            },
            Some(format!("its sectors are {first} to {last}")),
        ),
    };
    let (map, damage) = place.map(source, disk_bytes);
    let type_id = guid(type_guid);
    let known = TYPES.iter().find(|(id, ..)| *id == type_id);
    let name: Vec<u16> = entry
        .get(56..128)?
        .chunks_exact(2)
        .map(le_unit)
        .take_while(|unit| *unit != 0)
        .collect();
    let name = String::from_utf16_lossy(&name);
    Some(Partition {
        number: place.number,
        start_bytes: place.start_bytes,
        length_bytes: place.length_bytes,
        type_name: known.map(|(_, name, _)| *name),
        kind: known.map_or(Kind::Candidate, |(.., kind)| *kind),
        type_id,
        label: (!name.is_empty()).then_some(name),
        uuid: array(entry, 16).map(guid),
        is_automatic: le64(entry, 48).is_some_and(|bits| bits & NO_AUTO == 0),
        map,
        damage: broken.or(damage),
    })
}

fn le_unit(pair: &[u8]) -> u16 {
    crate::guest::bytes::le16(pair, 0).unwrap_or(0)
}

/// A copy of the table.
fn table(sector_bytes: u64, partitions: Vec<Partition>, notes: Vec<String>) -> Table {
    Table {
        kind: TableKind::Gpt,
        sector_bytes,
        partitions,
        notes,
        backup: None,
    }
}

/// Sectors that may contain the backup: the last one, and those that were the last when the table was
/// written, according to the damaged primary header and the protective MBR.
fn backup_sectors(disk: &dyn ReadAt, sector: u64, protective_end: Option<u64>) -> Result<Vec<u64>> {
    let last = disk
        .size_bytes()
        .checked_div(sector)
        .and_then(|sectors| sectors.checked_sub(1));
    let header = read(disk, sector, 40)?.filter(|header| header.starts_with(&SIGNATURE));
    let alternate = header.and_then(|header| le64(&header, 32));
    let mut found: Vec<u64> = Vec::new();
    for place in [last, alternate, protective_end].into_iter().flatten() {
        if place > 1 && !found.contains(&place) {
            found.push(place);
        }
    }
    Ok(found)
}

/// Reads the backup from any of its places.
fn load_backup(
    disk: &dyn ReadAt,
    source: usize,
    protective_end: Option<u64>,
) -> Result<Option<(u64, u64, Vec<Partition>)>> {
    for sector in SECTORS {
        for place in backup_sectors(disk, sector, protective_end)? {
            match load_copy(disk, source, sector, place) {
                Ok(partitions) => return Ok(Some((sector, place, partitions))),
                Err(error) if error.kind() != crate::error::ErrorKind::Corrupt => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }
    Ok(None)
}

/// The valid backup at the end of a disk whose front shows no sign of a GPT.
pub(super) fn load_left_over(disk: &dyn ReadAt, source: usize) -> Result<Option<Table>> {
    let found = load_backup(disk, source, None)?;
    Ok(found
        .filter(|(_, _, partitions)| !partitions.is_empty())
        .map(|(sector, _, partitions)| table(sector, partitions, Vec::new())))
}

/// Reads the GPT; from its backup when the primary is damaged. `None` when there is none. `protective` is the
/// last sector that the MBR protects for a GPT.
pub(super) fn load(
    disk: &dyn ReadAt,
    source: usize,
    protective: Option<u64>,
) -> Result<Option<Table>> {
    let mut first_error = None;
    let mut primaries = Vec::new();
    for sector in SECTORS {
        match load_copy(disk, source, sector, 1) {
            Ok(partitions) => primaries.push(table(sector, partitions, Vec::new())),
            Err(error) if error.kind() != crate::error::ErrorKind::Corrupt => return Err(error),
            Err(error) => {
                let signed = read(disk, sector, SIGNATURE.len())?.is_some_and(|s| s == SIGNATURE);
                if signed {
                    first_error = Some(error);
                }
            }
        }
    }
    if let Some(chosen) = super::sector::choose(disk, primaries) {
        return Ok(Some(chosen));
    }
    // A backup alone is used only where the front shows that there was a GPT: repartitioning often leaves an
    // old one behind.
    if first_error.is_none() && protective.is_none() {
        return Ok(None);
    }
    if let Some((sector, place, partitions)) = load_backup(disk, source, protective)? {
        let note = format!(
            "the primary partition table is damaged; the backup in sector {place} (of {sector} bytes) was used"
        );
        return Ok(Some(table(sector, partitions, vec![note])));
    }
    Err(first_error.unwrap_or_else(|| {
        Error::corrupt(
            "the partition table",
            "a GPT, as the protective MBR says",
            "none at either end of the disk",
        )
    }))
}
