//! Bounded memory of what was opened: the slow thing is made once, whoever asks at the same time waits for it.
//!
//! # Concurrency
//! The lock of a [`Flights`] is never held while something is made; the lock of one entry is, so that others wait for that
//! entry only.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::error::Result;
use crate::types::sync::Mutex;

type Slot<V> = Arc<Mutex<Option<V>>>;

/// An LRU by count whose values are made by one thread each.
pub(super) struct Flights<K, V> {
    slots: Mutex<LruCache<K, Slot<V>>>,
}

impl<K: Hash + Eq, V: Clone> Flights<K, V> {
    /// At most `entries` values.
    pub(super) fn new(entries: NonZeroUsize) -> Self {
        Self {
            slots: Mutex::new(LruCache::new(entries)),
        }
    }

    /// The value, made by `make` when there is none that is `valid`. An error is not kept.
    pub(super) fn get_or(
        &self,
        key: K,
        valid: impl FnOnce(&V) -> bool,
        make: impl FnOnce() -> Result<V>,
    ) -> Result<V> {
        let slot = Arc::clone(self.slots.lock().get_or_insert(key, Slot::default));
        let mut value = slot.lock();
        if let Some(value) = value.as_ref()
            && valid(value)
        {
            return Ok(value.clone());
        }
        let made = make()?;
        *value = Some(made.clone());
        Ok(made)
    }

    /// The value if it is there already; never waits.
    pub(super) fn peek(&self, key: &K) -> Option<V> {
        let slot = self.slots.lock().get(key).cloned()?;
        let value = slot.try_lock()?;
        value.clone()
    }
}

/// Values with their weights, and the sum of these.
type Held<K, V> = (LruCache<K, (V, usize)>, usize);

/// An LRU by weight.
pub(super) struct Weighted<K, V> {
    weight_max: usize,
    held: Mutex<Held<K, V>>,
}

impl<K: Hash + Eq, V: Clone> Weighted<K, V> {
    /// At most `weight_max` of weight, but always the newest value.
    pub(super) fn new(weight_max: usize) -> Self {
        Self {
            weight_max,
            held: Mutex::new((LruCache::unbounded(), 0)),
        }
    }

    /// The value.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let mut held = self.held.lock();
        held.0.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value.
    pub(super) fn put(&self, key: K, value: V, weight: usize) {
        let mut held = self.held.lock();
        if let Some((_, old)) = held.0.put(key, (value, weight)) {
            held.1 -= old;
        }
        held.1 += weight;
        while held.1 > self.weight_max && held.0.len() > 1 {
            let Some((_, (_, freed))) = held.0.pop_lru() else {
                break;
            };
            held.1 -= freed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flights, Weighted};
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn many_threads_make_a_value_once() {
        let flights = Flights::new(NonZeroUsize::new(2).unwrap());
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
        // Not valid any more: made again. An error is not kept.
        assert_eq!(flights.get_or(1, |v| *v > 5, || Ok(6)).unwrap(), 6);
        let failed = flights.get_or(2, |_| true, || Err(crate::error::Error::invalid("no")));
        assert!(failed.is_err());
        assert_eq!(flights.peek(&2), None);
    }

    #[test]
    fn weight_is_bounded_and_the_newest_stays() {
        let cache = Weighted::new(10);
        cache.put(1, 'a', 6);
        cache.put(2, 'b', 4);
        assert_eq!(cache.get(&1), Some('a'));
        cache.put(3, 'c', 1);
        assert_eq!((cache.get(&2), cache.get(&1)), (None, Some('a')));
        cache.put(4, 'd', 100);
        assert_eq!((cache.get(&4), cache.get(&1)), (Some('d'), None));
        cache.put(4, 'e', 1);
        cache.put(5, 'f', 1);
        assert_eq!(cache.get(&4), Some('e'));
    }
}
