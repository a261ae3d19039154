//! The keeper: threads that maintain open sessions in the background. One thread ends sessions that
//! were idle for too long, restores the reserve once there is room, updates a catalog that could
//! not be written, and empties the trash. The second thread flushes, and the third hashes clusters that were written in part.
//!
//! # Concurrency
//! The threads hold no lock while they wait, and do nothing that a door could not do at the same
//! time. A flush may take long, so it has its own thread, and so may hashing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Registry;
use super::flusher::Flusher;
use crate::error::{Error, Result};
use crate::ingest::session::SessionState;

/// LIMIT: longest time between two rounds, so that a shortened ttl takes effect.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// LIMIT: shortest time between two rounds.
const ROUND_MIN: Duration = Duration::from_millis(200);
/// The flusher's interval while there are sessions.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// The hasher's interval while there are sessions: a cluster is quiet when it was not written for one to two of them.
const HASH_INTERVAL: Duration = Duration::from_secs(2);
/// How often the keeper checks for trash that is old enough to delete.
const TRASH_INTERVAL: Duration = Duration::from_secs(600);

/// The threads that maintain open sessions. Dropping the keeper ends them.
pub struct Keeper {
    sessions: Arc<Registry>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the threads.
    ///
    /// # Errors
    /// `Io` when a thread cannot be started.
    pub fn start(sessions: &Arc<Registry>) -> Result<Self> {
        let mut keeper = Self {
            sessions: Arc::clone(sessions),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let mut emptied = sessions.engine().owner.clock().monotonic();
        keeper.spawn("keeper", move |sessions, _stop| {
            tidy(sessions, &mut emptied);
            let next = if sessions.expire() {
                sessions.nearest_expiry().unwrap_or(ROUND_MAX)
            } else {
                ROUND_MAX
            };
            next.clamp(ROUND_MIN, ROUND_MAX)
        })?;
        let mut flusher = Flusher::default();
        keeper.spawn("flusher", move |sessions, _stop| {
            if flusher.round(sessions) {
                FLUSH_INTERVAL
            } else {
                ROUND_MAX
            }
        })?;
        keeper.spawn("hasher", |sessions, stop| {
            if hash_quiet(sessions, stop) {
                HASH_INTERVAL
            } else {
                ROUND_MAX
            }
        })?;
        Ok(keeper)
    }

    /// Starts a thread that repeats `round`, each time after the interval that `round` returns or
    /// when a session begins. A round that may take long looks at the flag: the keeper's end waits for it.
    fn spawn(
        &mut self,
        name: &str,
        mut round: impl FnMut(&Registry, &AtomicBool) -> Duration + Send + 'static,
    ) -> Result<()> {
        let (sessions, stop) = (Arc::clone(&self.sessions), Arc::clone(&self.stop));
        let work = move || {
            let mut heard = 0;
            while !stop.load(Ordering::SeqCst) {
                let pause = round(&sessions, &stop);
                sessions.wait(&mut heard, pause);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        let failed = "cannot start a thread that looks after sessions";
        self.threads.push(thread.map_err(|e| Error::io(failed, e))?);
        Ok(())
    }
}

/// Hashes the quiet clusters of all disks of all open sessions. Returns whether there is an open session.
fn hash_quiet(sessions: &Registry, stop: &AtomicBool) -> bool {
    let all = sessions.all();
    for session in all.iter().filter(|s| s.state() == SessionState::Open) {
        for (_, disk) in session.files() {
            if let Err(e) = disk.hash_quiet(stop) {
                tracing::warn!(vm = %session.vm(), session = %session.name(), disk = %disk.meta().name, error = %e.report(),
                    "clusters could not be hashed in the background; the commit does it");
            }
        }
    }
    !all.is_empty()
}

/// Maintains the repository, independently of its sessions.
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
    owner.take_in_late_jobs();
    owner.remove_ended();
    owner.prune_jobs();
    if let Err(e) = owner.empty_trash() {
        tracing::warn!(error = %e.report(), "the trash could not be emptied");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.sessions.ring();
        for thread in self.threads.drain(..) {
            // The panic hook has already logged a panic of the thread.
            drop(thread.join());
        }
    }
}
