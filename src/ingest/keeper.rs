//! The keeper: a thread that looks after open sessions while nobody asks for anything. It ends those that were idle for too long,
//! makes the reserve again once there is room, and empties the trash.
//!
//! # Concurrency
//! It holds no lock while it waits, and does nothing that a door could not do beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::registry::Registry;
use crate::error::{Error, Result};

/// LIMIT: longest time without a look, for a ttl that was shortened.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// LIMIT: shortest time between two looks.
const ROUND_MIN: Duration = Duration::from_millis(200);

/// How often it is looked whether something has been in the trash for long enough.
const TRASH_INTERVAL: Duration = Duration::from_secs(600);

/// See the module. Dropping it ends the thread.
pub struct Keeper {
    sessions: Arc<Registry>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// `Io` when there can be no thread.
    pub fn start(sessions: &Arc<Registry>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(sessions), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || {
                let mut emptied = kept.engine().owner.clock().monotonic();
                while !stopped.load(Ordering::SeqCst) {
                    tidy(&kept, &mut emptied);
                    let next = if kept.expire() {
                        kept.nearest_expiry().unwrap_or(ROUND_MAX)
                    } else {
                        ROUND_MAX
                    };
                    kept.wait(next.clamp(ROUND_MIN, ROUND_MAX));
                }
            })
            .map_err(|e| Error::io("cannot start the thread that looks after sessions", e))?;
        Ok(Self {
            sessions: Arc::clone(sessions),
            stop,
            thread: Some(thread),
        })
    }
}

/// What is done for the repository, whatever its sessions do.
fn tidy(sessions: &Registry, emptied: &mut Duration) {
    let owner = &sessions.engine().owner;
    owner.restock();
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
        if let Some(thread) = self.thread.take() {
            // A panic there was logged by the hook.
            drop(thread.join());
        }
    }
}
