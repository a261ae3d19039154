//! Bounded caches of opened objects: each is opened once, and concurrent callers wait for it.
//!
//! # Concurrency
//! The lock of a [`Flights`] is never held while a value is made. The lock of one entry is, so that other
//! callers wait for that entry only.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::error::Result;
use crate::metrics::cache::{self, Cache};
use crate::types::sync::Mutex;

type Slot<V> = Arc<Mutex<Option<V>>>;

/// An LRU bounded by count, in which one thread makes each value.
pub(super) struct Flights<K, V> {
    slots: Mutex<LruCache<K, Slot<V>>>,
    cache: Cache,
}

impl<K: Hash + Eq, V: Clone> Flights<K, V> {
    /// At most `entries` values, counted as those of `cache`.
    pub(super) fn new(entries: NonZeroUsize, cache: Cache) -> Self {
        Self {
            slots: Mutex::new(LruCache::new(entries)),
            cache,
        }
    }

    /// The value; `make` makes it when there is none that is `valid`. An error is not kept.
    pub(super) fn get_or(
        &self,
        key: K,
        valid: impl FnOnce(&V) -> bool,
        make: impl FnOnce() -> Result<V>,
    ) -> Result<V> {
        let slot = Arc::clone(self.slots.lock().get_or_insert(key, Slot::default));
        let mut value = slot.lock();
        let kept = value.as_ref().filter(|value| valid(value));
        cache::note(self.cache, kept.is_some());
        if let Some(value) = kept {
            return Ok(value.clone());
        }
        let made = make()?;
        *value = Some(made.clone());
        Ok(made)
    }

    /// The value if it is there already; does not wait.
    pub(super) fn peek(&self, key: &K) -> Option<V> {
        let slot = self.slots.lock().get(key).cloned()?;
        let value = slot.try_lock()?;
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::Flights;
    use crate::metrics::cache::Cache;
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn many_threads_make_a_value_once() {
        let flights = Flights::new(NonZeroUsize::new(2).unwrap(), Cache::TreeScans);
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let value = flights.get_or(
                        1,
                        |_| true,
                        || {
                            made.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(std::time::Duration::from_millis(20));
                            Ok(5)
                        },
                    );
                    assert_eq!(value.unwrap(), 5);
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(flights.peek(&1), Some(5));
        // The value is not valid any more, so it is made again.
        assert_eq!(flights.get_or(1, |v| *v > 5, || Ok(6)).unwrap(), 6);
        let failed = flights.get_or(2, |_| true, || Err(crate::error::Error::invalid("no")));
        assert!(failed.is_err());
        assert_eq!(flights.peek(&2), None);
    }
}
