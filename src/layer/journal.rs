//! The journal: how a layer draft reports each change.

use crate::types::{GuestCluster, HostOffset};

/// A change of what the layer holds of the disk. The layer reports it after it has handed the data
/// to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `count` clusters from `cluster` on lie contiguously from `host` on.
    Data {
        /// The first cluster.
        cluster: GuestCluster,
        /// The number of clusters.
        count: u32,
        /// The offset of the first one.
        host: HostOffset,
    },
    /// A cluster lies compressed at `host`.
    Compressed {
        /// The cluster.
        cluster: GuestCluster,
        /// Its offset.
        host: HostOffset,
        /// Its compressed size in bytes.
        length_bytes: u32,
    },
    /// A cluster is zero.
    Zero {
        /// The cluster.
        cluster: GuestCluster,
    },
    /// The layer no longer holds a cluster.
    Drop {
        /// The cluster.
        cluster: GuestCluster,
    },
}

/// Receives what a layer does with the clusters that are written to it.
pub trait Journal: Sync {
    /// Counts bytes that equal the disk's present content.
    fn note_equal(&self, bytes: u64);
    /// Counts bytes that are zero.
    fn note_zero(&self, bytes: u64);
    /// Counts bytes that were written to the layer.
    fn note_stored(&self, bytes: u64);
    /// Records a change of what the layer holds of the disk.
    fn record(&self, change: Change);
}

/// For builders of a layer that cannot be resumed: records nothing.
impl Journal for () {
    fn note_equal(&self, _bytes: u64) {}
    fn note_zero(&self, _bytes: u64) {}
    fn note_stored(&self, _bytes: u64) {}
    fn record(&self, _change: Change) {}
}
