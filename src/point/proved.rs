//! Reads of a disk that prove every cluster against its leaf.

use std::sync::Arc;

use super::ChainSource;
use crate::block::ReadAt;
use crate::chain::{Disk, Pool};
use crate::error::{Error, Result, ResultExt};
use crate::repo::content::{
    CLUSTER_BYTES, LEAVES_PER_REGION, PAGE_BYTES, Region, leaf_at, leaf_index, leaf_of, zero_leaf,
    zero_region,
};
use crate::repo::leaves::Leaves;
use crate::repo::metadata::prove_chain;
use crate::repo::sidecar::point::PointDisk;
use crate::repo::{Repository, Slot};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, VmId, VmName};

/// Compares the bytes of a cluster with its leaf.
///
/// # Errors
/// `Corrupt` with both hashes, the offset, and `words`, a description of the cluster.
pub fn prove(
    cluster: GuestCluster,
    bytes: &[u8],
    stated: &Digest,
    describe: impl FnOnce() -> String,
) -> Result<()> {
    let found = leaf_of(bytes);
    if found == *stated {
        return Ok(());
    }
    Err(Error::corrupt(describe(), stated, found))
        .at_offset(cluster.0.saturating_mul(CLUSTER_BYTES))
}

/// A disk of a committed point with its leaves.
pub struct ProvedDisk {
    disk: Disk,
    leaves: Leaves,
    source_bytes: u64,
    name: String,
    proof: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl ProvedDisk {
    /// Opens a disk of a point.
    ///
    /// # Errors
    /// `Corrupt` when the chain or its sums are broken; `Io`.
    pub fn open(
        repository: &Arc<Repository>,
        pool: &Arc<Pool>,
        vm: &VmName,
        vm_id: VmId,
        disk: &PointDisk,
    ) -> Result<Self> {
        let top = (&disk.layer, disk.content_root);
        let name = disk.name.to_string();
        Self::of_layer(repository, pool, vm, vm_id, top, disk.source_bytes, name)
    }

    /// Opens the disk as of a layer, which need not be a point's: its slot and the content that it states.
    ///
    /// # Errors
    /// As [`ProvedDisk::open`].
    pub fn of_layer(
        repository: &Arc<Repository>,
        pool: &Arc<Pool>,
        vm: &VmName,
        vm_id: VmId,
        (slot, content_root): (&Slot, Digest),
        source_bytes: u64,
        name: String,
    ) -> Result<Self> {
        let source = ChainSource::new(repository, vm, vm_id, false);
        let (place, own, top) = (Arc::clone(repository), vm.clone(), slot.clone());
        Ok(Self {
            proof: Box::new(move || prove_chain(&place, &own, vm_id, &top)),
            disk: source.open_disk(pool, slot)?,
            leaves: Leaves::open(repository, vm, vm_id, slot, content_root)?,
            source_bytes,
            name,
        })
    }

    /// Proves what the layers of the disk contain besides data. Reads are correct even where that is damaged,
    /// because each cluster is proved by itself.
    ///
    /// # Errors
    /// `Corrupt` naming file and offset; `Io`.
    pub fn prove_metadata(&self) -> Result<()> {
        (self.proof)()
    }

    /// Size of the source, in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Looks for a cluster whose hash is `leaf` at its place in the disk, and fills `bytes`, a whole cluster, with it; `false` when the
    /// disk has other content there. `leaves` is kept from call to call.
    ///
    /// # Errors
    /// `Corrupt` when the disk should have it, and is damaged there; `Io`.
    pub fn find(
        &self,
        cluster: GuestCluster,
        leaf: &Digest,
        leaves: &mut RegionLeaves,
        bytes: &mut [u8],
    ) -> Result<bool> {
        let at = cluster.0.saturating_mul(CLUSTER_BYTES);
        let size = self.disk.size_bytes();
        if at >= size || leaves.leaf(&self.leaves, cluster)? != *leaf {
            return Ok(false);
        }
        bytes.fill(0);
        let inside = usize_from_u64(CLUSTER_BYTES.min(size - at));
        let part = bytes
            .get_mut(..inside)
            .ok_or_else(|| Error::invalid("the buffer has no room for a cluster"))?;
        self.disk.read_at(at, part)?;
        prove(cluster, bytes, leaf, || {
            format!("disk {}: a cluster is damaged here, too", self.name)
        })?;
        Ok(true)
    }

    /// The leaves of a region, proved against the region's hash. `None` when all of its clusters are zeroes.
    ///
    /// # Errors
    /// `Corrupt` when the sums do not give the region's hash; `Io`.
    pub fn leaf_page(&self, region: Region) -> Result<Option<LeafPage>> {
        if self.leaves.region(region) == zero_region() {
            return Ok(None);
        }
        let mut bytes = vec![0; PAGE_BYTES];
        self.leaves.load_page(region, &mut bytes)?;
        Ok(Some(LeafPage {
            region,
            bytes: bytes.into(),
        }))
    }

    /// Reads whole clusters of the region of `page` from `at` on, which begins a cluster, and proves each. `buf` has a whole number of
    /// clusters; where the disk ends within the last one, the rest of it is filled with zeroes.
    ///
    /// # Errors
    /// `Corrupt` naming the range when a cluster differs from what was committed; `InvalidInput` for a range outside of the region or
    /// past the disk's end; `Io`.
    pub fn read_clusters(&self, page: &LeafPage, at: u64, buf: &mut [u8]) -> Result<()> {
        let inside = usize_from_u64(self.disk.size_bytes().saturating_sub(at)).min(buf.len());
        let (bytes, rest) = buf.split_at_mut(inside);
        rest.fill(0);
        self.disk.read_at(at, bytes)?;
        let first = at / CLUSTER_BYTES;
        for (cluster, bytes) in (first..).zip(buf.chunks(usize_from_u64(CLUSTER_BYTES))) {
            let cluster = GuestCluster(cluster);
            let stated = page.leaf(cluster)?;
            self.prove_read(cluster, bytes, &stated)?;
        }
        Ok(())
    }

    fn prove_read(&self, cluster: GuestCluster, bytes: &[u8], stated: &Digest) -> Result<()> {
        prove(cluster, bytes, stated, || {
            let from = cluster.0 * CLUSTER_BYTES;
            format!(
                "disk {}, bytes {from} to {}: other content than that of the backup",
                self.name,
                from + CLUSTER_BYTES
            )
        })
    }

    /// A reader for one thread.
    #[must_use]
    pub fn reader(&self) -> ProvedReader<'_> {
        ProvedReader {
            disk: self,
            leaves: RegionLeaves::default(),
        }
    }
}

