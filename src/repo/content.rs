//! The hashes of a disk's content: leaves, regions, the content root.
//!
//! # On-disk layout
//! - A *leaf* is BLAKE3 of one guest cluster of 64 KiB as resolved through the chain, zero-padded at the
//!   end of the disk.
//! - A *region* is 512 MiB of guest address space (what one L2 table covers); its hash is BLAKE3 over its
//!   8,192 leaves, 32 bytes each. Clusters past the end of the disk count as zero clusters.
//! - The *content root* is BLAKE3 over the size in bytes (u64, little-endian) and the region hashes.
//!
//! # Invariants
//! The root depends on the guest's content alone: merging layers, or compressing or moving clusters, does not
//! change it.

use std::borrow::Cow;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::types::width::usize_from_u64;
use crate::types::{ClusterBits, Digest, GuestCluster};

/// Cluster size of layers and leaves: 64 KiB.
pub const CLUSTER: ClusterBits = ClusterBits::LAYER;

/// Bytes of a cluster.
pub const CLUSTER_BYTES: u64 = CLUSTER.size_bytes();

/// Leaves in a region: the entries of one L2 table.
pub const LEAVES_PER_REGION: usize = 8192;

/// Bytes of guest address space in a region (512 MiB).
pub const REGION_BYTES: u64 = CLUSTER_BYTES * 8192;

/// Bytes of the packed leaves of one region (256 KiB).
pub const PAGE_BYTES: usize = LEAVES_PER_REGION * Digest::BYTES;

/// Number of a region within a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Region(pub u64);

impl Region {
    /// The region of a cluster.
    #[must_use]
    pub const fn of(cluster: GuestCluster) -> Self {
        Self(cluster.0 / 8192)
    }
    /// The region of a byte of the disk.
    #[must_use]
    pub const fn at(offset: u64) -> Self {
        Self(offset / REGION_BYTES)
    }
    /// Its first cluster.
    #[must_use]
    pub const fn first_cluster(self) -> GuestCluster {
        GuestCluster(self.0 * 8192)
    }
    /// Regions of a disk of `size_bytes`.
    #[must_use]
    pub const fn count(size_bytes: u64) -> u64 {
        size_bytes.div_ceil(REGION_BYTES)
    }
}

/// Position of a cluster's leaf in its region's page.
#[must_use]
pub const fn leaf_index(cluster: GuestCluster) -> usize {
    crate::types::width::usize_from_u64(cluster.0 % 8192)
}

/// Leaf of a cluster of zeroes.
#[must_use]
pub fn zero_leaf() -> Digest {
    static LEAF: OnceLock<Digest> = OnceLock::new();
    *LEAF.get_or_init(|| Digest::of(&[0; 65_536]))
}

/// The leaf of a cluster; the last cluster of a disk is padded with zeroes.
#[must_use]
pub fn leaf_of(bytes: &[u8]) -> Digest {
    if is_zero(bytes) {
        return zero_leaf();
    }
    Digest::of(&padded(bytes))
}

/// A cluster's bytes, padded with zeroes when the disk ends within it.
#[must_use]
pub fn padded(bytes: &[u8]) -> Cow<'_, [u8]> {
    let length = usize_from_u64(CLUSTER_BYTES);
    if bytes.len() == length {
        return Cow::Borrowed(bytes);
    }
    let mut whole = bytes.to_vec();
    whole.resize(length, 0);
    Cow::Owned(whole)
}

/// Whether all bytes are zero. It stops at the first step with another byte; the compiler vectorises the
/// steps.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(1024)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Page of a region of zeroes.
#[must_use]
pub fn zero_page() -> &'static [u8] {
    static PAGE: OnceLock<Vec<u8>> = OnceLock::new();
    PAGE.get_or_init(|| zero_leaf().0.repeat(LEAVES_PER_REGION))
}

/// Hash of a region of zeroes.
#[must_use]
pub fn zero_region() -> Digest {
    static REGION: OnceLock<Digest> = OnceLock::new();
    *REGION.get_or_init(|| region_hash(zero_page()))
}

/// Hash of a region from its page of leaves.
#[must_use]
pub fn region_hash(page: &[u8]) -> Digest {
    Digest::of(page)
}

/// The leaf at `index` of a page; the zero leaf when the page is too short.
#[must_use]
pub fn leaf_at(page: &[u8], index: usize) -> Digest {
    let at = index * Digest::BYTES;
    page.get(at..at + Digest::BYTES)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or_else(zero_leaf, Digest)
}

/// Replaces the leaf at `index` of a page.
pub fn set_leaf(page: &mut [u8], index: usize, leaf: &Digest) {
    let at = index * Digest::BYTES;
    if let Some(bytes) = page.get_mut(at..at + Digest::BYTES) {
        bytes.copy_from_slice(&leaf.0);
    }
}

/// Leaves of a page that are not the zero leaf.
#[must_use]
pub fn data_leaves(page: &[u8]) -> u64 {
    let zero = zero_leaf().0;
    page.chunks_exact(Digest::BYTES)
        .map(|leaf| u64::from(leaf != zero))
        .sum()
}

/// The content root of a disk.
#[must_use]
pub fn content_root(size_bytes: u64, regions: &[Digest]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size_bytes.to_le_bytes());
    for region in regions {
        hasher.update(&region.0);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::{
        Digest, PAGE_BYTES, REGION_BYTES, content_root, data_leaves, leaf_at, set_leaf, zero_leaf,
        zero_page, zero_region,
    };

    #[test]
    fn constants_are_what_the_formula_gives() {
        assert_eq!(zero_leaf(), Digest::of(&vec![0; 65_536]));
        assert_eq!(zero_page().len(), PAGE_BYTES);
        assert_eq!(REGION_BYTES, 512 << 20);
        assert_eq!(data_leaves(zero_page()), 0);
        let mut page = zero_page().to_vec();
        set_leaf(&mut page, 8191, &Digest([7; 32]));
        assert_eq!(leaf_at(&page, 8191), Digest([7; 32]));
        assert_eq!(data_leaves(&page), 1);
        assert_ne!(content_root(1, &[]), content_root(2, &[]));
    }

    #[test]
    fn the_root_of_a_known_disk_never_changes() {
        // A format constant: 1 GiB of zeroes.
        let root = content_root(1 << 30, &[zero_region(), zero_region()]);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[0, 0, 0, 0x40, 0, 0, 0, 0]);
        let page = blake3::hash(&[0; 65_536]).as_bytes().repeat(8192);
        let region = blake3::hash(&page);
        hasher.update(region.as_bytes()).update(region.as_bytes());
        assert_eq!(root, hasher.finalize().into());
    }
}
