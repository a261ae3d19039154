//! A pace: long work that shares a disk with others moves at most so many bytes in a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Monitor;
use crate::error::Result;

/// LIMIT: longest sleep at once, so that a cancelled work ends soon.
const NAP: Duration = Duration::from_millis(200);

/// The pace of a piece of work, shared by its threads.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    begun: Instant,
    done_bytes: AtomicU64,
}

impl Pace {
    /// A pace of this many bytes in a second; `None` for as fast as it goes.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            begun: Instant::now(),
            done_bytes: AtomicU64::new(0),
        }
    }

    /// Waits until `bytes` more may be moved.
    ///
    /// # Errors
    /// `Cancelled` when the monitor asks the work to stop meanwhile.
    pub fn wait_for(&self, bytes: u64, monitor: &Monitor) -> Result<()> {
        let Some(limit) = self.bytes_per_second else {
            return monitor.check();
        };
        let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        loop {
            monitor.check()?;
            let left = due(done, limit).saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// When that many bytes may have been moved, counted from the beginning.
fn due(done_bytes: u64, limit: u64) -> Duration {
    let nanoseconds = u128::from(done_bytes) * 1_000_000_000 / u128::from(limit.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::{Pace, due};
    use crate::error::ErrorKind;
    use crate::task::Monitor;

    #[test]
    fn bytes_are_due_by_the_limit() {
        assert_eq!(due(0, 100), Duration::ZERO);
        assert_eq!(due(50, 100), Duration::from_millis(500));
        assert_eq!(due(100 << 30, 1 << 30), Duration::from_secs(100));
        assert_eq!(due(u64::MAX, 0), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn the_first_piece_never_waits_and_a_cancelled_one_ends() {
        let monitor = Monitor::new(Arc::new(AtomicBool::new(true)));
        let endless = Pace::new(None);
        endless.wait_for(u64::MAX, &Monitor::default()).unwrap();
        let error = endless.wait_for(1, &monitor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        let pace = Pace::new(Some(1));
        pace.wait_for(1 << 40, &Monitor::default()).unwrap();
        // The next byte is due in 35,000 years.
        let error = pace.wait_for(1, &monitor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
