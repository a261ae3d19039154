//! The runs of a whole disk: where in the files of its layers its bytes lie, for a caller that shares the extents
//! of these files.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::disk::Disk;
use super::extent::{ExtentLocation, LayerIndex};
use super::range::RANGE_BYTES;
use super::walk::ChainId;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::Image;
use crate::types::width::usize_from_u32;
use crate::types::{ClusterBits, LayerId};

const CLUSTER_BYTES: u64 = ClusterBits::LAYER.size_bytes();

/// What a run holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPlace {
    /// The bytes from this offset of the layer's file on.
    Data(u64),
    /// Zeroes, which the layer marks.
    Zero,
}

/// A part of a disk in one layer. Offset and length are multiples of 64 KiB, so the last run may pass the end of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte in the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length_bytes: u64,
    /// Position of the layer, 0 for the top.
    pub layer: usize,
    /// Where the bytes are.
    pub place: RunPlace,
}

/// All runs of a disk, in order. What lies between them is zero.
pub struct ChainRuns {
    layers: Vec<(LayerId, u64)>,
    files: Vec<Option<Arc<dyn ReadAt>>>,
    runs: Vec<Run>,
}

impl ChainRuns {
    /// Identity of the chain.
    #[must_use]
    pub fn chain(&self) -> ChainId {
        self.chain_below(0)
    }

    /// Number of layers.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Identity of the chain whose top layer is the one at `position`.
    #[must_use]
    pub fn chain_below(&self, position: usize) -> ChainId {
        ChainId::of(self.layers.iter().skip(position).map(|(id, _)| *id))
    }

    /// Size in bytes of the disk whose top layer is the one at `position`, if what lies in the layers above hides nothing of it
    /// but by their own runs: no layer above is smaller, and the size is a whole number of clusters or that of the whole disk.
    #[must_use]
    pub fn base_bytes(&self, position: usize) -> Option<u64> {
        let (_, size_bytes) = *self.layers.get(position)?;
        let above = self.layers.get(..position)?;
        let (_, top_bytes) = *self.layers.first()?;
        let is_whole = size_bytes.is_multiple_of(CLUSTER_BYTES) || size_bytes == top_bytes;
        (is_whole && above.iter().all(|(_, above)| *above >= size_bytes)).then_some(size_bytes)
    }

    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The file of a layer that has a data run.
    #[must_use]
    pub fn file(&self, layer: usize) -> Option<&Arc<dyn ReadAt>> {
        self.files.get(layer)?.as_ref()
    }
}

impl Disk {
    /// Identity of the chain that this disk reads now.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        self.shape().id
    }

    /// The runs of the whole disk, at most `runs_max`. Resolves each range of the disk that is not resolved yet.
    ///
    /// # Errors
    /// `Unsupported` when a cluster is compressed, or does not lie on a multiple of its size; `LimitExceeded` when there
    /// are more runs; as [`ReadAt::read_at`].
    pub fn runs(&self, runs_max: usize) -> Result<ChainRuns> {
        self.fresh(|shape| {
            let layers = shape.layers.iter().map(|meta| (meta.id, meta.size_bytes));
            let mut found = ChainRuns {
                layers: layers.collect(),
                files: vec![None; shape.layers.len()],
                runs: Vec::new(),
            };
            for index in 0..self.size_bytes().div_ceil(RANGE_BYTES) {
                let range = self.range(shape, index)?;
                for extent in range.extents() {
                    let (layer, place) = match extent.place {
                        ExtentLocation::Hole => continue,
                        ExtentLocation::Zero { layer } => (layer, RunPlace::Zero),
                        ExtentLocation::Data { layer, host } => (layer, RunPlace::Data(host.0)),
                        ExtentLocation::Compressed { .. } => {
                            return Err(Error::unsupported("the disk has compressed clusters"));
                        }
                    };
                    let LayerIndex(position) = layer;
                    let run = Run {
                        offset: index * RANGE_BYTES + u64::from(extent.first) * CLUSTER_BYTES,
                        length_bytes: u64::from(extent.count) * CLUSTER_BYTES,
                        layer: usize_from_u32(position),
                        place,
                    };
                    if matches!(place, RunPlace::Data(at) if !at.is_multiple_of(CLUSTER_BYTES)) {
                        return Err(Error::unsupported(
                            "a cluster does not lie on a multiple of its size",
                        ));
                    }
                    if found.runs.len() >= runs_max {
                        return Err(Error::new(
                            ErrorKind::LimitExceeded,
                            format!("the disk has more than {runs_max} extents"),
                        ));
                    }
                    found.runs.push(run);
                    if let (RunPlace::Data(_), Some(file @ None)) =
                        (place, found.files.get_mut(run.layer))
                    {
                        *file = Some(Arc::clone(self.layer(shape, layer)?.image.data_source()?));
                    }
                }
            }
            Ok(found)
        })
    }

    /// Whether the files that this disk reads are still in their slots, and are those of this chain. It opens the slots anew.
    ///
    /// # Errors
    /// `Corrupt` for a file that is no layer; `Io`.
    pub fn is_in_place(&self, chain: ChainId) -> Result<bool> {
        let shape = self.shape();
        if shape.id != chain {
            return Ok(false);
        }
        for (position, meta) in (0..).zip(&shape.layers) {
            let file = match self.source.open_layer(&meta.slot) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
                other => other?,
            };
            // A repair puts another file with the same id into the slot.
            let read = self.layer(&shape, LayerIndex(position))?;
            let is_same = identity(file.as_ref())? == identity(read.image.file().as_ref())?;
            if !is_same || Image::open(file)?.layer_id() != Some(meta.id) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Walks the chain anew, so that layers that have been replaced are read no more.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn renew(&self) -> Result<()> {
        let shape = self.shape();
        self.walk_again(&shape).map(drop)
    }

    /// Bytes of the runs' clusters: the size of the disk, rounded up to whole clusters.
    #[must_use]
    pub fn whole_clusters_bytes(&self) -> u64 {
        self.size_bytes().next_multiple_of(CLUSTER_BYTES)
    }
}

/// Device and inode of a local file.
fn identity(file: &dyn ReadAt) -> Result<Option<(u64, u64)>> {
    let Some(file) = file.local_file() else {
        return Ok(None);
    };
    let metadata = file.metadata().or_io("cannot stat a layer")?;
    Ok(Some((metadata.dev(), metadata.ino())))
}
