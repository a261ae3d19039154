//! Reads of a disk that prove every cluster against its leaf.

use std::sync::Arc;

use super::ChainSource;
use crate::block::ReadAt;
use crate::chain::{Disk, Pool};
use crate::error::{Error, Result, ResultExt};
use crate::repo::Repository;
use crate::repo::content::{
    CLUSTER_BYTES, PAGE_BYTES, Region, leaf_at, leaf_index, leaf_of, zero_leaf,
};
use crate::repo::leaves::Leaves;
use crate::repo::metadata::prove_chain;
use crate::repo::sidecar::point::PointDisk;
use crate::types::width::usize_from_u64;
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
        let source = ChainSource::new(repository, vm, vm_id, false);
        let (place, name, top) = (Arc::clone(repository), vm.clone(), disk.layer.clone());
        Ok(Self {
            proof: Box::new(move || prove_chain(&place, &name, vm_id, &top)),
            disk: source.open_disk(pool, &disk.layer)?,
            leaves: Leaves::open(repository, vm, vm_id, &disk.layer, disk.content_root)?,
            source_bytes: disk.source_bytes,
            name: disk.name.to_string(),
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

    /// A reader for one thread.
    #[must_use]
    pub fn reader(&self) -> ProvedReader<'_> {
        ProvedReader {
            disk: self,
            region: None,
            page: vec![0; PAGE_BYTES],
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

/// Reads a disk, and keeps the leaves of the region that it read last.
pub struct ProvedReader<'d> {
    disk: &'d ProvedDisk,
    region: Option<Region>,
    page: Vec<u8>,
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
            prove(cluster, bytes, &stated, || {
                let from = cluster.0 * CLUSTER_BYTES;
                format!(
                    "disk {}, bytes {from} to {}: other content than that of the backup",
                    self.disk.name,
                    from + CLUSTER_BYTES
                )
            })?;
        }
        Ok(Part::Data)
    }

    /// Whether a cluster is all zeroes.
    ///
    /// # Errors
    /// `Corrupt` (the leaves), `Io`.
    pub fn is_zero(&mut self, cluster: GuestCluster) -> Result<bool> {
        Ok(self.leaf(cluster)? == zero_leaf())
    }

    fn leaf(&mut self, cluster: GuestCluster) -> Result<Digest> {
        let region = Region::of(cluster);
        if self.region != Some(region) {
            self.region = None;
            self.disk.leaves.load_page(region, &mut self.page)?;
            self.region = Some(region);
        }
        Ok(leaf_at(&self.page, leaf_index(cluster)))
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
