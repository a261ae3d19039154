//! The pool: open layers, resolved ranges and decompressed clusters of all chains, under fixed bounds.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::range::Range;
use crate::block::ReadAt;
use crate::error::{Error, Result, ResultExt};
use crate::qcow2::Image;
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;
use crate::types::{ClusterBits, LayerId};

/// Opens the layer file in a slot; what the repository gives a chain.
pub trait LayerSource: Send + Sync {
    /// Opens `<slot>.qcow2`.
    ///
    /// # Errors
    /// `Corrupt` when it is missing; `Io`.
    fn open_layer(&self, slot: &str) -> Result<Arc<dyn ReadAt>>;

    /// A name for this source's slots that no other source in the process has (the VM's id).
    fn scope(&self) -> u128;
}

/// Bounds of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// LIMIT: open layer files. They cost a descriptor and a sparse L1 table each.
    pub layers: usize,
    /// LIMIT: bytes of resolved ranges and decompressed clusters together.
    pub memory_bytes: u64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            layers: 4096,
            memory_bytes: 256 << 20,
        }
    }
}

/// An open layer.
pub(super) struct Layer {
    pub(super) image: Image,
    pub(super) id: LayerId,
}

type LayerKey = (u128, String);
type RangeKey = (LayerId, u64);
type ClusterKey = (LayerId, u64);

/// What is shared by all chains of a process.
pub struct Pool {
    layers: Mutex<LruCache<LayerKey, Arc<Layer>>>,
    ranges: Budgeted<RangeKey, Arc<Range>>,
    clusters: Budgeted<ClusterKey, Arc<[u8]>>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Arc<Self> {
        let layers = NonZeroUsize::new(limits.layers).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Self {
            layers: Mutex::new(LruCache::new(layers)),
            ranges: Budgeted::new(limits.memory_bytes / 2),
            clusters: Budgeted::new(limits.memory_bytes / 2),
        })
    }

    /// Bytes of ranges and clusters held now.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.ranges.held_bytes() + self.clusters.held_bytes()
    }

    /// The layer in a slot, opened when it is not yet.
    pub(super) fn layer(&self, source: &dyn LayerSource, slot: &str) -> Result<Arc<Layer>> {
        let key = (source.scope(), slot.to_owned());
        if let Some(layer) = self.layers.lock().get(&key) {
            return Ok(Arc::clone(layer));
        }
        let path = format!("{slot}.qcow2");
        let image = Image::open(source.open_layer(slot)?).at_path(&path)?;
        let id = image.layer_id().ok_or_else(|| {
            Error::corrupt("a layer has no layer id", "a header extension RFS1", "none")
                .at_path(&path)
        })?;
        if image.cluster_bits() != ClusterBits::LAYER {
            let found = image.cluster_bits().size_bytes();
            return Err(
                Error::corrupt("a layer has the wrong cluster size", 65_536, found).at_path(&path),
            );
        }
        if image.data_file_name().is_some() || image.has_extended_l2() {
            return Err(Error::corrupt(
                "a layer has features of foreign images",
                "no data file, no extended L2",
                "one of them",
            )
            .at_path(&path));
        }
        let layer = Arc::new(Layer { image, id });
        self.layers.lock().put(key, Arc::clone(&layer));
        Ok(layer)
    }

    /// Forgets a layer handle, so that the slot is opened anew.
    pub(super) fn forget_layer(&self, source: &dyn LayerSource, slot: &str) {
        self.layers.lock().pop(&(source.scope(), slot.to_owned()));
    }

    pub(super) fn range(&self, top: LayerId, index: u64) -> Option<Arc<Range>> {
        self.ranges.get(&(top, index))
    }

    pub(super) fn keep_range(&self, top: LayerId, index: u64, range: &Arc<Range>) {
        self.ranges
            .put((top, index), Arc::clone(range), range.memory_bytes());
    }

    pub(super) fn cluster(&self, layer: LayerId, host: u64) -> Option<Arc<[u8]>> {
        self.clusters.get(&(layer, host))
    }

    pub(super) fn keep_cluster(&self, layer: LayerId, host: u64, bytes: &Arc<[u8]>) {
        self.clusters.put(
            (layer, host),
            Arc::clone(bytes),
            u64_from_usize(bytes.len()),
        );
    }
}

/// Entries with their sizes, and the sum of these.
type Held<K, V> = (LruCache<K, (V, u64)>, u64);

/// An LRU bounded by bytes.
struct Budgeted<K, V> {
    budget_bytes: u64,
    inner: Mutex<Held<K, V>>,
}

impl<K: Hash + Eq, V: Clone> Budgeted<K, V> {
    fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            inner: Mutex::new((LruCache::unbounded(), 0)),
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.inner.lock().0.get(key).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, bytes: u64) {
        let mut inner = self.inner.lock();
        if let Some((_, old)) = inner.0.put(key, (value, bytes)) {
            inner.1 -= old;
        }
        inner.1 += bytes;
        // The newest entry stays even when it alone passes the budget: somebody is using it.
        while inner.1 > self.budget_bytes && inner.0.len() > 1 {
            let Some((_, (_, freed))) = inner.0.pop_lru() else {
                break;
            };
            inner.1 -= freed;
        }
    }

    fn held_bytes(&self) -> u64 {
        self.inner.lock().1
    }
}

#[cfg(test)]
mod tests {
    use super::Budgeted;

    #[test]
    fn the_budget_holds_and_the_oldest_go_first() {
        let cache = Budgeted::new(10);
        for n in 0..100 {
            cache.put(n, n, 3);
            assert!(cache.held_bytes() <= 10);
        }
        assert_eq!(cache.get(&99), Some(99));
        assert_eq!(cache.get(&97), Some(97));
        assert_eq!(cache.get(&96), None);
        cache.put(1000, 1, 50);
        assert_eq!(cache.get(&1000), Some(1));
        cache.put(1000, 2, 1);
        assert_eq!(cache.held_bytes(), 1);
    }
}
