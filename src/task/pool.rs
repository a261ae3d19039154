//! Distributes the pieces of one work over threads.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Monitor;
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// Number of threads for work that reads, computes and writes: at least 1, at most `most`. By default two for
/// each processor, which keeps reading and hashing apart.
#[must_use]
pub fn threads(asked: Option<usize>, most: usize) -> usize {
    let default = || std::thread::available_parallelism().map_or(2, |n| n.get() * 2);
    asked.unwrap_or_else(default).clamp(1, most.max(1))
}

/// Processes pieces on several threads, the calling one included, until `next` has no more. One thread at a
/// time calls `next`, in order. Each thread has its own `state`. The first error ends the work: threads
/// finish the pieces that they have begun, and begin no others.
///
/// # Errors
/// The first error of `next` or `work`; `Cancelled` when the monitor asks the work to stop; `Io` when a
/// thread panicked.
pub fn on_threads<T, S>(
    threads: usize,
    monitor: &Monitor,
    next: impl FnMut() -> Result<Option<T>> + Send,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<()> + Sync,
) -> Result<()> {
    let next = Mutex::new(next);
    let failed = AtomicBool::new(false);
    let first: Mutex<Result<()>> = Mutex::new(Ok(()));
    let take = || (next.lock())();
    let run = || -> Result<()> {
        let mut state = state();
        while !failed.load(Ordering::Relaxed) {
            monitor.check()?;
            let Some(piece) = take()? else { break };
            work(&mut state, piece)?;
        }
        Ok(())
    };
    let guarded = || {
        if let Err(error) = run() {
            failed.store(true, Ordering::Relaxed);
            let mut first = first.lock();
            if first.is_ok() {
                *first = Err(error);
            }
        }
    };
    let panicked = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(guarded)).collect();
        guarded();
        let ended = others.into_iter().map(|other| other.join().is_err());
        // The fold waits for every thread.
        ended.fold(false, |any, this| any | this)
    });
    first.into_inner()?;
    if panicked {
        return Err(Error::new(ErrorKind::Io, "a working thread panicked"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{on_threads, threads};
    use crate::error::{Error, ErrorKind};
    use crate::task::Monitor;
    use crate::types::sync::Mutex;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn upto(end: u64) -> impl FnMut() -> crate::error::Result<Option<u64>> + Send {
        let mut all = 0..end;
        move || Ok(all.next())
    }

    #[test]
    fn each_piece_is_worked_on_once() {
        let seen = Mutex::new(BTreeSet::new());
        let monitor = Monitor::default();
        let states = AtomicU64::new(0);
        on_threads(
            4,
            &monitor,
            upto(1000),
            || states.fetch_add(1, Ordering::Relaxed),
            |_, piece| {
                assert!(seen.lock().insert(piece));
                monitor.advance(1);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen.into_inner().len(), 1000);
        assert_eq!(monitor.done_bytes(), 1000);
        assert_eq!(states.into_inner(), 4);
    }

    #[test]
    fn the_first_error_ends_it() {
        let worked = AtomicU64::new(0);
        let error = on_threads(
            2,
            &Monitor::default(),
            upto(u64::MAX),
            || (),
            |(), piece| {
                worked.fetch_add(1, Ordering::Relaxed);
                match piece {
                    100 => Err(Error::corrupt("piece 100", "a", "b")),
                    _ => Ok(()),
                }
            },
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(worked.into_inner() >= 101);
    }

    #[test]
    fn it_stops_when_it_is_told_to_and_hears_of_panics() {
        let monitor = Monitor::default();
        let stopped = on_threads(
            2,
            &monitor,
            upto(u64::MAX),
            || (),
            |(), piece| {
                if piece == 10 {
                    monitor.cancel();
                }
                Ok(())
            },
        );
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        let own = std::thread::current().id();
        let panicked = on_threads(
            2,
            &Monitor::default(),
            upto(1_000_000),
            || (),
            |(), _| {
                assert_eq!(std::thread::current().id(), own, "another thread");
                std::thread::yield_now();
                Ok(())
            },
        );
        // The other thread may have had no piece to process.
        if let Err(error) = panicked {
            assert_eq!(error.kind(), ErrorKind::Io);
        }
        assert_eq!((threads(Some(0), 4), threads(Some(9), 4)), (1, 4));
    }
}
