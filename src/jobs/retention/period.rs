//! Periods of the calendar by which points are counted.

use std::fmt;

use jiff::Zoned;

/// A kind of period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour of the clock. The hour that is repeated in autumn is two periods.
    Hour,
    /// A day.
    Day,
    /// A week as ISO 8601 counts them: it begins on Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// All kinds, from the shortest.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The name of the rule that counts these periods.
    #[must_use]
    pub const fn adverb(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// Whether the oldest point stays while the rule has not kept as many points as it asks for.
    #[must_use]
    pub const fn keeps_oldest(self) -> bool {
        matches!(self, Self::Week | Self::Month | Self::Year)
    }

    /// The period that an instant lies in: equal for instants of one period only.
    pub(super) fn of(self, at: &Zoned) -> [i32; 4] {
        let (year, month) = (i32::from(at.year()), i32::from(at.month()));
        match self {
            Self::Hour => {
                let day = i32::from(at.day_of_year());
                [year, day, i32::from(at.hour()), at.offset().seconds()]
            }
            Self::Day => [year, i32::from(at.day_of_year()), 0, 0],
            Self::Week => {
                let week = at.date().iso_week_date();
                [i32::from(week.year()), i32::from(week.week()), 0, 0]
            }
            Self::Month => [year, month, 0, 0],
            Self::Year => [year, 0, 0, 0],
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.adverb())
    }
}
