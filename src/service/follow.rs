//! The events of a repository as one caller sees them, with the progress of open sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Event, Happening, Subscription};
use super::{LocalService, task};
use crate::task::TaskDisk;
use crate::types::JobId;

/// LIMIT: how often the progress of open sessions is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A caller that follows the events.
pub struct Follow {
    service: Arc<LocalService>,
    subscription: Subscription,
    /// The progress of the open sessions that was passed on last.
    shown: HashMap<JobId, Vec<TaskDisk>>,
    looked_at: Instant,
}

impl Follow {
    /// Follows the events from now on, or after the one whose id is `since`.
    #[must_use]
    pub fn new(service: Arc<LocalService>, since: Option<&str>) -> Self {
        let subscription = service.served().events().subscribe(since);
        Self {
            service,
            subscription,
            shown: HashMap::new(),
            looked_at: Instant::now(),
        }
    }

    /// The id of the last event that was passed on.
    #[must_use]
    pub fn position(&self) -> String {
        self.subscription.position()
    }

    /// Waits for events that the caller may see, for at most `at_most`.
    pub fn next(&mut self, at_most: Duration) -> Vec<Event> {
        let event = self.subscription.next(at_most);
        let mut events: Vec<Event> = event
            .into_iter()
            .filter(|event| self.service.may_see(&event.happening))
            .collect();
        if self.looked_at.elapsed() >= PROGRESS_INTERVAL {
            self.looked_at = Instant::now();
            self.look(&mut events);
        }
        events
    }

    /// Adds the open sessions that have received something since the last look.
    fn look(&mut self, events: &mut Vec<Event>) {
        let mut now = HashMap::new();
        for session in self.service.registry().all() {
            let task = task::of_session(&session);
            let is_new = self.shown.get(&task.id) != Some(&task.disks);
            now.insert(task.id, task.disks.clone());
            let happening = Happening::Task { task };
            if is_new && self.service.may_see(&happening) {
                events.push(Event {
                    id: self.position(),
                    happening,
                });
            }
        }
        self.shown = now;
    }
}
