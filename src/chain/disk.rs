//! A disk of a restore point as one readable object.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};

use super::extent::{Extent as ChainExtent, ExtentLocation, LayerIndex};
use super::flat::{Flat, FlatStore};
use super::pool::{Layer, LayerSource, Pool};
use super::range::{RANGE_BYTES, RANGE_CLUSTERS, Range, Resolver};
use super::walk::{self, ChainId, Trail};
use crate::block::{Extent, ExtentKind, ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::CompressedCluster;
use crate::types::sync::{Mutex, RwLock};
use crate::types::width::{u64_from_usize, usize_from_u32, usize_from_u64};
use crate::types::{ClusterBits, HostOffset, LayerId};

const CLUSTER: ClusterBits = ClusterBits::LAYER;
/// LIMIT: layers in a chain (our limit; QEMU has none).
const DEPTH_MAX: usize = 65_536;
/// Chains deeper than this keep a flattened map in `cache/`.
const FLAT_DEPTH: usize = 64;

/// Facts about a chain that need none of its tables.
pub(super) struct Shape {
    pub(super) id: ChainId,
    pub(super) layers: Vec<LayerMeta>,
    size_bytes: u64,
    flat: OnceLock<Option<Flat>>,
}

pub(super) struct LayerMeta {
    pub(super) slot: String,
    pub(super) id: LayerId,
    pub(super) size_bytes: u64,
    /// The open layer, as long as the pool keeps it. This spares the hot path the pool's own lock.
    handle: Mutex<Weak<Layer>>,
}

impl Shape {
    /// Depth of a range that no layer has: the depth of the first layer that ends before it, if any does.
    fn depth_of_hole(&self, offset: u64, length_bytes: u64) -> (u32, u64) {
        let mut length_bytes = length_bytes;
        for (depth, layer) in (1..).zip(&self.layers) {
            if layer.size_bytes <= offset {
                return (depth, length_bytes);
            }
            length_bytes = length_bytes.min(layer.size_bytes - offset);
        }
        (0, length_bytes)
    }
}

/// Layers that are kept open.
pub struct LayerHold {
    _layers: Vec<Arc<Layer>>,
}

/// A disk, flattened.
pub struct Disk {
    pool: Arc<Pool>,
    pub(super) source: Arc<dyn LayerSource>,
    flat: Option<Arc<dyn FlatStore>>,
    top: String,
    size_bytes: u64,
    shape: RwLock<Arc<Shape>>,
}

impl Disk {
    /// Opens the chain whose top layer is in slot `top`. It reads one header for each layer.
    ///
    /// # Errors
    /// `Corrupt` when a layer is missing, a file is not a layer, or the chain is a loop; `LimitExceeded`;
    /// `Io`.
    pub fn open(
        pool: &Arc<Pool>,
        source: Arc<dyn LayerSource>,
        top: &str,
        flat: Option<Arc<dyn FlatStore>>,
    ) -> Result<Self> {
        let shape = Self::walk(pool, source.as_ref(), top)?;
        Ok(Self {
            pool: Arc::clone(pool),
            source,
            flat,
            top: top.to_owned(),
            size_bytes: shape.size_bytes,
            shape: RwLock::new(Arc::new(shape)),
        })
    }

    /// Walks the chain until it is settled.
    fn walk(pool: &Pool, source: &dyn LayerSource, top: &str) -> Result<Shape> {
        walk::settled(source.look_up_delay(), |trail| {
            let walked = Self::walk_once(pool, source, top, trail);
            if walked.is_err() {
                // Handles of layers that have been replaced lead to slots that are gone.
                for (slot, id) in trail.iter() {
                    pool.forget_layer(source, slot, *id);
                }
            }
            walked
        })
    }

    fn walk_once(
        pool: &Pool,
        source: &dyn LayerSource,
        top: &str,
        trail: &mut Trail,
    ) -> Result<Shape> {
        let mut layers: Vec<LayerMeta> = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(top.to_owned());
        while let Some(slot) = next {
            if !seen.insert(slot.clone()) {
                return Err(Error::corrupt(
                    "the backing chain is a loop",
                    "a chain that ends",
                    format!("{slot} twice"),
                )
                .at_path(format!("{slot}.qcow2")));
            }
            if layers.len() >= DEPTH_MAX {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("the backing chain has more than {DEPTH_MAX} layers"),
                ));
            }
            let layer = pool.layer(source, &slot)?;
            trail.push((slot.clone(), layer.id));
            next = backing_slot(&layer, &slot)?;
            let handle = Mutex::new(Arc::downgrade(&layer));
            layers.push(LayerMeta {
                slot,
                id: layer.id,
                size_bytes: layer.image.size_bytes(),
                handle,
            });
        }
        let size_bytes = layers.first().map_or(0, |layer| layer.size_bytes);
        Ok(Shape {
            id: ChainId::of(layers.iter().map(|layer| layer.id)),
            layers,
            size_bytes,
            flat: OnceLock::new(),
        })
    }

    /// Number of layers.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.shape().layers.len()
    }

    /// Keeps all layers of this disk open as long as the returned value lives: layer files that are deleted
    /// or replaced meanwhile stay readable. Each layer costs a descriptor.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`]; `Io` where the process may not open that many files.
    pub fn hold(&self) -> Result<LayerHold> {
        let layers = self.fresh(|shape| {
            (0..)
                .zip(&shape.layers)
                .map(|(position, _)| self.layer(shape, LayerIndex(position)))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(LayerHold { _layers: layers })
    }

    /// How deep in the chain the bytes at `offset` lie, and for how many bytes, at most `length_max`, that
    /// holds: 1 for the top layer, 2 for its backing file, and so on; 0 where no layer maps them. As in QEMU,
    /// a range past the end of a layer counts as that layer's.
    ///
    /// # Errors
    /// As [`ReadAt::extent_at`].
    pub fn depth_at(&self, offset: u64, length_max: u64) -> Result<(u32, u64)> {
        check_range(self.size_bytes, offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("a depth of no bytes was asked for").at_offset(offset));
        }
        self.fresh(|shape| {
            let mut found = None;
            let mut length_bytes = 0;
            while length_bytes < length_max {
                let at = offset + length_bytes;
                let piece = self.piece(shape, at, length_max - length_bytes)?;
                let (depth, length) = match piece.place {
                    ExtentLocation::Data { layer, .. }
                    | ExtentLocation::Compressed { layer, .. }
                    | ExtentLocation::Zero { layer } => {
                        (layer.0.saturating_add(1), piece.length_bytes)
                    }
                    ExtentLocation::Hole => shape.depth_of_hole(at, piece.length_bytes),
                };
                if *found.get_or_insert(depth) != depth {
                    break;
                }
                length_bytes += length;
            }
            Ok((found.unwrap_or_default(), length_bytes))
        })
    }

    pub(super) fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape.read())
    }

    /// Runs `f`. When a layer has been replaced meanwhile (by a merge) and cannot be opened any more, it walks the
    /// chain anew and runs `f` again.
    pub(super) fn fresh<T>(&self, mut f: impl FnMut(&Shape) -> Result<T>) -> Result<T> {
        let mut shape = self.shape();
        for _ in 1..walk::WALKS_MAX {
            match f(&shape) {
                Err(e) if e.kind() == ErrorKind::Stale => shape = self.walk_again(&shape)?,
                other => return other,
            }
        }
        f(&shape)
    }

    pub(super) fn walk_again(&self, stale: &Shape) -> Result<Arc<Shape>> {
        for layer in &stale.layers {
            self.pool
                .forget_layer(self.source.as_ref(), &layer.slot, layer.id);
        }
        let anew = Arc::new(Self::walk(&self.pool, self.source.as_ref(), &self.top)?);
        if anew.size_bytes != self.size_bytes {
            return Err(Error::corrupt(
                "a layer was replaced by one of another size",
                self.size_bytes,
                anew.size_bytes,
            )
            .at_path(format!("{}.qcow2", self.top)));
        }
        *self.shape.write() = Arc::clone(&anew);
        Ok(anew)
    }

    pub(super) fn layer(&self, shape: &Shape, index: LayerIndex) -> Result<Arc<Layer>> {
        let meta = shape
            .layers
            .get(usize_from_u32(index.0))
            .ok_or_else(lost_layer)?;
        let mut handle = meta.handle.lock();
        if let Some(layer) = handle.upgrade() {
            return Ok(layer);
        }
        let layer = self
            .pool
            .layer_of(self.source.as_ref(), &meta.slot, meta.id)?;
        *handle = Arc::downgrade(&layer);
        Ok(layer)
    }

    pub(super) fn range(&self, shape: &Shape, index: u64) -> Result<Arc<Range>> {
        if let Some(range) = self.pool.range(shape.id, index) {
            return Ok(range);
        }
        let flat = self.flat_map(shape);
        let range = match flat.and_then(|flat| flat.load(index)) {
            Some(range) => Arc::new(range),
            None => {
                let range = self.resolve(shape, index)?;
                if let Some(flat) = flat
                    && let Err(e) = flat.store(index, &range)
                {
                    tracing::warn!(error = %e.report(), "a flattened map could not be kept");
                }
                Arc::new(range)
            }
        };
        self.pool.keep_range(shape.id, index, &range);
        Ok(range)
    }

    fn flat_map<'a>(&self, shape: &'a Shape) -> Option<&'a Flat> {
        if shape.layers.len() <= FLAT_DEPTH {
            return None;
        }
        let opened = shape.flat.get_or_init(|| {
            let ranges = shape.size_bytes.div_ceil(RANGE_BYTES);
            Flat::open(self.flat.as_ref()?.as_ref(), shape.id, ranges).unwrap_or_else(|e| {
                tracing::warn!(error = %e.report(), "no flattened map is kept for this chain");
                None
            })
        });
        opened.as_ref()
    }

    fn resolve(&self, shape: &Shape, index: u64) -> Result<Range> {
        let mut resolver = Resolver::new();
        for (position, meta) in (0..).zip(&shape.layers) {
            resolver.limit(meta.size_bytes, index);
            if resolver.is_done() {
                break;
            }
            let layer = self.layer(shape, LayerIndex(position))?;
            let place = |e: Error| e.at_path(format!("{}.qcow2", meta.slot));
            let Some(table) = layer.image.load_l2(index).map_err(place)? else {
                continue;
            };
            for entry in 0..RANGE_CLUSTERS {
                let mapping = table.mapping(u64::from(entry)).map_err(place)?;
                resolver
                    .offer(entry, LayerIndex(position), mapping)
                    .map_err(place)?;
            }
        }
        Ok(resolver.finish())
    }

    fn piece(&self, shape: &Shape, offset: u64, length_max: u64) -> Result<Piece> {
        let range = self.range(shape, offset / RANGE_BYTES)?;
        let within_range = offset % RANGE_BYTES;
        let cluster = u32::try_from(within_range / CLUSTER.size_bytes()).unwrap_or(u32::MAX);
        let extent = range.starting_at(cluster).first().ok_or_else(lost_layer)?;
        Ok(Piece::of(extent, within_range, length_max))
    }

    fn read_shape(&self, shape: &Shape, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + u64_from_usize(done);
            let range = self.range(shape, at / RANGE_BYTES)?;
            let mut within_range = at % RANGE_BYTES;
            let cluster = u32::try_from(within_range / CLUSTER.size_bytes()).unwrap_or(u32::MAX);
            for extent in range.starting_at(cluster) {
                if done >= buf.len() {
                    break;
                }
                let piece = Piece::of(extent, within_range, u64_from_usize(buf.len() - done));
                let end = done + usize_from_u64(piece.length_bytes);
                let part = buf.get_mut(done..end).ok_or_else(lost_layer)?;
                self.read_piece(shape, &piece, part)
                    .map_err(|e| self.name_slot(shape, &piece, e))?;
                within_range += piece.length_bytes;
                done = end;
            }
        }
        Ok(())
    }

    fn name_slot(&self, shape: &Shape, piece: &Piece, error: Error) -> Error {
        let (ExtentLocation::Data { layer, .. } | ExtentLocation::Compressed { layer, .. }) =
            piece.place
        else {
            return error;
        };
        match shape.layers.get(usize_from_u32(layer.0)) {
            Some(meta) => error.at_path(format!("{}.qcow2", meta.slot)),
            None => error,
        }
    }

    fn read_piece(&self, shape: &Shape, piece: &Piece, part: &mut [u8]) -> Result<()> {
        match piece.place {
            ExtentLocation::Zero { .. } | ExtentLocation::Hole => {
                part.fill(0);
                Ok(())
            }
            ExtentLocation::Data { layer, host } => self
                .layer(shape, layer)?
                .image
                .read_data(HostOffset(host.0 + piece.within), part),
            ExtentLocation::Compressed {
                layer,
                host,
                length_bytes,
            } => {
                let layer = self.layer(shape, layer)?;
                let cluster = match self.pool.cluster(layer.id, host.0) {
                    Some(cluster) => cluster,
                    None => {
                        let mut bytes = vec![0; usize_from_u64(CLUSTER.size_bytes())];
                        layer.image.read_compressed(
                            CompressedCluster { host, length_bytes },
                            &mut bytes,
                        )?;
                        let bytes: Arc<[u8]> = bytes.into();
                        self.pool.keep_cluster(layer.id, host.0, &bytes);
                        bytes
                    }
                };
                let from = usize_from_u64(piece.within);
                let bytes = cluster
                    .get(from..from + part.len())
                    .ok_or_else(lost_layer)?;
                part.copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// A part of one extent.
struct Piece {
    place: ExtentLocation,
    /// Offset of the part within the extent, in bytes.
    within: u64,
    length_bytes: u64,
}

impl Piece {
    fn of(extent: &ChainExtent, within_range: u64, length_max: u64) -> Self {
        let start = u64::from(extent.first) * CLUSTER.size_bytes();
        let end = u64::from(extent.end()) * CLUSTER.size_bytes();
        Self {
            place: extent.place,
            within: within_range - start,
            length_bytes: length_max.min(end - within_range),
        }
    }
}

fn lost_layer() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "a resolved extent does not fit its chain",
    )
}

fn backing_slot(layer: &Layer, slot: &str) -> Result<Option<String>> {
    let Some(name) = layer.image.backing_name() else {
        return Ok(None);
    };
    let bad = || {
        Error::corrupt(
            "a layer's backing file is not a layer of this VM",
            "<slot>.qcow2 in the same directory",
            format!("\"{}\"", String::from_utf8_lossy(name).escape_debug()),
        )
        .at_path(format!("{slot}.qcow2"))
    };
    let name = std::str::from_utf8(name).map_err(|_| bad())?;
    let below = name.strip_suffix(".qcow2").ok_or_else(bad)?;
    let plain = below
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if below.is_empty() || !plain || below.starts_with('.') || below.contains("..") {
        return Err(bad());
    }
    Ok(Some(below.to_owned()))
}

impl ReadAt for Disk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes, offset, u64_from_usize(buf.len()))?;
        self.fresh(|shape| self.read_shape(shape, offset, buf))
            .at_offset(offset)
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.size_bytes, offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        self.fresh(|shape| {
            let mut found: Option<ExtentKind> = None;
            let mut length_bytes = 0;
            while length_bytes < length_max {
                let piece = self.piece(shape, offset + length_bytes, length_max - length_bytes)?;
                let kind = match piece.place {
                    ExtentLocation::Data { .. } | ExtentLocation::Compressed { .. } => {
                        ExtentKind::Data
                    }
                    ExtentLocation::Zero { .. } => ExtentKind::Zero,
                    ExtentLocation::Hole => ExtentKind::Hole,
                };
                if *found.get_or_insert(kind) != kind {
                    break;
                }
                length_bytes += piece.length_bytes;
            }
            Ok(Extent {
                kind: found.unwrap_or(ExtentKind::Hole),
                length_bytes,
            })
        })
    }
}
