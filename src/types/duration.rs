//! Lengths of time as people write them.

use crate::error::{Error, Result};

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
