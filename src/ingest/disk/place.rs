//! Parts of clusters that are written in their place in the layer, and hashed later.
//!
//! # Why
//! A write that begins a cluster is often followed by the rest of it: such a cluster is gathered, and hashed while it is in memory. A write
//! into the middle of a cluster is mostly alone.

use std::sync::atomic::Ordering;

use super::DiskWriter;
use crate::error::Result;
use crate::layer::{Journal, Part};
use crate::repo::content::{CLUSTER_BYTES, Region};
use crate::types::GuestCluster;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: clusters that one round hashes; the rest waits for the next one.
const HASHED_MAX: usize = 1 << 16;

impl DiskWriter {
    /// Writes a part of a cluster in its place, if the rest of the cluster is there; `false` where it must be gathered. The caller holds
    /// the range.
    pub(super) fn place_part(
        &self,
        cluster: GuestCluster,
        from: usize,
        bytes: &[u8],
    ) -> Result<bool> {
        if self.gather.contains(cluster.0) || (from == 0 && !self.draft.is_open(cluster)?) {
            return Ok(false);
        }
        match self.draft.write_part(cluster, from, bytes, self)? {
            Part::Placed => self.quiet.note(cluster),
            Part::Equal => {}
            Part::Elsewhere => return Ok(false),
            Part::Closed => return self.open_and_place(cluster, from, bytes),
        }
        Ok(true)
    }

    /// The last moment at which the layer's bytes can be proved by the leaf that they have: from now on it is unknown.
    fn open_and_place(&self, cluster: GuestCluster, from: usize, bytes: &[u8]) -> Result<bool> {
        let mut whole = vec![0; usize_from_u64(CLUSTER_BYTES)];
        self.load_current(cluster, &mut whole)?;
        if whole.get(from..from + bytes.len()) == Some(bytes) {
            self.note_equal(u64_from_usize(bytes.len()));
            return Ok(true);
        }
        self.draft.open_cluster(cluster)?;
        self.quiet.note(cluster);
        let part = self.draft.write_part(cluster, from, bytes, self)?;
        Ok(matches!(part, Part::Placed | Part::Equal))
    }

    /// Hashes clusters that nobody has written for a while, so that the commit has less to do.
    ///
    /// # Errors
    /// `Corrupt` (a compressed cluster); `NoSpace`, `Io`. The commit tries again what is left.
    pub fn hash_quiet(&self) -> Result<()> {
        let clusters = self.quiet.take(HASHED_MAX);
        let mut buf = vec![
            0;
            if clusters.is_empty() {
                0
            } else {
                usize_from_u64(CLUSTER_BYTES)
            }
        ];
        for cluster in clusters {
            let _gate = self.gate.read();
            if self.sealed.load(Ordering::SeqCst) {
                return Ok(());
            }
            let _range = self.ranges.hold(cluster.0, cluster.0 + 1);
            if cluster.0 * CLUSTER_BYTES < self.size_bytes() && !self.quiet.is_young(cluster) {
                self.draft.rehash(cluster, &mut buf, self)?;
            }
        }
        Ok(())
    }

    /// Queues what was resumed: the leaves of all clusters that the layer holds are unknown.
    pub(in crate::ingest) fn queue_resumed(&self, regions: &[Region]) {
        for region in regions {
            self.quiet.add_region(*region);
        }
    }
}
