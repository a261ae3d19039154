//! A physical volume: its label, header, and the metadata area with the group's text.
//!
//! # On-disk layout
//! LVM2's `lib/format_text/layout.h`; little-endian, checksums are [`checksum`].
//!
//! | label sector, offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `LABELONE`, in one of the first four sectors |
//! | 8 | 8 | own sector |
//! | 16 | 4 | checksum of the sector from byte 20 on |
//! | 20 | 4 | offset of the header from the label's start |
//! | 24 | 8 | `LVM2 001` |
//!
//! | header offset | size | field |
//! |---|---|---|
//! | 0 | 32 | identifier, ASCII |
//! | 32 | 8 | size of the device |
//! | 40 | 16 each | data areas (offset, size), an empty one at the end; then metadata areas likewise |
//!
//! | metadata area, offset | size | field |
//! |---|---|---|
//! | 0 | 4 | checksum of bytes 4 to 512 |
//! | 4 | 16 | magic |
//! | 20, 24, 32 | 4, 8, 8 | version 1, own start, size |
//! | 40 | 24 | the text: offset from the start (8), size (8), checksum (4), flags (4; 1: ignored) |
//!
//! The text lies in a ring that begins 512 bytes into the area: a text that reaches the end continues there.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{array, le32, le64};
use crate::types::width::{usize_from_u32, usize_from_u64};

const SECTOR_BYTES: u64 = 512;
/// Number of sectors that may contain a label.
const LABEL_SECTORS: u64 = 4;
const AREA_MAGIC: [u8; 16] = *b" LVM2 x[5A%r0N*>";
/// Bytes of a metadata area's header.
const AREA_HEADER_BYTES: u64 = 512;
/// LIMIT: metadata areas of one device (LVM makes at most two).
const AREAS_MAX: usize = 4;
/// LIMIT: bytes of a group's text (our limit; a thousand volumes take about 1 MiB).
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// The label and header of a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    /// Its identifier in LVM's form.
    pub(crate) id: String,
    /// Metadata areas: offset and size in bytes.
    areas: Vec<(u64, u64)>,
}

/// The text of a group in one area, or why it cannot be read.
pub(crate) type Text = Result<Option<Vec<u8>>>;

/// LVM's checksum: CRC-32 with its own initial value, and not inverted at the end.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    const INITIAL: u32 = 0xf597_a6cf;
    let mut hasher = crc32fast::Hasher::new_with_initial(!INITIAL);
    hasher.update(bytes);
    !hasher.finalize()
}

/// An identifier with its dashes: 6-4-4-4-4-4-6.
fn dashed(id: [u8; 32]) -> Option<String> {
    if !id.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    let mut out = String::new();
    for (n, byte) in id.iter().enumerate() {
        if matches!(n, 6 | 10 | 14 | 18 | 22 | 26) {
            out.push('-');
        }
        out.push(char::from(*byte));
    }
    Some(out)
}

/// Parses a label in the sector with number `sector`.
fn parse_label(block: &[u8], sector: u64) -> Option<Result<Label>> {
    let is_label = array(block, 0) == Some(*b"LABELONE") && array(block, 24) == Some(*b"LVM2 001");
    is_label.then(|| {
        let short = || Error::corrupt("LVM label", "a whole sector", "less");
        let own = le64(block, 8).ok_or_else(short)?;
        if own != sector {
            return Err(Error::corrupt("LVM label's own sector", sector, own));
        }
        let stored = le32(block, 16).ok_or_else(short)?;
        let found = checksum(block.get(20..512).ok_or_else(short)?);
        if stored != found {
            let expected = format!("{stored:08x}");
            return Err(Error::corrupt(
                "LVM label checksum",
                expected,
                format!("{found:08x}"),
            ));
        }
        let at = usize_from_u32(le32(block, 20).ok_or_else(short)?);
        let header = block.get(at..).ok_or_else(short)?;
        let id = array(header, 0).and_then(dashed).ok_or_else(|| {
            Error::corrupt("LVM device identifier", "letters and digits", "others")
        })?;
        let mut locations = header.get(40..).unwrap_or_default().chunks_exact(16);
        let pair = |chunk: &[u8]| Some((le64(chunk, 0)?, le64(chunk, 8)?));
        let _data = locations.by_ref().map_while(pair).find(|(at, _)| *at == 0);
        let areas = locations
            .map_while(pair)
            .take_while(|(at, _)| *at != 0)
            .take(AREAS_MAX)
            .collect();
        Ok(Label { id, areas })
    })
}

