//! The channel between a piece of work and the caller that waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

type Listener = Box<dyn Fn(u64) + Send + Sync>;

/// The monitor of a piece of work: the caller stops the work through it, and the work reports progress to it.
/// Clones belong to the same work.
#[derive(Clone, Default)]
pub struct Monitor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: Arc<AtomicBool>,
    /// Another flag that stops the work, for which `cancel` is not meant.
    outer: Option<Arc<AtomicBool>>,
    done_bytes: AtomicU64,
    listener: Option<Listener>,
}

impl Monitor {
    /// A monitor of work that stops when the flag is set.
    #[cfg(test)]
    #[must_use]
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self(Arc::new(Inner {
            stop,
            ..Inner::default()
        }))
    }

    /// A monitor of work that stops when the flag is set, and calls `listener` with the number of bytes of
    /// each step of progress.
    #[must_use]
    pub fn with_listener(
        stop: Arc<AtomicBool>,
        listener: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            stop,
            listener: Some(Box::new(listener)),
            ..Inner::default()
        }))
    }

    /// [`Monitor::with_listener`] for work that also stops when `outer` is set, which stops more than this work.
    #[must_use]
    pub fn within(
        outer: Arc<AtomicBool>,
        stop: Arc<AtomicBool>,
        listener: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            stop,
            outer: Some(outer),
            listener: Some(Box::new(listener)),
            ..Inner::default()
        }))
    }

    /// A monitor of a part of this work: it stops with it, and counts its own progress, of which `listener` hears.
    #[must_use]
    pub fn part(&self, listener: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            stop: Arc::clone(&self.0.stop),
            outer: self.0.outer.clone(),
            listener: Some(Box::new(listener)),
            ..Inner::default()
        }))
    }

    /// Asks the work to stop; it stops at its next piece.
    pub fn cancel(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the work must stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let outer = self.0.outer.as_ref();
        self.0.stop.load(Ordering::Relaxed)
            || outer.is_some_and(|outer| outer.load(Ordering::Relaxed))
    }

    /// Fails when the work must stop. The work calls it between its pieces.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        Ok(())
    }

    /// Adds `bytes` to the progress, holes included.
    pub fn advance(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(listener) = &self.0.listener {
            listener(bytes);
        }
    }

    /// Bytes done so far.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.0.done_bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("cancelled", &self.is_cancelled())
            .field("done_bytes", &self.done_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Monitor;
    use crate::error::ErrorKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[test]
    fn clones_are_the_same_work() {
        let reported = Arc::new(AtomicU64::new(0));
        let listener = Arc::clone(&reported);
        let flag = Arc::new(AtomicBool::new(false));
        let monitor = Monitor::with_listener(Arc::clone(&flag), move |bytes| {
            listener.fetch_add(bytes, Ordering::Relaxed);
        });
        let other = monitor.clone();
        other.advance(3);
        monitor.advance(4);
        assert_eq!(
            (other.done_bytes(), reported.load(Ordering::Relaxed)),
            (7, 7)
        );
        monitor.check().unwrap();
        other.cancel();
        assert_eq!(monitor.check().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(flag.load(Ordering::Relaxed));
    }

    #[test]
    fn a_part_stops_with_the_work_and_counts_for_itself() {
        let (outer, own) = (Arc::<AtomicBool>::default(), Arc::default());
        let whole = Monitor::within(Arc::clone(&outer), own, |_| ());
        let (one, other) = (whole.part(|_| ()), whole.part(|_| ()));
        one.advance(3);
        assert_eq!((one.done_bytes(), other.done_bytes()), (3, 0));
        outer.store(true, Ordering::Relaxed);
        assert!(one.is_cancelled());
        outer.store(false, Ordering::Relaxed);
        whole.cancel();
        assert!(one.is_cancelled() && other.is_cancelled());
    }

    #[test]
    fn work_within_other_work_stops_with_it_and_alone() {
        let flags = || {
            let (outer, own) = (Arc::default(), Arc::default());
            let monitor = Monitor::within(Arc::clone(&outer), Arc::clone(&own), |_| ());
            (outer, own, monitor)
        };
        let (outer, own, monitor) = flags();
        monitor.check().unwrap();
        outer.store(true, Ordering::Relaxed);
        assert!(monitor.is_cancelled() && !own.load(Ordering::Relaxed));
        let (outer, own, monitor) = flags();
        monitor.cancel();
        assert!(monitor.is_cancelled() && own.load(Ordering::Relaxed));
        assert!(!outer.load(Ordering::Relaxed));
    }
}