/// The content of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Zeroes; the buffer is unchanged.
    Zero,
    /// Data, which is in the buffer.
    Data,
}

/// The leaves of one region of a disk; clones share them.
#[derive(Clone)]
pub struct LeafPage {
    region: Region,
    bytes: Arc<[u8]>,
}

impl LeafPage {
    /// The leaf of a cluster of the region.
    ///
    /// # Errors
    /// `InvalidInput` for a cluster of another region.
    pub fn leaf(&self, cluster: GuestCluster) -> Result<Digest> {
        if Region::of(cluster) != self.region {
            return Err(Error::invalid(
                "a leaf was asked for from another region's page",
            ));
        }
        Ok(leaf_at(&self.bytes, leaf_index(cluster)))
    }

    /// Whether a cluster of the region is all zeroes.
    ///
    /// # Errors
    /// `InvalidInput` for a cluster of another region.
    pub fn is_zero(&self, cluster: GuestCluster) -> Result<bool> {
        Ok(self.leaf(cluster)? == zero_leaf())
    }

    /// Number of clusters from `cluster` on, at most `most` and to the end of the region, that are like it all zeroes, or like it not.
    ///
    /// # Errors
    /// `InvalidInput` for a cluster of another region.
    pub fn run(&self, cluster: GuestCluster, most: u64) -> Result<u64> {
        let is_zero = self.is_zero(cluster)?;
        let from = leaf_index(cluster);
        let end = LEAVES_PER_REGION.min(from.saturating_add(usize_from_u64(most)));
        let same = (from..end)
            .take_while(|&index| (leaf_at(&self.bytes, index) == zero_leaf()) == is_zero);
        Ok(u64_from_usize(same.count()))
    }
}

/// The leaves of the region of a disk that was read last.
pub struct RegionLeaves {
    region: Option<Region>,
    page: Vec<u8>,
}

impl Default for RegionLeaves {
    fn default() -> Self {
        Self {
            region: None,
            page: vec![0; PAGE_BYTES],
        }
    }
}

impl RegionLeaves {
    fn leaf(&mut self, leaves: &Leaves, cluster: GuestCluster) -> Result<Digest> {
        let region = Region::of(cluster);
        if self.region != Some(region) {
            self.region = None;
            leaves.load_page(region, &mut self.page)?;
            self.region = Some(region);
        }
        Ok(leaf_at(&self.page, leaf_index(cluster)))
    }
}

/// Reads a disk, and keeps the leaves of the region that it read last.
pub struct ProvedReader<'d> {
    disk: &'d ProvedDisk,
    leaves: RegionLeaves,
}

impl ProvedReader<'_> {
    /// Reads `length` bytes from `at` on, which begins a cluster, and proves each cluster. It reads whole
    /// clusters, so that it can prove them: `buf` must have room for the length rounded up to whole clusters.
    ///
    /// # Errors
    /// `InvalidInput` for a buffer that is too small; `Corrupt` naming the range when a cluster differs from
    /// what was committed; `Io`.
    pub fn read(&mut self, at: u64, length: u64, buf: &mut [u8]) -> Result<Part> {
        let disk = &self.disk.disk;
        let whole = length
            .next_multiple_of(CLUSTER_BYTES)
            .min(disk.size_bytes().saturating_sub(at));
        let bytes = buf
            .get_mut(..usize_from_u64(whole))
            .ok_or_else(|| Error::invalid("the buffer has no room for whole clusters"))?;
        let extent = disk.extent_at(at, whole)?;
        if extent.kind.reads_zero() && extent.length_bytes == whole {
            self.prove_zero(at, whole)?;
            return Ok(Part::Zero);
        }
        disk.read_at(at, bytes)?;
        let first = at / CLUSTER_BYTES;
        for (cluster, bytes) in (first..).zip(bytes.chunks(usize_from_u64(CLUSTER_BYTES))) {
            let cluster = GuestCluster(cluster);
            let stated = self.leaf(cluster)?;
            self.disk.prove_read(cluster, bytes, &stated)?;
        }
        Ok(Part::Data)
    }

    fn leaf(&mut self, cluster: GuestCluster) -> Result<Digest> {
        self.leaves.leaf(&self.disk.leaves, cluster)
    }

    fn prove_zero(&mut self, at: u64, whole: u64) -> Result<()> {
        let clusters = whole.div_ceil(CLUSTER_BYTES);
        for cluster in (at / CLUSTER_BYTES..).take(usize_from_u64(clusters)) {
            let stated = self.leaf(GuestCluster(cluster))?;
            if stated != zero_leaf() {
                let place = cluster * CLUSTER_BYTES;
                return Err(Error::corrupt(
                    format!(
                        "disk {}, bytes from {place}: zeroes instead of the content of the backup",
                        self.disk.name
                    ),
                    stated,
                    zero_leaf(),
                ))
                .at_offset(place);
            }
        }
        Ok(())
    }
}