/// Finds the label of a physical volume; `None` when the device is not one.
///
/// # Errors
/// `Corrupt` when there is a damaged one; `Io`.
pub(crate) fn load_label(device: &dyn ReadAt) -> Result<Option<Label>> {
    let mut damage = None;
    for sector in 0..LABEL_SECTORS {
        let offset = sector.saturating_mul(SECTOR_BYTES);
        if offset.saturating_add(SECTOR_BYTES) > device.size_bytes() {
            break;
        }
        let mut block = [0; 512];
        device.read_at(offset, &mut block)?;
        match parse_label(&block, sector) {
            None => {}
            Some(Ok(label)) => return Ok(Some(label)),
            Some(Err(error)) => damage = damage.or(Some(error.at_offset(offset))),
        }
    }
    damage.map_or(Ok(None), Err)
}

/// Reads the group's text from every metadata area of a device.
pub(crate) fn load_texts(device: &dyn ReadAt, label: &Label) -> Vec<Text> {
    label
        .areas
        .iter()
        .map(|(offset, size)| {
            load_text(device, *offset, *size).map_err(|error| error.at_offset(*offset))
        })
        .collect()
}

fn load_text(device: &dyn ReadAt, area: u64, area_bytes: u64) -> Text {
    let mut header = [0; 512];
    let end = area.checked_add(area_bytes);
    if area_bytes < AREA_HEADER_BYTES || end.is_none_or(|end| end > device.size_bytes()) {
        let found = format!("{area_bytes} bytes");
        return Err(Error::corrupt(
            "LVM metadata area",
            "to lie on the device",
            found,
        ));
    }
    device.read_at(area, &mut header)?;
    let short = || Error::corrupt("LVM metadata area", "a whole header", "less");
    let stored = le32(&header, 0).ok_or_else(short)?;
    let found = checksum(header.get(4..).ok_or_else(short)?);
    if stored != found || array(&header, 4) != Some(AREA_MAGIC) {
        let expected = format!("{stored:08x} and its magic");
        let what = "LVM metadata area's checksum";
        return Err(Error::corrupt(what, expected, format!("{found:08x}")));
    }
    let version = le32(&header, 20).ok_or_else(short)?;
    if version != 1 {
        return Err(Error::unsupported(format!(
            "LVM metadata area version {version}"
        )));
    }
    let (own, size) = (le64(&header, 24), le64(&header, 32));
    if own != Some(area) || size != Some(area_bytes) {
        let found = format!("{own:?}, {size:?}");
        let expected = format!("{area}, {area_bytes}");
        return Err(Error::corrupt(
            "LVM metadata area's own place",
            expected,
            found,
        ));
    }
    let (at, length) = (
        le64(&header, 40).ok_or_else(short)?,
        le64(&header, 48).ok_or_else(short)?,
    );
    let flags = le32(&header, 60).ok_or_else(short)?;
    if at == 0 || length == 0 || flags & 1 != 0 {
        // There is no group yet, or LVM is configured to ignore the area.
        return Ok(None);
    }
    let expected = le32(&header, 56).ok_or_else(short)?;
    let text = load_ring(device, area, area_bytes, at, length)?;
    let found = checksum(&text);
    if found != expected {
        let (expected, found) = (format!("{expected:08x}"), format!("{found:08x}"));
        return Err(Error::corrupt(
            "LVM metadata text checksum",
            expected,
            found,
        ));
    }
    Ok(Some(text))
}

fn load_ring(
    device: &dyn ReadAt,
    area: u64,
    area_bytes: u64,
    at: u64,
    length: u64,
) -> Result<Vec<u8>> {
    if length > TEXT_BYTES_MAX {
        let what =
            format!("the LVM metadata has {length} bytes, at most {TEXT_BYTES_MAX} are read");
        return Err(Error::new(ErrorKind::LimitExceeded, what));
    }
    let ring = area_bytes.saturating_sub(AREA_HEADER_BYTES);
    if at < AREA_HEADER_BYTES || at >= area_bytes || length > ring {
        let found = format!("{length} bytes at {at}");
        return Err(Error::corrupt(
            "LVM metadata text",
            "to lie in its area",
            found,
        ));
    }
    let mut text = vec![0; usize_from_u64(length)];
    let first = length.min(area_bytes.saturating_sub(at));
    let (front, back) = text.split_at_mut(usize_from_u64(first));
    device.read_at(area.saturating_add(at), front)?;
    device.read_at(area.saturating_add(AREA_HEADER_BYTES), back)?;
    Ok(text)
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first surprise"
)]
pub(super) mod tests {
    use super::{AREA_MAGIC, checksum, load_label, load_texts};
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use crate::error::ErrorKind;

