//! Extents of a resolved range: which layer holds a contiguous run of clusters, and where.

use crate::types::HostOffset;

/// Position of a layer in a chain, 0 being the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LayerIndex(pub(super) u32);

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentLocation {
    /// In a layer, contiguous and uncompressed.
    Data {
        /// The layer.
        layer: LayerIndex,
        /// Offset of the first byte in the layer file.
        host: HostOffset,
    },
    /// In a layer, compressed; such an extent has exactly one cluster.
    Compressed {
        /// The layer.
        layer: LayerIndex,
        /// Offset of the first compressed byte in the layer file.
        host: HostOffset,
        /// Upper bound of the compressed length, in bytes.
        length_bytes: u32,
    },
    /// A layer marks them as zero.
    Zero {
        /// The layer.
        layer: LayerIndex,
    },
    /// No layer maps them: they are zero.
    Hole,
}

/// A run of clusters within one range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First cluster, relative to the range.
    pub(super) first: u32,
    /// Number of clusters, at least 1.
    pub(super) count: u32,
    /// Where they are.
    pub(super) place: ExtentLocation,
}

impl Extent {
    pub(super) const fn end(&self) -> u32 {
        self.first + self.count
    }
}
