//! Superblocks of md arrays: the array of a device, the location of its data, and their age.
//!
//! # On-disk layout
//! Linux, `include/uapi/linux/raid/md_p.h`. Version 1, `struct mdp_superblock_1`, little-endian, at the start (1.1), at 4 KiB (1.2), or at
//! the last 4 KiB boundary that leaves 8 KiB (1.0):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0, 4 | 4 | magic a92b4efc, version 1 |
//! | 8 | 4 | features; 2: being rebuilt, 4: being reshaped |
//! | 16, 32 | 16, 32 | UUID and name of the array |
//! | 72, 92 | 4 | level, number of devices that hold data |
//! | 80 | 8 | sectors of each device that are used |
//! | 128, 136 | 8 | first sector of the data, number of sectors |
//! | 144 | 8 | sector of this superblock |
//! | 160 | 4 | number of this device |
//! | 200 | 8 | events: the highest is the newest |
//! | 216 | 4 | checksum: the sum of all 32-bit words, folded |
//! | 220 | 4 | entries in the table of roles |
//! | 256 | 2 each | roles by number: position, 0xffff spare, 0xfffe faulty, 0xfffd journal |
//!
//! Version 0.90, `mdp_super_t`, 4 KiB in the byte order of its machine (little-endian is read), at the last 64 KiB boundary that leaves
//! 64 KiB; words of 32 bits: 0 magic, 1 and 2 version, 5, 13, 14, 15 UUID, 7 level, 8 KiB of data, 10 devices, 11 minor number, 38
//! checksum, 39 and 40 events, 128 on 27 descriptors of 32 words (number, -, -, position, state), 992 this device's.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::bytes::{array, le16, le32, le64, text};
use crate::block::ReadAt;
use crate::error::Result;
use crate::types::width::{usize_from_u32, usize_from_u64};

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR_BYTES: u64 = 512;
const BLOCK_BYTES: usize = 4096;
/// Features: this device is being rebuilt; the array is being reshaped.
const FEATURE_RECOVERY: u32 = 2;
const FEATURE_RESHAPE: u32 = 4;
/// Roles from this value on are not positions.
const ROLE_NONE: u16 = 0xff00;
/// A device that has failed.
const ROLE_FAULTY: u16 = 0xfffe;
/// State of a device in version 0.90: failed, and holding data.
const STATE_FAULTY: u32 = 1;
const STATE_IN_SYNC: u32 = 4;
/// Descriptors of version 0.90, and the words of each.
const DESCRIPTORS: usize = 27;
const DESCRIPTOR_WORDS: usize = 32;
/// LIMIT: characters of an array's name in a path (the field has 32 bytes).
const NAME_CHARS_MAX: usize = 32;

/// Parses a superblock at a given place.
type Parse = fn(&[u8], u64) -> Option<Superblock>;

/// Facts from the superblock of one device about its array and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The array.
    pub(crate) uuid: [u8; 16],
    /// Its name as a component of a path, without the host.
    pub(crate) name: String,
    /// Its level as a number: 1 is a mirror.
    pub(crate) level: u32,
    /// Number of devices that hold data when the array is complete.
    pub(crate) devices: u32,
    /// The number of this device.
    pub(crate) number: u32,
    /// Number of writes of the array's state.
    pub(crate) events: u64,
    /// Offset and length in bytes of the data.
    pub(crate) data: (u64, u64),
    /// Whether this device contains all data, according to itself.
    pub(crate) is_complete: bool,
    /// Whether the array is being reshaped.
    pub(crate) is_reshaped: bool,
    /// Whether the superblock certainly belongs to this device, and not to a partition at its end.
    pub(crate) is_certain: bool,
    /// Roles by number.
    roles: Vec<u16>,
}

impl Superblock {
    /// Whether this superblock lists the device with that number as one with data.
    pub(crate) fn trusts(&self, number: u32) -> bool {
        self.roles
            .get(usize_from_u32(number))
            .is_some_and(|role| *role < ROLE_NONE)
    }

    /// The level's usual name.
    pub(crate) fn level_name(&self) -> String {
        match self.level {
            0xffff_ffff => "linear".to_owned(),
            level if level <= 10 => format!("RAID {level}"),
            level => format!("level 0x{level:x}"),
        }
    }
}

