//! Events: changes of a repository, for subscribers.
//!
//! # Invariants
//! Events are for people and displays. A subscriber that is too slow loses some, and is notified by
//! [`Happening::Reset`]. Nothing that must happen depends on events; that is the purpose of the
//! registry's hooks.
//!
//! # Concurrency
//! Publishing never waits for a subscriber.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::TaskReport;
use crate::types::sync::{Condvar, Mutex};
use crate::types::width::u64_from_usize;
use crate::types::{JobId, PointName, SessionRef, VmName};

/// LIMIT: events that are kept for slow subscribers (about 500 bytes each).
const KEPT_MAX: usize = 1_024;

/// What has happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionChange {
    /// It has begun.
    Open,
    /// It has made a restore point.
    Committed,
    /// It has ended without one.
    Aborted,
}

/// A change of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Happening {
    /// A task has begun, gone on or ended.
    Task {
        /// The task.
        task: TaskReport,
    },
    /// A session has begun or ended.
    Session {
        /// The session.
        #[serde(flatten)]
        session: SessionRef,
        /// What has happened to it.
        state: SessionChange,
    },
    /// A restore point was made or forgotten, or its labels were changed.
    Point {
        /// The VM.
        vm: VmName,
        /// The point.
        point: PointName,
        /// Whether the point exists now.
        is_there: bool,
    },
    /// A VM was created or removed.
    Repository {
        /// The VM.
        vm: VmName,
    },
    /// Events were lost, or the subscriber's last event is of another process: the subscriber must
    /// read everything again.
    Reset,
}

/// An event with its id, `<boot>-<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Identifies the process and counts from 1.
    pub id: String,
    /// The change.
    #[serde(flatten)]
    pub happening: Happening,
}

#[derive(Default)]
struct Log {
    /// Number of the last event.
    last: u64,
    kept: VecDeque<Event>,
}

/// All events of a repository in this process.
pub struct EventBus {
    boot: String,
    log: Mutex<Log>,
    bell: Condvar,
}

impl EventBus {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            boot: JobId::random().to_string().replace('-', ""),
            log: Mutex::default(),
            bell: Condvar::default(),
        })
    }

    pub(super) fn publish(&self, happening: Happening) {
        let mut log = self.log.lock();
        log.last += 1;
        let id = format!("{}-{}", self.boot, log.last);
        if log.kept.len() >= KEPT_MAX {
            log.kept.pop_front();
        }
        log.kept.push_back(Event { id, happening });
        drop(log);
        self.bell.notify_all();
    }

    /// Subscribes to events from now on, or after the one whose id is `since`.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, since: Option<&str>) -> Subscription {
        let last = self.log.lock().last;
        let known = since.map(|id| {
            let (boot, number) = id.rsplit_once('-')?;
            let number: u64 = number.parse().ok()?;
            (boot == self.boot && number <= last).then_some(number)
        });
        Subscription {
            bus: Arc::clone(self),
            seen: known.flatten().unwrap_or(last),
            is_lost: known == Some(None),
        }
    }
}

/// A subscriber's position in the events.
pub struct Subscription {
    bus: Arc<EventBus>,
    /// Number of the last event that was returned.
    seen: u64,
    is_lost: bool,
}

impl Subscription {
    /// The id of the last event that was returned.
    #[must_use]
    pub fn position(&self) -> String {
        format!("{}-{}", self.bus.boot, self.seen)
    }

    /// Waits for the next event, for at most `at_most`.
    pub fn next(&mut self, at_most: Duration) -> Option<Event> {
        let log = self.bus.log.lock();
        let seen = self.seen;
        let is_lost = self.is_lost;
        let (log, _) = self
            .bus
            .bell
            .wait_timeout_while(log, at_most, |log| !is_lost && log.last == seen);
        let oldest = log.last - u64_from_usize(log.kept.len()) + 1;
        if self.is_lost || self.seen + 1 < oldest {
            self.is_lost = false;
            self.seen = log.last;
            return Some(Event {
                id: format!("{}-{}", self.bus.boot, log.last),
                happening: Happening::Reset,
            });
        }
        let ahead = usize::try_from(self.seen + 1 - oldest).unwrap_or(usize::MAX);
        let event = log.kept.get(ahead)?.clone();
        self.seen += 1;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{EventBus, Happening, KEPT_MAX};
    use crate::types::VmName;

    const NOW: Duration = Duration::ZERO;

    fn happening(n: usize) -> Happening {
        Happening::Repository {
            vm: VmName::new(format!("vm{n}")).unwrap(),
        }
    }

    #[test]
    fn every_subscriber_has_every_event_from_where_it_begins() {
        let bus = EventBus::new();
        let mut first = bus.subscribe(None);
        bus.publish(happening(1));
        bus.publish(happening(2));
        let one = first.next(NOW).unwrap();
        assert_eq!(one.happening, happening(1));
        let mut second = bus.subscribe(Some(&one.id));
        for subscriber in [&mut first, &mut second] {
            assert_eq!(subscriber.next(NOW).unwrap().happening, happening(2));
            assert!(subscriber.next(NOW).is_none());
        }
    }

    #[test]
    fn who_has_lost_events_or_comes_from_another_process_is_told_to_begin_anew() {
        let bus = EventBus::new();
        let mut slow = bus.subscribe(None);
        (0..=KEPT_MAX).for_each(|n| bus.publish(happening(n)));
        assert_eq!(slow.next(NOW).unwrap().happening, Happening::Reset);
        bus.publish(happening(7));
        assert_eq!(slow.next(NOW).unwrap().happening, happening(7));
        for id in ["other-1", "nonsense", ""] {
            let mut foreign = bus.subscribe(Some(id));
            assert_eq!(foreign.next(NOW).unwrap().happening, Happening::Reset);
            assert!(foreign.next(NOW).is_none());
        }
    }

    #[test]
    fn a_subscriber_that_waits_hears_at_once() {
        let bus = EventBus::new();
        let mut waiting = bus.subscribe(None);
        std::thread::scope(|scope| {
            let heard = scope.spawn(move || waiting.next(Duration::from_secs(60)));
            bus.publish(happening(1));
            assert_eq!(heard.join().unwrap().unwrap().happening, happening(1));
        });
    }
}
