//! The heartbeat: a thread that keeps the note in the lock fresh, for people and for other hosts.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::lock::{HEARTBEAT_SECONDS, Note};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::store::Lock;
use crate::types::sync::{Condvar, Mutex};

/// The thread that keeps the lock's note fresh.
pub(super) struct Heartbeat {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    pub(super) fn start(
        lock: Arc<dyn Lock>,
        mut note: Note,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                let (flag, wake) = &*seen;
                let mut stopped = flag.lock();
                loop {
                    // The flag is checked before the wait: it may have been set before this thread got here.
                    let wait = wake.wait_timeout_while(
                        stopped,
                        Duration::from_secs(HEARTBEAT_SECONDS),
                        |stopped| !*stopped,
                    );
                    stopped = wait.0;
                    if *stopped {
                        return;
                    }
                    note.heartbeat = clock.now();
                    let renewed = note.encode().and_then(|bytes| lock.renew(&bytes));
                    if let Err(e) = renewed {
                        tracing::error!(error = %e.report(), "the repository's lock could not be renewed");
                    }
                }
            })
            .map_err(|e| Error::io("cannot start the heartbeat thread", e))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the heartbeat has been logged; nothing depends on its result.
            drop(thread.join());
        }
    }
}