    /// Offset and length of the metadata area of [`device`].
    const AREA: (u64, u64) = (4096, 65_536);

    /// A physical volume of 8 MiB with `text` at `at` of its metadata area.
    pub(crate) fn device(id: [u8; 32], text: &[u8], at: u64) -> MemoryDisk {
        make(id, text, at, AREA.1)
    }

    /// A device of 32 MiB, with space for a text of nearly 16 MiB, where its data would lie.
    pub(crate) fn large_device(id: [u8; 32], text: &[u8]) -> MemoryDisk {
        make(id, text, 512, 16 << 20)
    }

    fn make(id: [u8; 32], text: &[u8], at: u64, area_bytes: u64) -> MemoryDisk {
        let disk = MemoryDisk::sparse(2 * area_bytes.max(4 << 20));
        let mut sector = [&b"LABELONE"[..], &1u64.to_le_bytes(), &[0; 4]].concat();
        sector.extend(32u32.to_le_bytes());
        sector.extend(b"LVM2 001");
        sector.extend(id);
        for n in [8 << 20, 1 << 20, 0, 0, 0, AREA.0, area_bytes, 0, 0] {
            sector.extend(u64::to_le_bytes(n));
        }
        sector.resize(512, 0);
        let sum = checksum(sector.get(20..).unwrap()).to_le_bytes();
        sector.splice(16..20, sum);
        disk.write_at(512, &sector).unwrap();
        let mut header = [&AREA_MAGIC[..], &1u32.to_le_bytes()].concat();
        let length = u64::try_from(text.len()).unwrap();
        for n in [AREA.0, area_bytes, at, length] {
            header.extend(n.to_le_bytes());
        }
        header.extend(checksum(text).to_le_bytes());
        header.resize(508, 0);
        disk.write_at(AREA.0, &checksum(&header).to_le_bytes())
            .unwrap();
        disk.write_at(AREA.0 + 4, &header).unwrap();
        let first = text.len().min(usize::try_from(area_bytes - at).unwrap());
        let (front, back) = text.split_at(first);
        disk.write_at(AREA.0 + at, front).unwrap();
        disk.write_at(AREA.0 + 512, back).unwrap();
        disk
    }

    fn flip(disk: &MemoryDisk, at: u64) {
        let mut byte = [0];
        disk.read_at(at, &mut byte).unwrap();
        disk.write_at(at, &[byte[0] ^ 0x10]).unwrap();
    }

    #[test]
    fn the_checksum_is_that_of_lvm() {
        // From the label of a device that pvcreate made.
        assert_eq!(checksum(b""), 0xf597_a6cf);
    }

    #[test]
    fn the_text_wraps_in_its_ring() {
        let text = vec![b'#'; 5000];
        for at in [512, 20_000, AREA.1 - 10] {
            let disk = device([b'a'; 32], &text, at);
            let label = load_label(&disk).unwrap().unwrap();
            assert_eq!(label.id, "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa");
            let texts = load_texts(&disk, &label);
            assert_eq!(texts.len(), 1);
            assert_eq!(texts[0].as_ref().unwrap().as_deref(), Some(&text[..]));
        }
    }

    #[test]
    fn every_flipped_byte_is_damage() {
        for at in (0..8).chain([16, 20, 40, 60, 510]) {
            let disk = device([b'a'; 32], b"x", 512);
            flip(&disk, 512 + at);
            match load_label(&disk) {
                Ok(label) => assert!(label.is_none() && at < 8, "{at}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}"),
            }
        }
        for at in (0..64).chain([512, 511]) {
            let disk = device([b'a'; 32], b"x", 512);
            let label = load_label(&disk).unwrap().unwrap();
            flip(&disk, AREA.0 + at);
            let error = load_texts(&disk, &label).remove(0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}");
        }
    }

    #[test]
    fn what_is_no_device_is_none() {
        for disk in [
            MemoryDisk::new(),
            MemoryDisk::sparse(100),
            MemoryDisk::sparse(1 << 20),
        ] {
            assert_eq!(load_label(&disk).unwrap(), None);
        }
    }
}
