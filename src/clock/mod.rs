//! Time: the trait that supplies `now`, and the formats of timestamps in sidecars and names.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{Timestamp, tz::TimeZone};

/// The source of `now`; tests pass a [`ManualClock`].
pub trait Clock: Send + Sync {
    /// The present instant (UTC).
    fn now(&self) -> Timestamp;

    /// Time since an instant that is fixed for the life of the process, for measuring intervals. It
    /// never steps, even when the wall clock is changed.
    fn monotonic(&self) -> Duration;
}

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        ORIGIN.get_or_init(Instant::now).elapsed()
    }
}

/// A clock that stands still until it is advanced.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicI64,
    passed: AtomicU64,
}

impl ManualClock {
    /// Creates a clock that stands at `seconds` since the epoch.
    #[must_use]
    pub const fn at(seconds: i64) -> Self {
        Self {
            wall: AtomicI64::new(seconds),
            passed: AtomicU64::new(0),
        }
    }

    /// Lets `seconds` pass; a negative number is a step back.
    pub fn advance(&self, seconds: i64) {
        self.step(seconds);
        let passed = u64::try_from(seconds).unwrap_or(0);
        self.passed.fetch_add(passed, Ordering::SeqCst);
    }

    /// Steps the wall clock by `seconds`, backwards if negative; no time passes.
    pub fn step(&self, seconds: i64) {
        self.wall.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.wall.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.passed.load(Ordering::SeqCst))
    }
}

/// `2026-11-20_02-00-00`: the default name of a point, in UTC and without colons.
#[must_use]
pub fn point_name(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d_%H-%M-%S")
        .to_string()
}

/// `20261120T020000Z`: the time in the name of a layer's slot.
#[must_use]
pub fn slot_time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string()
}

/// The instant that [`slot_time`] shows; `None` for any other text.
#[must_use]
pub fn parse_slot_time(text: &str) -> Option<Timestamp> {
    let at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let at = at.to_zoned(TimeZone::UTC).ok()?.timestamp();
    (slot_time(at) == text).then_some(at)
}

/// `2026-11`: the month by which job histories are kept.
#[must_use]
pub fn month(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string()
}

#[cfg(test)]
mod tests {
    use super::{Clock, ManualClock, SystemClock, month, parse_slot_time, point_name, slot_time};
    use std::time::Duration;

    #[test]
    fn steps_of_the_wall_clock_are_no_time_that_passes() {
        let clock = ManualClock::at(1_795_226_400);
        clock.step(86_400);
        clock.step(-7 * 86_400);
        assert_eq!(clock.monotonic(), Duration::ZERO);
        clock.advance(5);
        clock.advance(-5);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
        let (first, second) = (SystemClock.monotonic(), SystemClock.monotonic());
        assert!(first <= second);
    }

    #[test]
    fn names_are_utc_and_colon_free() {
        let clock = ManualClock::at(1_795_226_400);
        assert_eq!(point_name(clock.now()), "2026-11-21_02-00-00");
        assert_eq!(slot_time(clock.now()), "20261121T020000Z");
        assert_eq!(parse_slot_time("20261121T020000Z"), Some(clock.now()));
        for bad in [
            "",
            "20261121T020000",
            "2026-11-21",
            "20261321T020000Z",
            " 20261121T020000Z",
        ] {
            assert_eq!(parse_slot_time(bad), None, "{bad}");
        }
        assert_eq!(month(clock.now()), "2026-11");
        clock.advance(-86_400);
        assert_eq!(point_name(clock.now()), "2026-11-20_02-00-00");
    }
}
