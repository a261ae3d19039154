//! Lengths of time as `--keep-within` takes them: `2y5m7d3h`, as in restic.

use std::fmt;
use std::str::FromStr;

use jiff::{Timestamp, tz::TimeZone};

use crate::error::{Error, Result};

/// LIMIT: the largest number of one unit: 10,000 years, more than the calendar has.
const NUMBER_MAX: u32 = 10_000 * 366 * 24;

/// Years, months, days and hours, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    years: u32,
    months: u32,
    days: u32,
    hours: u32,
}

impl Span {
    /// Whether it has no length.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// The instant that lies this long before `at`: first years, months and days of the calendar in `zone`, then hours. A
    /// day that a month does not have becomes its last one. The earliest instant where the calendar ends before.
    pub(super) fn before(self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        let number = i64::from;
        let length = jiff::Span::new()
            .try_years(number(self.years))
            .and_then(|s| s.try_months(number(self.months)))
            .and_then(|s| s.try_days(number(self.days)))
            .and_then(|s| s.try_hours(number(self.hours)));
        length
            .and_then(|length| at.to_zoned(zone.clone()).checked_sub(length))
            .map_or(Timestamp::MIN, |begin| begin.timestamp())
    }
}

impl FromStr for Span {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "\"{}\" is not a length of time; write years, months, days and hours, for example 1y6m, 14d or 2d12h",
                text.escape_debug()
            ))
        };
        let mut span = Self::default();
        let mut rest = text;
        let mut seen = String::new();
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, after) = rest.split_at(digits);
            let unit = after.chars().next().ok_or_else(bad)?;
            let number: u32 = number.parse().map_err(|_| bad())?;
            if number > NUMBER_MAX || seen.contains(unit) {
                return Err(bad());
            }
            seen.push(unit);
            match unit {
                'y' => span.years = number,
                'm' => span.months = number,
                'd' => span.days = number,
                'h' => span.hours = number,
                _ => return Err(bad()),
            }
            rest = after.strip_prefix(unit).unwrap_or_default();
        }
        if seen.is_empty() {
            Err(bad())
        } else {
            Ok(span)
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.years, 'y'),
            (self.months, 'm'),
            (self.days, 'd'),
            (self.hours, 'h'),
        ];
        if self.is_zero() {
            return f.write_str("0h");
        }
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}
