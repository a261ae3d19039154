//! Waiting for a peer that was lost: it may be restarted.

use std::time::{Duration, Instant};

use super::Monitor;
use crate::error::{Error, Result};

/// LIMIT: time for which a peer that was lost is sought again; less than the lease of a session.
const PATIENCE: Duration = Duration::from_secs(90);

const PAUSE_MIN: Duration = Duration::from_millis(300);

const PAUSE_MAX: Duration = Duration::from_secs(3);

/// LIMIT: longest sleep at once, so that a cancelled work ends soon.
const NAP: Duration = Duration::from_millis(200);

/// The patience with one peer, from the moment when it was lost.
#[derive(Debug)]
pub struct Patience<'a> {
    monitor: &'a Monitor,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    pause: Duration,
}

impl<'a> Patience<'a> {
    /// The patience of a piece of work.
    #[must_use]
    pub const fn new(monitor: &'a Monitor) -> Self {
        Self {
            monitor,
            waiting: None,
        }
    }

    /// Waits before the next try. `lost` is the error of the last one.
    ///
    /// # Errors
    /// `lost` when the peer was sought for long enough; `Cancelled` when the monitor asks the work to stop meanwhile.
    pub fn wait(&mut self, lost: Error) -> Result<()> {
        let waiting = self.waiting.get_or_insert_with(|| {
            tracing::warn!(error = %lost.report(), "the server of the repository is gone; the backup waits for it");
            Waiting {
                since: Instant::now(),
                pause: PAUSE_MIN,
            }
        });
        if waiting.since.elapsed() >= PATIENCE {
            return Err(lost.advise(format!(
                "the server did not come back within {} s",
                PATIENCE.as_secs()
            )));
        }
        nap(waiting.pause, self.monitor)?;
        waiting.pause = waiting.pause.saturating_mul(2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Sleeps.
///
/// # Errors
/// `Cancelled` when the monitor asks the work to stop meanwhile.
pub fn nap(time: Duration, monitor: &Monitor) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        monitor.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(NAP));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Patience, nap};
    use crate::error::{Error, ErrorKind};
    use crate::task::Monitor;

    #[test]
    fn a_wait_ends_when_the_work_is_to_stop() {
        let monitor = Monitor::default();
        let lost = || Error::new(ErrorKind::Disconnected, "lost");
        Patience::new(&monitor).wait(lost()).unwrap();
        let stopping = monitor.clone();
        let begun = Instant::now();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stopping.cancel();
        });
        let error = nap(Duration::from_secs(60), &monitor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(begun.elapsed() < Duration::from_secs(10));
        other.join().unwrap();
        let error = Patience::new(&monitor).wait(lost()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
