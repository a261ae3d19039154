//! The difference between a session's disk and earlier content, determined from leaves: no data is
//! read.

use std::collections::BTreeSet;

use super::DiskWriter;
use crate::error::Result;
use crate::repo::content::{CLUSTER_BYTES, REGION_BYTES, Region, leaf_at, leaf_index};
use crate::types::GuestCluster;

impl DiskWriter {
    /// Whether the cluster at `offset` differs from its earlier content, and up to which offset
    /// that holds, at most `end` and the end of its region. `None` where the session has not
    /// written to the region, so that it is the parent's. `earlier` is the page of leaves that the
    /// region had.
    ///
    /// A cluster that is not hashed yet counts as different: one written in part, or one that was
    /// resumed.
    ///
    /// # Errors
    /// What the file that pages are spilled to returns.
    pub fn difference_at(
        &self,
        offset: u64,
        end: u64,
        earlier: &[u8],
    ) -> Result<Option<(bool, u64)>> {
        let first = offset / CLUSTER_BYTES;
        let region = Region::of(GuestCluster(first));
        if !self.draft.is_touched(region) {
            return Ok(None);
        }
        let end = end.min((region.0 + 1) * REGION_BYTES);
        let last = end.div_ceil(CLUSTER_BYTES);
        let gathered: BTreeSet<u64> = if self.gather.is_empty() {
            BTreeSet::new()
        } else {
            let within = self.gather.within(first, last);
            within.into_iter().map(|(cluster, _)| cluster).collect()
        };
        self.draft.peek_leaves(region, |page| {
            // A region without a page is unknown: no cluster in it may be reported as unchanged.
            let Some(page) = page else {
                return Some((true, end));
            };
            let differs = |cluster: u64| {
                let index = leaf_index(GuestCluster(cluster));
                gathered.contains(&cluster) || leaf_at(page, index) != leaf_at(earlier, index)
            };
            let is_different = differs(first);
            let next = (first..last).find(|cluster| differs(*cluster) != is_different);
            let stop = next.map_or(end, |cluster| (cluster * CLUSTER_BYTES).min(end));
            Some((is_different, stop.max(offset + 1)))
        })
    }
}
