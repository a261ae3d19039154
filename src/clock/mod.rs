//! Time: the trait that passes `now` in, and timestamps as sidecars and names carry them.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{Timestamp, tz::TimeZone};

/// Where `now` comes from; tests pass a [`ManualClock`].
pub trait Clock: Send + Sync {
    /// The present instant (UTC).
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until told otherwise.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Stands at `seconds` since the epoch.
    #[must_use]
    pub const fn at(seconds: i64) -> Self {
        Self(AtomicI64::new(seconds))
    }
    /// Moves by `seconds`, backwards if negative.
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap_or(Timestamp::UNIX_EPOCH)
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

#[cfg(test)]
mod tests {
    use super::{Clock, ManualClock, point_name, slot_time};

    #[test]
    fn names_are_utc_and_colon_free() {
        let clock = ManualClock::at(1_795_226_400);
        assert_eq!(point_name(clock.now()), "2026-11-21_02-00-00");
        assert_eq!(slot_time(clock.now()), "20261121T020000Z");
        clock.advance(-86_400);
        assert_eq!(point_name(clock.now()), "2026-11-20_02-00-00");
    }
}
