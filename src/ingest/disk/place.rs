//! Parts of clusters that are written in their place in the layer, and hashed later.
//!
//! # Why
//! A write that begins a cluster is often followed by the rest of it: such a cluster is gathered, and hashed while it is in memory. A write
//! into the middle of a cluster is mostly alone.

use std::sync::atomic::{AtomicBool, Ordering};

use super::DiskWriter;
use crate::error::Result;
use crate::layer::{Journal, Part};
use crate::repo::content::CLUSTER_BYTES;
use crate::types::GuestCluster;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: quiet clusters that are listed at once.
const LISTED_MAX: usize = 4096;

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

    /// Whether a write at `offset` completes no other cluster first: there is room to gather, or its first cluster is gathered already,
    /// or is written in its place. A guess: another writer may take the room.
    pub(super) fn takes_at_once(&self, offset: u64) -> bool {
        let cluster = GuestCluster(offset / CLUSTER_BYTES);
        let is_inside = !offset.is_multiple_of(CLUSTER_BYTES);
        !self.gather.is_full()
            || self.gather.contains(cluster.0)
            || (is_inside && self.parent.is_none())
            || self.draft.is_open(cluster).unwrap_or(false)
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

    /// Hashes the clusters that nobody has written since the call before the last one, so that the commit has
    /// less to do. It ends soon after `stop` is set.
    ///
    /// # Errors
    /// The first error; what could be hashed is. `Corrupt` (a compressed cluster); `NoSpace`, `Io`. The commit tries again what is left.
    pub fn hash_quiet(&self, stop: &AtomicBool) -> Result<()> {
        let mut failed = None;
        let mut buf = Vec::new();
        loop {
            let clusters = self.quiet.take(LISTED_MAX);
            if clusters.is_empty() {
                break;
            }
            buf.resize(usize_from_u64(CLUSTER_BYTES), 0);
            for cluster in clusters {
                if stop.load(Ordering::SeqCst) || self.sealed.load(Ordering::SeqCst) {
                    return Ok(());
                }
                if let Err(error) = self.hash(cluster, &mut buf) {
                    failed.get_or_insert(error);
                }
            }
        }
        self.quiet.age();
        failed.map_or(Ok(()), Err)
    }

    fn hash(&self, cluster: GuestCluster, buf: &mut [u8]) -> Result<()> {
        let _gate = self.gate.read();
        if self.sealed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let _range = self.ranges.hold(cluster.0, cluster.0 + 1);
        if cluster.0 * CLUSTER_BYTES >= self.size_bytes() || self.quiet.is_young(cluster) {
            return Ok(());
        }
        self.draft.rehash(cluster, buf, self)
    }
}
