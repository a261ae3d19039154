//! A limit on failed authentications of one address.
//!
//! # Invariants
//! - An address with [`FAILURES_MAX`] failures within [`WINDOW`] is refused until [`WINDOW`] after
//!   the last of them, whatever it presents: the answer to a guess is no oracle.
//! - Attempts that are refused here are no failures: nobody is kept out for ever by trying.
//! - Addresses of this machine count like others.
//!
//! # Why
//! The instants of the last failures are kept, rather than a level that drains: so the limit is exact
//! over any minute, and not only over those that begin with the first failure.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// LIMIT: failures of an address within [`WINDOW`].
pub const FAILURES_MAX: usize = 10;

/// LIMIT: the time in which failures are counted, and for which an address is then refused.
pub const WINDOW: Duration = Duration::from_secs(60);

/// LIMIT: addresses that are remembered; the one whose last failure is the oldest makes room.
const ADDRESSES_MAX: usize = 4_096;

/// The failed authentications of the last minute, by address.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: Mutex<HashMap<IpAddr, VecDeque<Duration>>>,
}

/// What counts as one address: an IPv6 network of 64 bits is one customer's.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Throttle {
    /// A table without failures.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses an address with too many failures. `now` is [`Clock::monotonic`](crate::clock::Clock::monotonic).
    ///
    /// # Errors
    /// `LimitExceeded`, with the seconds to wait.
    pub fn check(&self, address: IpAddr, now: Duration) -> Result<()> {
        let mut failures = self.failures.lock();
        let key = key(address);
        let Some(times) = failures.get_mut(&key) else {
            return Ok(());
        };
        let until = times.back().map_or(Duration::ZERO, |last| *last + WINDOW);
        if until <= now {
            failures.remove(&key);
            return Ok(());
        }
        if times.len() < FAILURES_MAX {
            return Ok(());
        }
        let seconds = (until - now).as_secs().saturating_add(1);
        Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("{address} has failed to authenticate {FAILURES_MAX} times within a minute"),
        )
        .advise(format!("try again in {seconds} s")))
    }

    /// Records a failure.
    pub fn note_failure(&self, address: IpAddr, now: Duration) {
        let mut failures = self.failures.lock();
        let key = key(address);
        if !failures.contains_key(&key) && failures.len() >= ADDRESSES_MAX {
            let last = |times: &VecDeque<Duration>| times.back().copied();
            let oldest = failures.iter().min_by_key(|(_, times)| last(times));
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                failures.remove(&oldest);
            }
        }
        let times = failures.entry(key).or_default();
        times.push_back(now);
        while times.front().is_some_and(|first| *first + WINDOW <= now)
            || times.len() > FAILURES_MAX
        {
            times.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::{ADDRESSES_MAX, FAILURES_MAX, Throttle, WINDOW};
    use crate::error::ErrorKind;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A table in which the address has failed so often, a second apart, from `begin` on.
    fn failed(throttle: &Throttle, address: &str, times: usize, begin: u64) {
        for n in 0..times {
            throttle.note_failure(ip(address), seconds(begin + u64::try_from(n).unwrap()));
        }
    }

    #[test]
    fn ten_failures_within_a_minute_are_enough() {
        let throttle = Throttle::new();
        failed(&throttle, "192.0.2.7", FAILURES_MAX - 1, 100);
        throttle.check(ip("192.0.2.7"), seconds(109)).unwrap();
        failed(&throttle, "192.0.2.7", 1, 109);
        let error = throttle.check(ip("192.0.2.7"), seconds(110)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.report().contains("in 60 s"), "{}", error.report());
        throttle.check(ip("192.0.2.8"), seconds(110)).unwrap();
        assert!(throttle.check(ip("192.0.2.7"), seconds(168)).is_err());
        // The time to wait ends, and begins with all attempts again.
        throttle.check(ip("192.0.2.7"), seconds(169)).unwrap();
        failed(&throttle, "192.0.2.7", FAILURES_MAX - 1, 169);
        throttle.check(ip("192.0.2.7"), seconds(178)).unwrap();
    }

    #[test]
    fn slow_failures_are_let_through() {
        let throttle = Throttle::new();
        let mut now = seconds(0);
        for _ in 0..100 {
            now += WINDOW / 10 + seconds(1);
            throttle.check(ip("192.0.2.7"), now).unwrap();
            throttle.note_failure(ip("192.0.2.7"), now);
        }
    }

    #[test]
    fn loopback_counts_and_a_network_of_64_bits_is_one_address() {
        for (fails, asks, is_refused) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "::1", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("::ffff:192.0.2.7", "::ffff:192.0.2.8", false),
        ] {
            let throttle = Throttle::new();
            failed(&throttle, fails, FAILURES_MAX, 0);
            let refused = throttle.check(ip(asks), seconds(10)).is_err();
            assert_eq!(refused, is_refused, "{fails} {asks}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_makes_room() {
        let throttle = Throttle::new();
        failed(&throttle, "192.0.2.1", FAILURES_MAX, 0);
        failed(&throttle, "192.0.2.2", FAILURES_MAX, 10);
        for n in 1..ADDRESSES_MAX {
            let n = u32::try_from(n).unwrap();
            throttle.note_failure(IpAddr::V4((0x0a00_0000 + n).into()), seconds(30));
        }
        assert_eq!(throttle.failures.lock().len(), ADDRESSES_MAX);
        throttle.check(ip("192.0.2.1"), seconds(31)).unwrap();
        assert!(throttle.check(ip("192.0.2.2"), seconds(31)).is_err());
    }
}
