//! An LRU bounded by the sum of its values' weights.
//!
//! # Concurrency
//! One lock, never held while a value is made: two callers may make the same value, and the later one
//! replaces the earlier.

use std::hash::Hash;

use lru::LruCache;

use crate::error::Result;
use crate::metrics::cache::{Cache, Meter};
use crate::types::sync::Mutex;

/// Values by key within a total weight; the least recently used value leaves first. `V` is cheap to clone (an
/// `Arc`).
pub struct Weighted<K, V> {
    weight_max: usize,
    held: Mutex<Held<K, V>>,
    meter: Option<Meter>,
}

struct Held<K, V> {
    values: LruCache<K, (V, usize)>,
    weight: usize,
}

impl<K: Hash + Eq, V: Clone> Weighted<K, V> {
    /// A cache for values of at most `weight_max` together. It always keeps the newest value, because a
    /// caller is using it.
    #[must_use]
    pub fn new(weight_max: usize) -> Self {
        Self {
            weight_max,
            held: Mutex::new(Held {
                values: LruCache::unbounded(),
                weight: 0,
            }),
            meter: None,
        }
    }

    /// The same, counted in the metrics of the process.
    #[must_use]
    pub fn metered(weight_max: usize, cache: Cache) -> Self {
        Self {
            meter: Some(Meter::new(cache, weight_max)),
            ..Self::new(weight_max)
        }
    }

    fn note_weight(&self, weight: usize) {
        if let Some(meter) = &self.meter {
            meter.set_used(weight);
        }
    }

    /// The value, if the cache has it.
    pub fn get(&self, key: &K) -> Option<V> {
        let value = {
            let mut held = self.held.lock();
            held.values.get(key).map(|(value, _)| value.clone())
        };
        if let Some(meter) = &self.meter {
            meter.note(value.is_some());
        }
        value
    }

    /// Adds a value of `weight`, and replaces the value that has the same key.
    pub fn put(&self, key: K, value: V, weight: usize) {
        let mut held = self.held.lock();
        if let Some((_, old)) = held.values.put(key, (value, weight)) {
            held.weight = held.weight.saturating_sub(old);
        }
        held.weight = held.weight.saturating_add(weight);
        while held.weight > self.weight_max && held.values.len() > 1 {
            let Some((_, (_, freed))) = held.values.pop_lru() else {
                break;
            };
            held.weight = held.weight.saturating_sub(freed);
        }
        self.note_weight(held.weight);
    }

    /// The cached value, or a new one from `make`, which returns its weight too.
    ///
    /// # Errors
    /// Errors of `make`; the cache then keeps nothing.
    pub fn get_or(&self, key: K, make: impl FnOnce() -> Result<(V, usize)>) -> Result<V> {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let (value, weight) = make()?;
        self.put(key, value.clone(), weight);
        Ok(value)
    }

    /// Drops the values whose key `is_gone`.
    pub fn forget(&self, is_gone: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        let mut held = self.held.lock();
        let keys = held.values.iter().map(|(key, _)| key);
        let gone: Vec<K> = keys.filter(|key| is_gone(key)).cloned().collect();
        for key in gone {
            if let Some((_, freed)) = held.values.pop(&key) {
                held.weight = held.weight.saturating_sub(freed);
            }
        }
        self.note_weight(held.weight);
    }

    /// Weight of all values in the cache.
    #[cfg(test)]
    pub fn weight(&self) -> usize {
        self.held.lock().weight
    }
}

#[cfg(test)]
mod tests {
    use super::Weighted;
    use crate::error::Error;

    #[test]
    fn the_weight_is_bounded_and_the_oldest_go_first() {
        let cache = Weighted::new(10);
        for n in 0..100 {
            cache.put(n, n, 3);
            assert!(cache.weight() <= 10);
        }
        assert_eq!((cache.get(&99), cache.get(&97)), (Some(99), Some(97)));
        assert_eq!(cache.get(&96), None);
        // The value that was used last stays longest.
        cache.put(100, 100, 3);
        cache.put(101, 101, 3);
        assert_eq!((cache.get(&97), cache.get(&98)), (Some(97), None));
    }

    #[test]
    fn the_newest_stays_however_heavy_it_is() {
        let cache = Weighted::new(10);
        cache.put(1, "a", 6);
        cache.put(2, "b", 50);
        assert_eq!((cache.get(&1), cache.get(&2)), (None, Some("b")));
        // The replacement counts with its own weight.
        cache.put(2, "c", 1);
        assert_eq!(cache.weight(), 1);
        cache.put(3, "d", 9);
        assert_eq!((cache.get(&2), cache.get(&3)), (Some("c"), Some("d")));
    }

    #[test]
    fn a_value_is_made_once_and_an_error_is_not_kept() {
        let cache = Weighted::new(10);
        let failed = cache.get_or(1, || Err(Error::invalid("no")));
        assert!(failed.is_err());
        assert_eq!(cache.get_or(1, || Ok((5, 4))).unwrap(), 5);
        let again = cache.get_or(1, || Err(Error::invalid("made again")));
        assert_eq!((again.unwrap(), cache.weight()), (5, 4));
    }

    #[test]
    fn what_is_forgotten_weighs_nothing() {
        let cache = Weighted::new(100);
        (0..10).for_each(|n| cache.put(n, n, 2));
        cache.forget(|key| key % 2 == 0);
        assert_eq!(cache.weight(), 10);
        assert_eq!((cache.get(&2), cache.get(&3)), (None, Some(3)));
    }
}
