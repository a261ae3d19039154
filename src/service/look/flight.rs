//! The looks at one repository: one at a time, and each serves all who ask within the next seconds.
//!
//! # Concurrency
//! A look runs on a thread of its own, at most one for a repository, however many callers ask and however long the storage takes.
//! Callers wait for a bounded time, and then use the look before. The mutex is never held during a look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Look;
use super::limit::LookLimits;
use crate::jobs::health::Content;
use crate::repo::Owner;
use crate::types::sync::{Condvar, Mutex};

#[derive(Default)]
struct State {
    is_looking: bool,
    /// When the last look ended, and what it has found; `None` where it failed.
    last: Option<(Instant, Option<Arc<Look>>)>,
    /// When the sizes of files were last found.
    content: Option<(Instant, Arc<Content>)>,
}

/// The looks at one repository.
#[derive(Default)]
pub(in crate::service) struct Flight {
    state: Mutex<State>,
    ended: Condvar,
}

/// A look that is under way. Dropped without a result, as after a panic, it counts as failed.
struct Looking {
    flight: Arc<Flight>,
    found: Option<Arc<Look>>,
    began: Instant,
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        let found = self.found.take();
        if let Some(look) = &found {
            let is_known = |(_, known): &(Instant, Arc<Content>)| Arc::ptr_eq(known, &look.content);
            if !state.content.as_ref().is_some_and(is_known) {
                state.content = Some((self.began, Arc::clone(&look.content)));
            }
        }
        state.last = Some((Instant::now(), found));
        state.is_looking = false;
        self.flight.ended.notify_all();
    }
}

impl Flight {
    /// Begins a look, unless one is under way or the last one is recent enough.
    pub(in crate::service) fn begin(self: &Arc<Self>, owner: &Owner, limits: &LookLimits) {
        let mut state = self.state.lock();
        let is_fresh = |at: Instant, age_max: Duration| at.elapsed() < age_max;
        let last = state.last.as_ref();
        if state.is_looking || last.is_some_and(|(at, _)| is_fresh(*at, limits.look_age_max)) {
            return;
        }
        let content = state.content.as_ref();
        let content = content.filter(|(at, _)| is_fresh(*at, limits.content_age_max));
        let content = content.map(|(_, content)| Arc::clone(content));
        let repository = Arc::clone(owner.repository());
        let now = owner.clock().now();
        let looking = Looking {
            flight: Arc::clone(self),
            found: None,
            began: Instant::now(),
        };
        state.is_looking = true;
        drop(state);
        let look = move || {
            // Dropped at the end of the thread, whatever happens there.
            let mut looking = looking;
            match Look::of(&repository, content, now) {
                Ok(found) => looking.found = Some(Arc::new(found)),
                Err(e) => {
                    tracing::warn!(error = %e.report(), "a look at the repository has failed: metrics and pages have no figures of it");
                }
            }
        };
        let thread = std::thread::Builder::new().name("look".to_owned());
        if let Err(error) = thread.spawn(look) {
            // The closure was dropped, and the look with it.
            tracing::warn!(%error, "no thread for a look at the repository");
        }
    }

    /// Waits until `deadline` for the look that is under way. Returns the last one that has ended; `None` when it failed, or
    /// there is none yet.
    pub(in crate::service) fn wait(&self, deadline: Instant) -> Option<Arc<Look>> {
        let state = self.state.lock();
        let time = deadline.saturating_duration_since(Instant::now());
        let (state, _) = self
            .ended
            .wait_timeout_while(state, time, |state| state.is_looking);
        state.last.as_ref().and_then(|(_, look)| look.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{Flight, Looking};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn who_waits_for_a_look_that_hangs_goes_on_in_time_and_a_panic_ends_it() {
        let flight = Arc::new(Flight::default());
        flight.state.lock().is_looking = true;
        let begun = Instant::now();
        assert!(flight.wait(begun + Duration::from_millis(50)).is_none());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let looking = Looking {
            flight: Arc::clone(&flight),
            found: None,
            began: begun,
        };
        let ended = std::thread::spawn(move || {
            let _looking = looking;
            panic!("on purpose");
        });
        assert!(ended.join().is_err());
        assert!(flight.wait(begun + Duration::from_secs(60)).is_none());
        assert!(!flight.state.lock().is_looking);
        assert!(flight.state.lock().last.is_some());
    }
}
