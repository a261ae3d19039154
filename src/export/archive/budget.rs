//! Limits the bytes of files that wait in memory.
//!
//! # Concurrency
//! One thread takes shares, in the order of the archive, and the writer gives them back in the same order.
//! The item for which the writer waits always has its share, so that the two never wait for each other.

use crate::types::sync::{Condvar, Mutex};

/// LIMIT: bytes of files read ahead.
const BYTES_MAX: u64 = 64 << 20;

/// The budget.
#[derive(Default)]
pub(super) struct Budget {
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Default)]
struct Used {
    bytes: u64,
    closed: bool,
}

/// A share of the budget, given back when dropped.
pub(super) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// Waits for a share; `None` once the budget is closed.
    pub(super) fn take(&self, bytes: u64) -> Option<Share<'_>> {
        let mut used = self.used.lock();
        while !used.closed && used.bytes > 0 && used.bytes.saturating_add(bytes) > BYTES_MAX {
            used = self.freed.wait(used);
        }
        if used.closed {
            return None;
        }
        used.bytes = used.bytes.saturating_add(bytes);
        Some(Share {
            budget: self,
            bytes,
        })
    }

    /// Closes the budget when the writer has ended; waiting callers return.
    pub(super) fn close(&self) {
        self.used.lock().closed = true;
        self.freed.notify_all();
    }
}

impl Share<'_> {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut used = self.budget.used.lock();
        used.bytes = used.bytes.saturating_sub(self.bytes);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Budget};

    #[test]
    fn who_waits_gets_what_is_given_back_or_is_sent_away() {
        let budget = Budget::default();
        // A share that is alone may exceed the whole budget.
        let large = budget.take(BYTES_MAX + 1).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(1).is_some());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!waiting.is_finished());
            drop(large);
            assert!(waiting.join().unwrap());
            let _full = budget.take(BYTES_MAX).unwrap();
            let waiting = scope.spawn(|| budget.take(1).is_none());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!waiting.is_finished());
            budget.close();
            assert!(waiting.join().unwrap());
        });
    }
}