/// The sum of all words, folded into 32 bits; the word at `at` counts as zero.
fn sum(bytes: &[u8], at: usize) -> u32 {
    let mut total = 0u64;
    for (chunk, n) in bytes.chunks(4).zip(0usize..) {
        let word = match chunk {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            [a, b, ..] => u32::from(u16::from_le_bytes([*a, *b])),
            _ => 0,
        };
        if n.checked_mul(4) != Some(at) {
            total = total.saturating_add(word.into());
        }
    }
    let folded = (total & 0xffff_ffff).saturating_add(total >> 32);
    u32::try_from(folded & 0xffff_ffff).unwrap_or(0)
}

/// An array's name as a component of a path; an unusable name is replaced by the start of its UUID.
fn path_name(name: Option<String>, uuid: [u8; 16]) -> String {
    let name = name.unwrap_or_default();
    let own = name.rsplit(':').next().unwrap_or_default();
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"+_-.".contains(&b);
    let is_path = !own.is_empty()
        && own.len() <= NAME_CHARS_MAX
        && own.bytes().all(is_fine)
        && !own.starts_with('.');
    if is_path {
        return own.to_owned();
    }
    uuid.iter().take(4).map(|b| format!("{b:02x}")).collect()
}

/// Parses version 1; `place` is its offset.
fn parse_1(block: &[u8], place: u64) -> Option<Superblock> {
    let is_one = le32(block, 0)? == MAGIC && le32(block, 4)? == 1;
    let own = le64(block, 144)?.checked_mul(SECTOR_BYTES)?;
    if !is_one || own != place {
        return None;
    }
    let count = usize_from_u32(le32(block, 220)?);
    let end = count.checked_mul(2)?.checked_add(256)?;
    if sum(block.get(..end)?, 216) != le32(block, 216)? {
        return None;
    }
    let roles: Vec<u16> = block
        .get(256..end)?
        .chunks_exact(2)
        .filter_map(|pair| le16(pair, 0))
        .collect();
    let number = le32(block, 160)?;
    let features = le32(block, 8)?;
    let uuid = array(block, 16)?;
    let role = roles.get(usize_from_u32(number)).copied();
    Some(Superblock {
        uuid,
        name: path_name(block.get(32..64).and_then(text), uuid),
        level: le32(block, 72)?,
        devices: le32(block, 92)?,
        number,
        events: le64(block, 200)?,
        data: (
            le64(block, 128)?.checked_mul(SECTOR_BYTES)?,
            le64(block, 80)?
                .min(le64(block, 136)?)
                .checked_mul(SECTOR_BYTES)?,
        ),
        is_complete: features & FEATURE_RECOVERY == 0 && role.is_some_and(|role| role < ROLE_NONE),
        is_reshaped: features & FEATURE_RESHAPE != 0,
        is_certain: true,
        roles,
    })
}

/// Parses version 0.90; `place` is its offset.
fn parse_0(block: &[u8], place: u64) -> Option<Superblock> {
    let word = |n: usize| le32(block, n.checked_mul(4)?);
    if word(0)? != MAGIC || word(1)? != 0 || sum(block, 152) != word(38)? {
        return None;
    }
    let mut uuid = [0; 16];
    for (field, n) in uuid.chunks_exact_mut(4).zip([5, 13, 14, 15]) {
        field.copy_from_slice(&word(n)?.to_be_bytes());
    }
    let descriptor = |n: usize, field: usize| {
        let first = n.checked_mul(DESCRIPTOR_WORDS)?.checked_add(128)?;
        word(first.checked_add(field)?)
    };
    let role = |n: usize| {
        let (position, state) = (descriptor(n, 3)?, descriptor(n, 4)?);
        Some(match state {
            state if state & STATE_FAULTY != 0 => ROLE_FAULTY,
            state if state & STATE_IN_SYNC != 0 => u16::try_from(position).ok()?,
            _ => u16::MAX,
        })
    };
    let roles: Vec<u16> = (0..DESCRIPTORS)
        .map(|n| role(n).unwrap_or(u16::MAX))
        .collect();
    let number = word(992)?;
    let data_bytes = u64::from(word(8)?).checked_mul(1024)?;
    let state = word(996)?;
    let high = u64::from(word(40)?) << 32;
    Some(Superblock {
        uuid,
        name: format!("md{}", word(11)?),
        level: word(7)?,
        devices: word(10)?,
        number,
        events: high | u64::from(word(39)?),
        data: (0, data_bytes),
        is_complete: state & STATE_IN_SYNC != 0 && state & STATE_FAULTY == 0,
        is_reshaped: word(2)? >= 91,
        is_certain: data_bytes == place,
        roles,
    })
}

