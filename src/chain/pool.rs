//! The pool: open layers, resolved ranges and decompressed clusters of all chains, under fixed bounds.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::range::Range;
use super::walk::ChainId;
use crate::block::{ReadAt, Weighted};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::metrics::cache::{self, Cache};
use crate::qcow2::Image;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;
use crate::types::{ClusterBits, LayerId};

/// Opens the layer file in a slot; the repository implements it for a chain.
pub trait LayerSource: Send + Sync {
    /// Opens `<slot>.qcow2`.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Io`.
    fn open_layer(&self, slot: &str) -> Result<Arc<dyn ReadAt>>;

    /// Opens a layer that was in the slot and is kept aside: the one with this id, or any. `None` where there is
    /// none.
    ///
    /// # Errors
    /// `Io`.
    fn open_replaced(&self, slot: &str, layer: Option<LayerId>) -> Result<Option<Arc<dyn ReadAt>>> {
        let _ = (slot, layer);
        Ok(None)
    }

    /// How long look-ups of names may be answered from a cache (network filesystems).
    fn look_up_delay(&self) -> Duration {
        Duration::ZERO
    }

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

impl Layer {
    fn open(file: Arc<dyn ReadAt>, slot: &str) -> Result<Self> {
        let path = format!("{slot}.qcow2");
        let image = Image::open(file).at_path(&path)?;
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
        Ok(Self { image, id })
    }
}

type LayerKey = (u128, String);
type RangeKey = (ChainId, u64);
type ClusterKey = (LayerId, u64);

/// The state that all chains of a process share.
pub struct Pool {
    layers: Mutex<LruCache<LayerKey, Arc<Layer>>>,
    /// Layers that have been replaced in their slots, for readers of the chains that they were in.
    replaced: Mutex<LruCache<LayerId, Arc<Layer>>>,
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
            replaced: Mutex::new(LruCache::new(layers)),
            ranges: Weighted::metered(usize_from_u64(limits.memory_bytes / 2), Cache::ChainRanges),
            clusters: Weighted::metered(
                usize_from_u64(limits.memory_bytes / 2),
                Cache::ChainClusters,
            ),
        })
    }

    /// The layer in a slot; opens it when it is not open yet. A layer that is missing is sought among those that
    /// were replaced.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Corrupt` when the file is not a layer; `Io`.
    pub(super) fn layer(&self, source: &dyn LayerSource, slot: &str) -> Result<Arc<Layer>> {
        let key = (source.scope(), slot.to_owned());
        let open = self.layers.lock().get(&key).map(Arc::clone);
        cache::note(Cache::ChainLayers, open.is_some());
        if let Some(layer) = open {
            return Ok(layer);
        }
        match source.open_layer(slot) {
            Ok(file) => {
                let layer = Arc::new(Layer::open(file, slot)?);
                self.layers.lock().put(key, Arc::clone(&layer));
                Ok(layer)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.replaced_layer(source, slot, None)?.ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    /// The layer of that id which is, or was, in a slot.
    ///
    /// # Errors
    /// `Stale` when it is in neither place; `Corrupt`, `Io`.
    pub(super) fn layer_of(
        &self,
        source: &dyn LayerSource,
        slot: &str,
        id: LayerId,
    ) -> Result<Arc<Layer>> {
        match self.layer(source, slot) {
            Ok(layer) if layer.id == id => return Ok(layer),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let kept = self.replaced.lock().get(&id).cloned();
        let found = match kept {
            Some(layer) => Some(layer),
            None => self.replaced_layer(source, slot, Some(id))?,
        };
        found.filter(|layer| layer.id == id).ok_or_else(|| {
            Error::new(
                ErrorKind::Stale,
                format!("the layer in slot {slot} has been replaced"),
            )
        })
    }

    fn replaced_layer(
        &self,
        source: &dyn LayerSource,
        slot: &str,
        id: Option<LayerId>,
    ) -> Result<Option<Arc<Layer>>> {
        let Some(file) = source.open_replaced(slot, id)? else {
            return Ok(None);
        };
        let layer = Arc::new(Layer::open(file, slot)?);
        self.replaced.lock().put(layer.id, Arc::clone(&layer));
        Ok(Some(layer))
    }

    /// Drops a layer's handles, so that the next use opens the slot anew.
    pub(super) fn forget_layer(&self, source: &dyn LayerSource, slot: &str, id: LayerId) {
        self.layers.lock().pop(&(source.scope(), slot.to_owned()));
        self.replaced.lock().pop(&id);
    }

    pub(super) fn range(&self, chain: ChainId, index: u64) -> Option<Arc<Range>> {
        self.ranges.get(&(chain, index))
    }

    pub(super) fn keep_range(&self, chain: ChainId, index: u64, range: &Arc<Range>) {
        let weight = usize_from_u64(range.memory_bytes());
        self.ranges.put((chain, index), Arc::clone(range), weight);
    }

    pub(super) fn cluster(&self, layer: LayerId, host: u64) -> Option<Arc<[u8]>> {
        self.clusters.get(&(layer, host))
    }

    pub(super) fn keep_cluster(&self, layer: LayerId, host: u64, bytes: &Arc<[u8]>) {
        self.clusters
            .put((layer, host), Arc::clone(bytes), bytes.len());
    }
}
