//! What a layer tells of each change while it is being made.

use crate::types::{GuestCluster, HostOffset};

/// A change of what the layer holds of the disk. It is told after the data that it names was handed to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `count` clusters from `cluster` on lie contiguously from `host` on.
    Data {
        /// The first cluster.
        cluster: GuestCluster,
        /// How many there are.
        count: u32,
        /// Where the first one lies.
        host: HostOffset,
    },
    /// A cluster lies compressed at `host`.
    Compressed {
        /// The cluster.
        cluster: GuestCluster,
        /// Where it lies.
        host: HostOffset,
        /// Its compressed size in bytes.
        length_bytes: u32,
    },
    /// A cluster is zero.
    Zero {
        /// The cluster.
        cluster: GuestCluster,
    },
    /// The layer does not hold a cluster any more.
    Drop {
        /// The cluster.
        cluster: GuestCluster,
    },
}

/// Takes note of what becomes of the clusters that are written to a layer.
pub trait Journal: Sync {
    /// So many bytes were what the disk has already.
    fn note_equal(&self, bytes: u64);
    /// So many bytes were zero.
    fn note_zero(&self, bytes: u64);
    /// So many bytes were written to the layer.
    fn note_stored(&self, bytes: u64);
    /// The layer holds something else of the disk now.
    fn record(&self, change: Change);
}

/// For what builds a layer in one go: nothing is noted.
impl Journal for () {
    fn note_equal(&self, _bytes: u64) {}
    fn note_zero(&self, _bytes: u64) {}
    fn note_stored(&self, _bytes: u64) {}
    fn record(&self, _change: Change) {}
}
