//! Schedules: the instants at which backups are due.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::error::{Error, Result};

/// LIMIT: hours between backups: a year.
const HOURS_MAX: i64 = 366 * 24;
const HOUR_SECONDS: i64 = 3_600;

/// When backups are due. In text: `hourly`, `daily 02:00`, `weekly mon 02:00`, `every 6h`.
///
/// A time that a day does not have, because the clock is put forward, is due once, as long after the gap as it lies in it; one that
/// a day has twice is due at the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// At each full hour of the clock.
    Hourly,
    /// Each day at this time.
    Daily(Time),
    /// Each week on this day at this time.
    Weekly(Weekday, Time),
    /// Each multiple of so many hours since 1970-01-01T00:00Z, whatever the zone is.
    Every(i64),
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

impl Schedule {
    /// The last instant at or before `now`; `None` where the calendar has none.
    #[must_use]
    pub fn last(self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Hourly => {
                let at = now.to_zoned(zone.clone());
                let since = i64::from(at.minute()) * 60 + i64::from(at.second());
                Timestamp::from_second(whole_second(now).checked_sub(since)?).ok()
            }
            Self::Every(hours) => {
                let length = hours * HOUR_SECONDS;
                let second = whole_second(now);
                Timestamp::from_second(second - second.rem_euclid(length)).ok()
            }
            Self::Daily(_) | Self::Weekly(..) => {
                let around = self.around(now, zone);
                around.into_iter().filter(|at| *at <= now).max()
            }
        }
    }

    /// The first instant after `after`; `None` where the calendar has none.
    #[must_use]
    pub fn next(self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let hours = |hours: i64| SignedDuration::from_hours(hours);
        match self {
            Self::Hourly => self.last(after.checked_add(hours(1)).ok()?, zone),
            Self::Every(length) => self.last(after.checked_add(hours(length)).ok()?, zone),
            Self::Daily(_) | Self::Weekly(..) => {
                let around = self.around(after, zone);
                around.into_iter().filter(|at| *at > after).min()
            }
        }
    }

    /// The longest time in seconds between two instants, changes of the clock left aside.
    #[must_use]
    pub const fn length_seconds(self) -> i64 {
        match self {
            Self::Hourly => HOUR_SECONDS,
            Self::Every(hours) => hours * HOUR_SECONDS,
            Self::Daily(_) => 24 * HOUR_SECONDS,
            Self::Weekly(..) => 7 * 24 * HOUR_SECONDS,
        }
    }

    /// The instants of the days around `at`.
    fn around(self, at: Timestamp, zone: &TimeZone) -> Vec<Timestamp> {
        let (day, time, reach) = match self {
            Self::Daily(time) => (None, time, 2),
            Self::Weekly(day, time) => (Some(day), time, 9),
            Self::Hourly | Self::Every(_) => return Vec::new(),
        };
        let today = at.to_zoned(zone.clone()).date();
        let dates = (-reach..=reach).filter_map(|days: i64| today.checked_add(days.days()).ok());
        dates
            .filter(|date| day.is_none_or(|day| date.weekday() == day))
            // A time within a gap is moved behind it, the first of two is taken.
            .filter_map(|date| date.to_datetime(time).to_zoned(zone.clone()).ok())
            .map(|zoned| zoned.timestamp())
            .collect()
    }
}

/// The second in which an instant lies, also before 1970.
fn whole_second(at: Timestamp) -> i64 {
    at.as_nanosecond()
        .div_euclid(1_000_000_000)
        .try_into()
        .unwrap_or(0)
}

/// Parses `HH:MM`.
fn time_of_day(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| -> Option<i8> {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok())?
    };
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

impl FromStr for Schedule {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let shown = text.escape_debug();
        let bad_time = |time: &str| {
            let shown = time.escape_debug();
            Error::invalid(format!("\"{shown}\" is not a time of the day"))
                .advise("write hours and minutes, from 00:00 to 23:59")
        };
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["hourly"] => Ok(Self::Hourly),
            ["daily", time] => Ok(Self::Daily(
                time_of_day(time).ok_or_else(|| bad_time(time))?,
            )),
            ["weekly", day, time] => {
                let known = DAYS.iter().find(|(name, _)| day.eq_ignore_ascii_case(name));
                let (_, day) = known.ok_or_else(|| {
                    Error::invalid(format!(
                        "\"{}\" is not a day of the week",
                        day.escape_debug()
                    ))
                    .advise("write mon, tue, wed, thu, fri, sat or sun")
                })?;
                Ok(Self::Weekly(
                    *day,
                    time_of_day(time).ok_or_else(|| bad_time(time))?,
                ))
            }
            ["every", hours] => {
                let number = hours.strip_suffix('h').and_then(|n| n.parse::<i64>().ok());
                match number {
                    Some(hours @ 1..=HOURS_MAX) => Ok(Self::Every(hours)),
                    _ => Err(Error::invalid(format!(
                        "\"{}\" is not a number of hours",
                        hours.escape_debug()
                    ))
                    .advise(format!("write whole hours, from 1h to {HOURS_MAX}h"))),
                }
            }
            _ => Err(Error::invalid(format!("\"{shown}\" is not a schedule"))
                .advise("write hourly, daily HH:MM, weekly DAY HH:MM, or every Nh")),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hourly => f.write_str("hourly"),
            Self::Daily(time) => write!(f, "daily {}", time.strftime("%H:%M")),
            Self::Weekly(day, time) => {
                let known = DAYS.iter().find(|(_, known)| known == day);
                let day = known.map_or("mon", |(name, _)| name);
                write!(f, "weekly {day} {}", time.strftime("%H:%M"))
            }
            Self::Every(hours) => write!(f, "every {hours}h"),
        }
    }
}
