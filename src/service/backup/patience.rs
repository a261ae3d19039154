//! Waiting for a daemon that was lost: it may be restarted.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// LIMIT: time for which a daemon that was lost is sought again; less than the lease.
const PATIENCE: Duration = Duration::from_secs(90);

const PAUSE_MIN: Duration = Duration::from_millis(300);

const PAUSE_MAX: Duration = Duration::from_secs(3);

/// The patience with one daemon, from the moment when it was lost.
#[derive(Debug, Default)]
pub struct Patience(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    since: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits before the next try. `lost` is the error of the last one.
    ///
    /// # Errors
    /// `lost` when the daemon was sought for long enough.
    pub fn wait(&mut self, lost: Error) -> Result<()> {
        let waiting = self.0.get_or_insert_with(|| {
            tracing::warn!(error = %lost.report(), "the daemon is gone; the backup waits for it");
            Waiting {
                since: Instant::now(),
                pause: PAUSE_MIN,
            }
        });
        if waiting.since.elapsed() >= PATIENCE {
            return Err(lost.advise(format!(
                "the daemon did not come back within {} s",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(waiting.pause);
        waiting.pause = waiting.pause.saturating_mul(2).min(PAUSE_MAX);
        Ok(())
    }
}
