//! Host space of a layer: its allocation, and the clusters that a mapping uses.
//!
//! # Invariants
//! Space is allocated only once; cluster 0 belongs to the header.

use super::CLUSTER_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::entry::Mapping;
use crate::types::{ClusterBits, HostCluster, HostOffset};

/// Allocated host space.
#[derive(Debug)]
pub(super) struct Space {
    /// First host cluster that was never allocated.
    next: u64,
    /// Offset at which the next compressed cluster may begin, and the end of its host cluster.
    packed: Option<(u64, u64)>,
}

impl Space {
    /// Only the header's cluster is allocated.
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            packed: None,
        }
    }

    /// First host cluster that was never allocated.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Allocates contiguous clusters.
    pub(super) fn take(&mut self, clusters: u64) -> Result<HostOffset> {
        let first = self.next;
        self.next = checked_end(first, clusters)?;
        Ok(HostOffset(first * CLUSTER_BYTES))
    }

    /// Marks `count` clusters from `first` on, and all before them, as allocated.
    pub(super) fn raise(&mut self, first: u64, count: u64) -> Result<()> {
        self.next = self.next.max(checked_end(first, count)?);
        Ok(())
    }

    /// Allocates `length` bytes, directly behind the last compressed cluster if that is still the end.
    pub(super) fn take_packed(&mut self, length: u64) -> Result<u64> {
        let fresh = self.next * CLUSTER_BYTES;
        let (at, end) = match self.packed {
            Some((at, end)) if at + length <= end || end == fresh => (at, end),
            _ => (fresh, fresh),
        };
        let missing = (at + length).saturating_sub(end).div_ceil(CLUSTER_BYTES);
        self.next = checked_end(self.next, missing)?;
        self.packed = Some((at + length, end + missing * CLUSTER_BYTES));
        Ok(at)
    }
}

/// `first + count`, if an L2 entry of a compressed cluster can address it.
fn checked_end(first: u64, count: u64) -> Result<u64> {
    // LIMIT: 54 bits of host offset in a compressed entry at 64 KiB clusters (specification).
    first
        .checked_add(count)
        .filter(|end| *end <= (1 << 54) / CLUSTER_BYTES)
        .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "a layer would pass 16 PiB"))
}

/// Whether the layer contains the cluster's data.
pub(super) fn is_stored(mapping: Mapping) -> bool {
    matches!(mapping, Mapping::Data(_) | Mapping::Compressed(_))
}

/// The whole host cluster of a mapping that has one.
pub(super) fn kept_host(mapping: Mapping) -> Option<HostOffset> {
    match mapping {
        Mapping::Data(host) | Mapping::Zero { host: Some(host) } => Some(host),
        _ => None,
    }
}

/// The host clusters that a mapping uses: first and count.
pub(super) fn host_clusters(mapping: Mapping) -> Option<(HostCluster, u64)> {
    let bits = ClusterBits::LAYER;
    match mapping {
        Mapping::Data(host) | Mapping::Zero { host: Some(host) } => {
            Some((bits.host_cluster(host), 1))
        }
        Mapping::Compressed(cluster) => {
            let first = bits.host_cluster(cluster.host);
            let end = cluster
                .host
                .get()
                .saturating_add(u64::from(cluster.length_bytes));
            Some((first, bits.clusters_for(end).saturating_sub(first.get())))
        }
        Mapping::Unallocated | Mapping::Zero { host: None } | Mapping::Subclusters { .. } => None,
    }
}
