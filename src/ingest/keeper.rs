//! The keeper: threads that look after open sessions while nobody asks for anything. One ends sessions that were idle for too long, makes
//! the reserve again once there is room, brings a catalog up to date that could not be written, and empties the trash; the other flushes.
//!
//! # Concurrency
//! They hold no lock while they wait, and do nothing that a door could not do beside them. A flush may take long, which is why it has a
//! thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::flusher::Flusher;
use super::registry::Registry;
use crate::error::{Error, Result};

/// LIMIT: longest time without a look, for a ttl that was shortened.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// LIMIT: shortest time between two looks.
const ROUND_MIN: Duration = Duration::from_millis(200);
/// How often the flusher looks while there are sessions.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether something has been in the trash for long enough.
const TRASH_INTERVAL: Duration = Duration::from_secs(600);

/// The threads that look after open sessions. Dropping it ends them.
pub struct Keeper {
    sessions: Arc<Registry>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// `Io` when there can be no thread.
    pub fn start(sessions: &Arc<Registry>) -> Result<Self> {
        let mut keeper = Self {
            sessions: Arc::clone(sessions),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let mut emptied = sessions.engine().owner.clock().monotonic();
        keeper.spawn("keeper", move |sessions| {
            tidy(sessions, &mut emptied);
            let next = if sessions.expire() {
                sessions.nearest_expiry().unwrap_or(ROUND_MAX)
            } else {
                ROUND_MAX
            };
            next.clamp(ROUND_MIN, ROUND_MAX)
        })?;
        let mut flusher = Flusher::default();
        keeper.spawn("flusher", move |sessions| {
            if flusher.round(sessions) {
                FLUSH_INTERVAL
            } else {
                ROUND_MAX
            }
        })?;
        Ok(keeper)
    }

    /// A thread that does `round` again and again, after the time that it answers or when a session was begun.
    fn spawn(
        &mut self,
        name: &str,
        mut round: impl FnMut(&Registry) -> Duration + Send + 'static,
    ) -> Result<()> {
        let (sessions, stop) = (Arc::clone(&self.sessions), Arc::clone(&self.stop));
        let work = move || {
            let mut heard = 0;
            while !stop.load(Ordering::SeqCst) {
                let pause = round(&sessions);
                sessions.wait(&mut heard, pause);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        let failed = "cannot start a thread that looks after sessions";
        self.threads.push(thread.map_err(|e| Error::io(failed, e))?);
        Ok(())
    }
}

/// What is done for the repository, whatever its sessions do.
fn tidy(sessions: &Registry, emptied: &mut Duration) {
    let owner = &sessions.engine().owner;
    owner.restock();
    if let Err(e) = owner.heal_catalog() {
        tracing::warn!(error = %e.report(), "the catalog could not be brought up to date yet");
    }
    let now = owner.clock().monotonic();
    if now.saturating_sub(*emptied) < TRASH_INTERVAL {
        return;
    }
    *emptied = now;
    if let Err(e) = owner.empty_trash() {
        tracing::warn!(error = %e.report(), "the trash could not be emptied");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.sessions.ring();
        for thread in self.threads.drain(..) {
            // A panic there was logged by the hook.
            drop(thread.join());
        }
    }
}
