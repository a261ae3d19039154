//! The pool: open layers, resolved ranges and decompressed clusters of all chains, under fixed bounds.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::range::Range;
use crate::block::{ReadAt, Weighted};
use crate::error::{Error, Result, ResultExt};
use crate::qcow2::Image;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;
use crate::types::{ClusterBits, LayerId};

/// Opens the layer file in a slot; the repository implements it for a chain.
pub trait LayerSource: Send + Sync {
    /// Opens `<slot>.qcow2`.
    ///
    /// # Errors
    /// `Corrupt` when it is missing; `Io`.
    fn open_layer(&self, slot: &str) -> Result<Arc<dyn ReadAt>>;

    /// A scope for this source's slots that no other source in the process has (the id of the VM).
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

/// The state that all chains of a process share.
pub struct Pool {
    layers: Mutex<LruCache<LayerKey, Arc<Layer>>>,
    ranges: Weighted<RangeKey, Arc<Range>>,
    clusters: Weighted<ClusterKey, Arc<[u8]>>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Arc<Self> {
        let layers = NonZeroUsize::new(limits.layers).unwrap_or(NonZeroUsize::MIN);
        Arc::new(Self {
            layers: Mutex::new(LruCache::new(layers)),
            ranges: Weighted::new(usize_from_u64(limits.memory_bytes / 2)),
            clusters: Weighted::new(usize_from_u64(limits.memory_bytes / 2)),
        })
    }

    /// The layer in a slot; opens it when it is not open yet.
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

    /// Drops a layer handle, so that the next use opens the slot anew.
    pub(super) fn forget_layer(&self, source: &dyn LayerSource, slot: &str) {
        self.layers.lock().pop(&(source.scope(), slot.to_owned()));
    }

    pub(super) fn range(&self, top: LayerId, index: u64) -> Option<Arc<Range>> {
        self.ranges.get(&(top, index))
    }

    pub(super) fn keep_range(&self, top: LayerId, index: u64, range: &Arc<Range>) {
        let weight = usize_from_u64(range.memory_bytes());
        self.ranges.put((top, index), Arc::clone(range), weight);
    }

    pub(super) fn cluster(&self, layer: LayerId, host: u64) -> Option<Arc<[u8]>> {
        self.clusters.get(&(layer, host))
    }

    pub(super) fn keep_cluster(&self, layer: LayerId, host: u64, bytes: &Arc<[u8]>) {
        self.clusters
            .put((layer, host), Arc::clone(bytes), bytes.len());
    }
}
