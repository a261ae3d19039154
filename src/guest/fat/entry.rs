//! Directory entries of 32 bytes each. Up to twenty entries before a file's entry contain its long name.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::name;
use crate::guest::bytes::{array, le16, le32};
use crate::guest::fs::Time;

/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 32;
/// Attributes of an entry: read-only, label, directory, and the combination for "part of a long name".
const READ_ONLY: u8 = 0x01;
const LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG: u8 = 0x0f;
/// First byte of a deleted entry.
const DELETED: u8 = 0xe5;
/// LIMIT: entries of one long name (the format's limit: 255 units of 13 each).
const PARTS_MAX: u8 = 20;
const UNITS_MAX: usize = 255;

/// An entry of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileEntry {
    short: [u8; 11],
    flags: u8,
    pub(super) is_directory: bool,
    pub(super) is_read_only: bool,
    /// First cluster; the upper half is used only in FAT32.
    pub(super) cluster: u64,
    pub(super) size_bytes: u64,
    pub(super) written: Time,
    pub(super) created: Time,
    pub(super) accessed: Time,
}

/// A date and a time of day in UTC: the format has no time zone, and Linux assumes UTC.
fn time(date: u16, time: u16, hundredths: u8) -> Time {
    let (year, month, day) = (
        i64::from(date >> 9).saturating_add(1980),
        i64::from((date >> 5) & 0xf).clamp(1, 12),
        i64::from(date & 0x1f).max(1),
    );
    // Days since 1970: years begin in March, so that the leap day comes last.
    let (year, month) = if month > 2 {
        (year, month.saturating_sub(3))
    } else {
        (year.saturating_sub(1), month.saturating_add(9))
    };
    let div = |n: i64, by: i64| n.checked_div(by).unwrap_or(0);
    let days = div(year.saturating_mul(1461), 4)
        .saturating_sub(div(year, 100))
        .saturating_add(div(year, 400))
        .saturating_add(div(month.saturating_mul(153).saturating_add(2), 5))
        .saturating_add(day)
        .saturating_sub(719_469);
    let seconds = i64::from(time >> 11)
        .saturating_mul(3600)
        .saturating_add(i64::from((time >> 5) & 0x3f).saturating_mul(60))
        .saturating_add(i64::from(time & 0x1f).saturating_mul(2))
        .saturating_add(i64::from(hundredths / 100));
    Time {
        seconds: days.saturating_mul(86_400).saturating_add(seconds),
        nanoseconds: u32::from(hundredths % 100).saturating_mul(10_000_000),
    }
}

impl FileEntry {
    /// Parses an entry; `None` when it is not a file's.
    pub(super) fn parse(bytes: &[u8], is_wide: bool) -> Option<Self> {
        let short: [u8; 11] = array(bytes, 0)?;
        let attributes = *bytes.get(11)?;
        if matches!(short.first(), Some(0 | &DELETED)) || attributes & LABEL != 0 {
            return None;
        }
        let upper = if is_wide { le16(bytes, 20)? } else { 0 };
        let cluster = (u64::from(upper) << 16) | u64::from(le16(bytes, 26)?);
        let is_directory = attributes & DIRECTORY != 0;
        Some(Self {
            short,
            flags: *bytes.get(12)?,
            is_directory,
            is_read_only: attributes & READ_ONLY != 0,
            cluster,
            size_bytes: if is_directory {
                0
            } else {
                u64::from(le32(bytes, 28)?)
            },
            written: time(le16(bytes, 24)?, le16(bytes, 22)?, 0),
            created: time(le16(bytes, 16)?, le16(bytes, 14)?, *bytes.get(13)?),
            accessed: time(le16(bytes, 18)?, 0, 0),
        })
    }

    /// Whether it is `.` or `..`.
    fn is_dots(&self) -> bool {
        matches!(&self.short, b".          " | b"..         ")
    }
}

/// The parts of a long name so far; the last part comes first.
struct LongName {
    units: Vec<u16>,
    /// Number of missing parts.
    left: u8,
    sum: u8,
}

/// The checksum of a short name, which the parts of its long name contain.
fn checksum(short: [u8; 11]) -> u8 {
    short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Adds a part of a long name; `None` when it does not belong to the parts before.
fn add_part(before: Option<LongName>, bytes: &[u8]) -> Option<LongName> {
    let (order, sum) = (*bytes.first()?, *bytes.get(13)?);
    let number = order & 0x3f;
    let mut name = if order & 0x40 != 0 && (1..=PARTS_MAX).contains(&number) {
        LongName {
            units: Vec::new(),
            left: number,
            sum,
        }
    } else {
        before.filter(|name| name.left == number && name.sum == sum && number > 0)?
    };
    let mut units = Vec::with_capacity(13);
    for (at, count) in [(1usize, 5usize), (14, 6), (28, 2)] {
        let field = bytes.get(at..)?.chunks_exact(2).take(count);
        units.extend(field.filter_map(|pair| le16(pair, 0)));
    }
    units.append(&mut name.units);
    name.units = units;
    name.left = name.left.saturating_sub(1);
    Some(name)
}

/// The content of a directory: file names with the positions of their entries, and the label.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: Vec<(Vec<u8>, usize, FileEntry)>,
    pub(super) label: Option<String>,
}

