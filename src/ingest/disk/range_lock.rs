//! Exclusive ranges of clusters: two writers of one cluster take turns; all other writers pass.

use crate::types::sync::{Condvar, Mutex};

/// The ranges in use: at most one entry for each writing thread, so a search of a plain list is
/// enough.
#[derive(Debug, Default)]
struct Held {
    ranges: Vec<(u64, u64)>,
    waiting: usize,
}

/// Ranges of clusters that one writer holds at a time.
#[derive(Debug, Default)]
pub(in crate::ingest) struct RangeLock {
    held: Mutex<Held>,
    freed: Condvar,
}

impl RangeLock {
    /// Waits until nobody else holds a cluster of `[first, end)`, then holds the range.
    pub(in crate::ingest) fn hold(&self, first: u64, end: u64) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while held.ranges.iter().any(|&(a, b)| a < end && first < b) {
            held.waiting += 1;
            held = self.freed.wait(held);
            held.waiting -= 1;
        }
        held.ranges.push((first, end));
        RangeGuard {
            lock: self,
            range: (first, end),
        }
    }
}

/// Holds a range until it is dropped.
pub(in crate::ingest) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    range: (u64, u64),
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(ix) = held.ranges.iter().position(|range| *range == self.range) {
            held.ranges.swap_remove(ix);
        }
        let is_awaited = held.waiting > 0;
        drop(held);
        // Nearly always nobody waits, and a call of the kernel for each write is saved.
        if is_awaited {
            self.lock.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::RangeLock;

    #[test]
    fn overlapping_ranges_take_turns() {
        let lock = RangeLock::default();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _guard = lock.hold(3, 9);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            let _apart = lock.hold(9, 10);
        });
    }
}
