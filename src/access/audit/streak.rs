//! Failures of one caller in a row, which are counted after the first ones.

use std::collections::HashMap;
use std::net::SocketAddr;

use jiff::Timestamp;

use super::Door;
use crate::types::sync::Mutex;

/// LIMIT: failures of one caller in a row that are noted in full.
pub(super) const NOTED_MAX: u64 = 20;

/// LIMIT: seconds after which failures that were counted are reported, and noting begins again.
pub(super) const WINDOW_SECONDS: i64 = 60;

/// LIMIT: callers whose failures are counted; beyond, each failure is noted.
pub(super) const CALLERS_MAX: usize = 1_024;

/// What is one caller here: a door, its name, and its address without the port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    door: &'static str,
    caller: String,
    peer: Option<String>,
}

/// The key of a caller. `peer` may have a port, which each connection has of its own.
pub(super) fn key(door: &'static str, caller: &str, peer: Option<&str>) -> Key {
    // The process of a Unix socket's peer changes as easily as a port.
    let is_of_addresses = door == Door::Nbd.as_str() || door == Door::Http.as_str();
    let host = |peer: &str| match peer.parse::<SocketAddr>() {
        Ok(address) => Some(address.ip().to_string()),
        Err(_) => is_of_addresses
            .then(|| peer.to_owned())
            .filter(|peer| !peer.starts_with("pid ")),
    };
    Key {
        door,
        caller: caller.to_owned(),
        peer: peer.and_then(host),
    }
}

/// Whether an act is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Note,
    Count,
}

/// Failures that were counted, when their streak has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) door: &'static str,
    pub(super) caller: String,
    pub(super) peer: Option<String>,
    pub(super) more: u64,
}

#[derive(Debug)]
struct Streak {
    begun: Timestamp,
    failures: u64,
}

/// The streaks of all callers.
#[derive(Debug, Default)]
pub(super) struct Streaks {
    all: Mutex<HashMap<Key, Streak>>,
}

impl Streaks {
    /// Counts an act; returns whether it is noted, and the streaks that have ended by now.
    pub(super) fn note(
        &self,
        key: &Key,
        is_failure: bool,
        now: Timestamp,
    ) -> (Verdict, Vec<Ended>) {
        let mut all = self.all.lock();
        let mut ended = Vec::new();
        all.retain(|other, streak| {
            let age = now.as_second() - streak.begun.as_second();
            let is_over = !(0..WINDOW_SECONDS).contains(&age) || (other == key && !is_failure);
            if is_over && streak.failures > NOTED_MAX {
                ended.push(Ended {
                    door: other.door,
                    caller: other.caller.clone(),
                    peer: other.peer.clone(),
                    more: streak.failures - NOTED_MAX,
                });
            }
            !is_over
        });
        if !is_failure {
            return (Verdict::Note, ended);
        }
        if !all.contains_key(key) && all.len() >= CALLERS_MAX {
            return (Verdict::Note, ended);
        }
        let streak = all.entry(key.clone()).or_insert(Streak {
            begun: now,
            failures: 0,
        });
        streak.failures += 1;
        let verdict = match streak.failures {
            ..=NOTED_MAX => Verdict::Note,
            _ => Verdict::Count,
        };
        (verdict, ended)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{CALLERS_MAX, NOTED_MAX, Streaks, Verdict, WINDOW_SECONDS, key};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn failures_in_a_row_are_counted_and_reported_once() {
        let streaks = Streaks::default();
        let one = key("nbd", "token a", Some("192.0.2.7:1"));
        // Another connection of the same peer.
        let same = key("nbd", "token a", Some("192.0.2.7:2"));
        let other = key("nbd", "token a", Some("192.0.2.8:1"));
        for n in 0..NOTED_MAX + 5 {
            let key = if n % 2 == 0 { &one } else { &same };
            let (verdict, ended) = streaks.note(key, true, at(0));
            let expected = if n < NOTED_MAX {
                Verdict::Note
            } else {
                Verdict::Count
            };
            assert_eq!((verdict, ended), (expected, Vec::new()), "{n}");
        }
        assert_eq!(streaks.note(&other, true, at(1)).0, Verdict::Note);
        // A success ends the streak, and is noted.
        let (verdict, ended) = streaks.note(&one, false, at(2));
        assert_eq!((verdict, ended[0].more), (Verdict::Note, 5));
        let (verdict, ended) = streaks.note(&one, true, at(2));
        assert_eq!((verdict, ended.len()), (Verdict::Note, 0));
    }

    #[test]
    fn a_streak_is_reported_after_its_time_by_whoever_comes_next() {
        let streaks = Streaks::default();
        let one = key("control", "user 4001", Some("pid 7"));
        for n in 0..NOTED_MAX + 3 {
            // Each attempt by another process.
            let key = key("control", "user 4001", Some(&format!("pid {n}")));
            streaks.note(&key, true, at(0));
        }
        let next = key("control", "user 4002", None);
        assert_eq!(streaks.note(&next, false, at(WINDOW_SECONDS - 1)).1, []);
        let (_, ended) = streaks.note(&next, false, at(WINDOW_SECONDS));
        assert_eq!((ended[0].more, ended[0].caller.as_str()), (3, "user 4001"));
        assert_eq!(
            streaks.note(&one, true, at(WINDOW_SECONDS)).0,
            Verdict::Note
        );
    }

    #[test]
    fn the_callers_are_bounded() {
        let streaks = Streaks::default();
        for n in 0..CALLERS_MAX + 10 {
            let key = key("http", &format!("token {n}"), None);
            assert_eq!(streaks.note(&key, true, at(0)).0, Verdict::Note);
        }
        assert_eq!(streaks.all.lock().len(), CALLERS_MAX);
    }
}