/// Finds the superblock of a device; `None` when it has no valid one.
///
/// # Errors
/// `Io`, and other errors of reading.
pub(crate) fn load(device: &dyn ReadAt) -> Result<Option<Superblock>> {
    let size = device.size_bytes();
    let sectors = size.checked_div(SECTOR_BYTES).unwrap_or(0);
    let at_end = |room: u64, step: u64| {
        let sector = sectors.checked_sub(room)? & !step.saturating_sub(1);
        sector.checked_mul(SECTOR_BYTES)
    };
    // 0.90: round down to whole 64 KiB, and subtract another 64 KiB.
    let old = (sectors & !127)
        .checked_sub(128)
        .and_then(|sector| sector.checked_mul(SECTOR_BYTES));
    let places: [(Option<u64>, Parse); 4] = [
        (Some(0), parse_1),
        (Some(4096), parse_1),
        (at_end(16, 8), parse_1),
        (old, parse_0),
    ];
    for (place, parse) in places {
        let Some(place) = place else { continue };
        let there = size
            .saturating_sub(place)
            .min(u64::try_from(BLOCK_BYTES).unwrap_or(0));
        let mut block = vec![0; usize_from_u64(there)];
        device.read_at(place.min(size), &mut block)?;
        if let Some(superblock) = parse(&block, place).filter(|found| found.is_within(size)) {
            return Ok(Some(superblock));
        }
    }
    Ok(None)
}

impl Superblock {
    /// Whether the data lies on a device of `size` bytes.
    fn is_within(&self, size: u64) -> bool {
        let (start, length) = self.data;
        start.checked_add(length).is_some_and(|end| end <= size) && length > 0
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test stops at the first surprise"
)]
mod tests {
    use super::{load, path_name, sum};
    use crate::block::{MemoryDisk, WriteAt};

    /// A disk of 1 MiB with a version 1.2 superblock of a mirror; 512 KiB of data from 256 KiB on.
    fn block() -> Vec<u8> {
        let mut block = vec![0; 260];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0xa92b_4efc_u32.to_le_bytes());
        put(4, &1u32.to_le_bytes());
        put(16, &[7; 16]);
        put(32, b"host:root");
        for (at, value) in [(72, 1u32), (92, 2), (160, 1), (220, 2)] {
            put(at, &value.to_le_bytes());
        }
        for (at, value) in [(80, 1024u64), (128, 512), (136, 1100), (144, 8), (200, 42)] {
            put(at, &value.to_le_bytes());
        }
        put(256, &[0, 0, 1, 0]);
        let checksum = sum(&block, 216).to_le_bytes();
        block[216..220].copy_from_slice(&checksum);
        block
    }

    fn disk(block: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::sparse(1 << 20);
        disk.write_at(4096, block).unwrap();
        disk
    }

    #[test]
    fn every_flipped_byte_is_no_superblock() {
        let block = block();
        let found = load(&disk(&block)).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.events), ("root", 42));
        assert_eq!(found.data, (512 * 512, 1024 * 512));
        assert!(found.is_complete && found.trusts(0) && found.trusts(1) && !found.trusts(2));
        for at in 0..block.len() {
            let mut flipped = block.clone();
            flipped[at] ^= 0x10;
            assert_eq!(load(&disk(&flipped)).unwrap(), None, "{at}");
        }
        // Data that passes the end of the device.
        let mut long = block;
        long[80..88].copy_from_slice(&u64::MAX.to_le_bytes());
        long[136..144].copy_from_slice(&(u64::MAX / 512).to_le_bytes());
        let checksum = sum(&long, 216).to_le_bytes();
        long[216..220].copy_from_slice(&checksum);
        assert_eq!(load(&disk(&long)).unwrap(), None);
    }

    #[test]
    fn small_devices_have_none() {
        for size in [0u64, 1, 511, 4096, 8192, 65_536, 131_072] {
            assert_eq!(load(&MemoryDisk::sparse(size)).unwrap(), None, "{size}");
        }
    }

    #[test]
    fn hostile_names_become_no_paths() {
        let name = |text: &str| path_name(Some(text.to_owned()), [0xab; 16]);
        assert_eq!(name("host:data"), "data");
        for bad in ["", "host:", "..", "a/b", ".hidden", "host:a b", "a\n"] {
            assert_eq!(name(bad), "abababab", "{bad}");
        }
    }
}
