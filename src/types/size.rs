//! Sizes as people write and read them: `40G`, `1.5 TiB`.

use std::fmt;

use super::width::u64_from_usize;
use crate::error::{Error, Result};

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Shows a count of bytes with three significant digits and a binary unit.
#[derive(Debug, Clone, Copy)]
pub struct Human(pub u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 0;
        let mut scale: u64 = 1;
        while unit + 1 < UNITS.len() && self.0 / scale >= 1024 {
            scale <<= 10;
            unit += 1;
        }
        let name = UNITS.get(unit).copied().unwrap_or("B");
        let text = if unit == 0 {
            format!("{} {name}", self.0)
        } else {
            let whole = self.0 / scale;
            let tenth = (self.0 % scale) / (scale / 1024) * 10 / 1024;
            if whole >= 100 {
                format!("{whole} {name}")
            } else {
                format!("{whole}.{tenth} {name}")
            }
        };
        f.pad(&text)
    }
}

/// Shows a number of things: `1 file`, `2 files`. The noun is regular, in the singular.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub u64, pub &'static str);

impl Count {
    /// The number of things in a collection.
    #[must_use]
    pub fn of(length: usize, noun: &'static str) -> Self {
        Self(u64_from_usize(length), noun)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, noun) = self;
        let stem = noun.strip_suffix('y');
        // A vowel before it keeps it: days.
        let stem = stem.filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']));
        match (*number, stem) {
            (1, _) => write!(f, "1 {noun}"),
            (_, Some(stem)) => write!(f, "{number} {stem}ies"),
            (_, None) => write!(f, "{number} {noun}s"),
        }
    }
}

/// Parses a size in bytes: digits with an optional fraction and one of `K M G T P E` (powers of 1024,
/// as in qemu-img), with or without `iB` or `B`.
///
/// # Errors
/// `InvalidInput` when it is not a size or exceeds 2^64 - 1.
pub fn parse(text: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(format!(
            "\"{text}\" is not a size; write for example 40G, 512M or 1073741824"
        ))
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift: u32 = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let whole = whole.checked_mul(1 << shift).ok_or_else(bad)?;
    if fraction.is_empty() {
        return Ok(whole);
    }
    if fraction.len() > 9 || shift == 0 {
        return Err(bad());
    }
    let numerator: u64 = fraction.parse().map_err(|_| bad())?;
    let denominator = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let part = u128::from(numerator) * (1u128 << shift) / denominator;
    let part = u64::try_from(part).map_err(|_| bad())?;
    whole.checked_add(part).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::{Human, parse};

    #[test]
    fn parses_and_shows() {
        assert_eq!(parse("40G").unwrap(), 40 << 30);
        assert_eq!(parse("1.5 TiB").unwrap(), 3 << 39);
        assert_eq!(parse("512").unwrap(), 512);
        for bad in ["", "G", "1.5", "12X", "-1", "99999999999E", "1.2.3G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Human(1536).to_string(), "1.5 KiB");
        assert_eq!(Human(0).to_string(), "0 B");
        assert_eq!(Human(u64::MAX).to_string(), "15.9 EiB");
    }

    #[test]
    fn nouns_get_their_plural() {
        let say = |number, noun| super::Count(number, noun).to_string();
        assert_eq!(say(1, "day"), "1 day");
        assert_eq!(say(2, "day"), "2 days");
        assert_eq!(say(0, "entry"), "0 entries");
        assert_eq!(say(3, "layer"), "3 layers");
    }
}
