//! Parts of clusters in their place: bytes that are written to the cluster's host space at once, without the rest of the cluster.
//! The cluster is hashed later, when it is quiet or at the seal; until then its leaf is [`UNKNOWN`].
//!
//! # Why
//! A guest writes a page here and a page there. Hashing and writing 64 KiB for each of them costs many times the write itself.

use super::doubt::UNKNOWN;
use super::draft::LayerDraft;
use super::journal::{Change, Journal};
use crate::error::Result;
use crate::qcow2::Mapping;
use crate::repo::content::{CLUSTER_BYTES, Region, leaf_index, set_leaf, zero_leaf};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, HostOffset};

/// What became of a part of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The part lies in its place, and the leaf of the cluster is unknown.
    Placed,
    /// The cluster has these bytes already: nothing was written.
    Equal,
    /// The cluster lies in the layer, and its leaf is known: whoever proves its bytes may call [`LayerDraft::open_cluster`], and then write
    /// the part again.
    Closed,
    /// The rest of the cluster lies elsewhere (in the base, or compressed): the part must be completed to a whole cluster.
    Elsewhere,
}

impl LayerDraft {
    /// Writes bytes of one cluster, from byte `from` of it on, if the rest of the cluster is where they go:
    /// in the layer, or zero. The caller holds the range.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; `Corrupt` (the base's sums). The cluster may then have some of the bytes.
    pub fn write_part(
        &self,
        cluster: GuestCluster,
        from: usize,
        bytes: &[u8],
        journal: &impl Journal,
    ) -> Result<Part> {
        let region = Region::of(cluster);
        self.touch(region)?;
        self.settle_doubts()?;
        let leaf = self.leaf(cluster)?;
        match self.writer.get(cluster)? {
            Mapping::Data(host) if leaf == UNKNOWN => {
                self.place(host, from, bytes)?;
                journal.note_stored(u64_from_usize(bytes.len()));
                Ok(Part::Placed)
            }
            Mapping::Data(_) => Ok(Part::Closed),
            Mapping::Unallocated | Mapping::Zero { .. } if leaf == zero_leaf() => {
                if bytes.iter().all(|byte| *byte == 0) {
                    journal.note_equal(u64_from_usize(bytes.len()));
                    return Ok(Part::Equal);
                }
                // A layer with compression compresses whole clusters.
                if self.compression.is_some() {
                    return Ok(Part::Elsewhere);
                }
                self.begin_cluster(cluster, from, bytes, journal)?;
                Ok(Part::Placed)
            }
            _ => Ok(Part::Elsewhere),
        }
    }

    /// Gives a cluster that reads as zero host space, which reads as zero too, and writes a part into it.
    fn begin_cluster(
        &self,
        cluster: GuestCluster,
        from: usize,
        bytes: &[u8],
        journal: &impl Journal,
    ) -> Result<()> {
        let host = self.writer.allocate(1)?;
        self.place(host, from, bytes)?;
        // The leaf first: a cluster whose leaf says zero while it holds bytes would lose them at the seal.
        self.open_cluster(cluster)?;
        self.writer.set(cluster, Mapping::Data(host))?;
        journal.note_stored(u64_from_usize(bytes.len()));
        journal.record(Change::Data {
            cluster,
            count: 1,
            host,
        });
        Ok(())
    }

    /// Whether parts of a cluster are written in their place: the layer holds it, and its leaf is unknown.
    ///
    /// # Errors
    /// What the file that tables or leaves are spilled to returns.
    pub fn is_open(&self, cluster: GuestCluster) -> Result<bool> {
        let is_data = matches!(self.writer.get(cluster)?, Mapping::Data(_));
        Ok(is_data && self.is_touched(Region::of(cluster)) && self.leaf(cluster)? == UNKNOWN)
    }

    /// Marks the leaf of a cluster as unknown, so that parts of it may be written in place. The caller holds the range, and has proved
    /// what the layer holds of the cluster: nothing else proves it before it gets a new leaf.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub fn open_cluster(&self, cluster: GuestCluster) -> Result<()> {
        self.pages.with_page(
            Region::of(cluster).0,
            |_| Ok(()),
            |page| set_leaf(page, leaf_index(cluster), &UNKNOWN),
        )
    }

    fn place(&self, host: HostOffset, from: usize, bytes: &[u8]) -> Result<()> {
        let inside = usize_from_u64(CLUSTER_BYTES).saturating_sub(from);
        let bytes = bytes.get(..inside).unwrap_or(bytes);
        self.writer
            .write_data(HostOffset(host.0 + u64_from_usize(from)), bytes)
    }

    /// The leaf of a cluster in a touched region.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub fn leaf(&self, cluster: GuestCluster) -> Result<Digest> {
        let known = self.known_leaves(Region::of(cluster), leaf_index(cluster), 1)?;
        Ok(known.first().copied().unwrap_or(UNKNOWN))
    }
}