/// Parses a directory. A long name that does not match its entry is ignored, and the short name is shown, as
/// in all systems.
pub(super) fn list(bytes: &[u8], is_wide: bool) -> Listing {
    let mut listing = Listing::default();
    let mut long: Option<LongName> = None;
    for (entry, n) in bytes.chunks_exact(ENTRY_BYTES).zip(0usize..) {
        let (Some(first), Some(attributes)) = (entry.first(), entry.get(11)) else {
            break;
        };
        match *first {
            // No entry behind it was ever used.
            0 => break,
            DELETED => long = None,
            _ if attributes & 0x3f == LONG => long = add_part(long.take(), entry),
            _ if attributes & LABEL != 0 => {
                listing.label = listing
                    .label
                    .or_else(|| array(entry, 0).and_then(name::label));
                long = None;
            }
            _ => {
                let name = long.take();
                let Some(file) = FileEntry::parse(entry, is_wide).filter(|f| !f.is_dots()) else {
                    continue;
                };
                let name = long_name(name, file.short)
                    .unwrap_or_else(|| name::from_short(file.short, file.flags));
                if !name.is_empty() {
                    listing.files.push((name, n, file));
                }
            }
        }
    }
    listing
}

fn long_name(name: Option<LongName>, short: [u8; 11]) -> Option<Vec<u8>> {
    let name = name.filter(|name| name.left == 0 && name.sum == checksum(short))?;
    let end = name.units.iter().position(|unit| *unit == 0);
    let units = name.units.get(..end.unwrap_or(name.units.len()))?;
    (!units.is_empty() && units.len() <= UNITS_MAX).then(|| name::from_units(units))
}

#[cfg(test)]
mod tests {
    use super::{checksum, list, time};

    fn file(short: &[u8; 11], attributes: u8) -> Vec<u8> {
        let mut bytes = short.to_vec();
        bytes.push(attributes);
        bytes.resize(32, 0);
        bytes
    }

    fn part(order: u8, sum: u8, text: &str) -> Vec<u8> {
        let mut units: Vec<u16> = text.encode_utf16().collect();
        if units.len() < 13 {
            units.push(0);
        }
        units.resize(13, 0xffff);
        let raw: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let mut bytes = vec![order];
        bytes.extend(raw.iter().take(10));
        bytes.extend([0x0f, 0, sum]);
        bytes.extend(raw.iter().skip(10).take(12));
        bytes.extend([0, 0]);
        bytes.extend(raw.iter().skip(22));
        bytes
    }

    fn names(parts: &[Vec<u8>]) -> Vec<String> {
        list(&parts.concat(), true)
            .files
            .into_iter()
            .map(|(name, ..)| String::from_utf8(name).unwrap())
            .collect()
    }

    #[test]
    fn times() {
        // 1980-01-01, and 2107-12-31 23:59:58 with 1.99 seconds.
        assert_eq!(time(0x21, 0, 0).seconds, 315_532_800);
        let last = time(0xff9f, 0xbf7d, 199);
        assert_eq!(
            (last.seconds, last.nanoseconds),
            (4_354_819_199, 990_000_000)
        );
        // 2000-02-29, and an invalid date.
        assert_eq!(time((20 << 9) | (2 << 5) | 29, 0, 0).seconds, 951_782_400);
        assert_eq!(time(0, 0, 0).seconds, 315_532_800);
    }

    #[test]
    fn long_names_belong_to_the_entry_that_they_sum() {
        let short = b"LONGNA~1TXT";
        let sum = checksum(*short);
        let parts = [
            part(0x42, sum, "e.txt"),
            part(1, sum, "a long file n"),
            file(short, 0x20),
        ];
        // "n" ends the first part of 13; the second part follows.
        assert_eq!(names(&parts), ["a long file ne.txt"]);
        let wrong = [part(0x41, sum ^ 1, "other"), file(short, 0x20)];
        assert_eq!(names(&wrong), ["LONGNA~1.TXT"]);
        let missing = [part(0x42, sum, "e.txt"), file(short, 0x20)];
        assert_eq!(names(&missing), ["LONGNA~1.TXT"]);
        let disordered = [
            part(1, sum, "a long file n"),
            part(0x42, sum, "e"),
            file(short, 0x20),
        ];
        assert_eq!(names(&disordered), ["LONGNA~1.TXT"]);
        let empty = [part(0x41, sum, ""), file(short, 0x20)];
        assert_eq!(names(&empty), ["LONGNA~1.TXT"]);
    }

    #[test]
    fn what_names_no_file_is_left_out() {
        let parts = [
            file(b"LABEL      ", 8),
            file(b".          ", 0x10),
            file(b"..         ", 0x10),
            file(b"\xe5ONE       ", 0x20),
            file(b"HERE       ", 0x20),
            vec![0; 32],
            file(b"BEHIND     ", 0x20),
        ];
        assert_eq!(names(&parts), ["HERE"]);
        let label = list(&parts.concat(), false).label;
        assert_eq!(label.as_deref(), Some("LABEL"));
    }
}
