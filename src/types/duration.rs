//! Lengths of time as people write them.

use std::fmt;

use crate::error::{Error, Result};

/// Shows a length of time in seconds, rounded down to a unit of which there are two or more: `90s`, `45m`, `26h`, `12d`.
#[derive(Debug, Clone, Copy)]
pub struct Age(pub u64);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds @ ..120 => write!(f, "{seconds}s"),
            seconds @ ..7_200 => write!(f, "{}m", seconds / 60),
            seconds @ ..172_800 => write!(f, "{}h", seconds / 3600),
            seconds => write!(f, "{}d", seconds / 86_400),
        }
    }
}

/// Parses `90s`, `30m`, `6h`, `2d` or a number of seconds.
///
/// # Errors
/// `InvalidInput`.
pub fn parse_seconds(text: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(format!(
            "\"{}\" is not a time; write for example 90s, 30m, 6h, 2d",
            text.escape_debug()
        ))
    };
    let (digits, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(bad)
}
