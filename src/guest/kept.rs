//! What a reader has decoded and keeps for the next call, least recently used out, under one weight.
//!
//! # Concurrency
//! One lock, never held while a value is made: two callers may make the same value, and the later one wins.

use std::hash::Hash;
use std::sync::MutexGuard;

use lru::LruCache;

use crate::error::Result;
use crate::types::sync::Mutex;

struct State<K: Hash + Eq, V> {
    values: LruCache<K, (V, usize)>,
    weight: usize,
}

/// Decoded values by key, under one weight. `V` is cheap to clone (an `Arc`).
pub(super) struct Kept<K: Hash + Eq, V> {
    weight_max: usize,
    state: Mutex<State<K, V>>,
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// Keeps values of at most `weight_max` in all, and always the newest one.
    pub(super) fn new(weight_max: usize) -> Self {
        Self {
            weight_max,
            state: Mutex::new(State {
                values: LruCache::unbounded(),
                weight: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock()
    }

    /// The value, if it is kept.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.state().values.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps a value of `weight`.
    pub(super) fn put(&self, key: K, value: V, weight: usize) {
        let mut state = self.state();
        state.weight = state.weight.saturating_add(weight);
        if let Some((_, old)) = state.values.push(key, (value, weight)).map(|(_, old)| old) {
            state.weight = state.weight.saturating_sub(old);
        }
        while state.weight > self.weight_max && state.values.len() > 1 {
            let Some((_, (_, old))) = state.values.pop_lru() else {
                break;
            };
            state.weight = state.weight.saturating_sub(old);
        }
    }

    /// The value, kept or made now by `make`, which also tells its weight.
    ///
    /// # Errors
    /// What `make` answers.
    pub(super) fn get_or(&self, key: K, make: impl FnOnce() -> Result<(V, usize)>) -> Result<V> {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let (value, weight) = make()?;
        self.put(key, value.clone(), weight);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;

    #[test]
    fn the_weight_is_bounded_and_the_newest_stays() {
        let kept = Kept::new(10);
        kept.put(1, "a", 4);
        kept.put(2, "b", 4);
        assert_eq!(kept.get(&1), Some("a"));
        kept.put(3, "c", 4);
        assert_eq!(
            (kept.get(&1), kept.get(&2), kept.get(&3)),
            (Some("a"), None, Some("c"))
        );
        kept.put(4, "d", 100);
        assert_eq!((kept.get(&1), kept.get(&4)), (None, Some("d")));
        kept.put(4, "e", 1);
        kept.put(5, "f", 9);
        assert_eq!((kept.get(&4), kept.get(&5)), (Some("e"), Some("f")));
        assert_eq!(kept.get_or(6, || Ok(("g", 1))).unwrap(), "g");
        assert_eq!(kept.get(&4), None);
    }
}
