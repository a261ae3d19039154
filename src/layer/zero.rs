//! Zeroes: they store no data, and no mapping where no base's content would be visible.

use std::ops::Range;

use super::draft::LayerDraft;
use super::journal::Journal;
use crate::error::Result;
use crate::repo::content::{
    CLUSTER_BYTES, LEAVES_PER_REGION, Region, leaf_index, set_leaf, zero_leaf, zero_region,
};
use crate::types::GuestCluster;
use crate::types::width::usize_from_u64;

impl LayerDraft {
    /// Makes `clusters`, which lie in one region, zero. After a failure some of them may have
    /// changed.
    ///
    /// # Errors
    /// As [`LayerDraft::write`].
    pub fn zero(&self, clusters: Range<u64>, journal: &impl Journal) -> Result<()> {
        let Range { start: first, end } = clusters;
        let region = Region::of(GuestCluster(first));
        journal.note_zero((end - first) * CLUSTER_BYTES);
        let base_is_zero = match &self.base {
            Some(base) => base.leaves().region(region) == zero_region(),
            None => true,
        };
        if !self.is_touched(region) && base_is_zero {
            return Ok(());
        }
        self.touch(region)?;
        self.settle_doubts()?;
        let from = leaf_index(GuestCluster(first));
        let count = usize_from_u64(end - first);
        let known = self.known_leaves(region, from, count)?;
        let zero = zero_leaf();
        let zeroed = (first..end)
            .zip(&known)
            .filter(|(_, known)| **known != zero)
            .try_for_each(|(cluster, _)| self.set_zero(GuestCluster(cluster), journal));
        let indices = from..(from + count).min(LEAVES_PER_REGION);
        let marked = zeroed.and_then(|()| {
            self.pages.with_page(
                region.0,
                |_| Ok(()),
                |page| {
                    indices
                        .clone()
                        .for_each(|index| set_leaf(page, index, &zero))
                },
            )
        });
        if marked.is_err() {
            self.mark_unknown_leaves(region, indices);
        }
        marked
    }
}
