//! Zeroes and discards: no data, and no mapping where nothing could shine through.

use std::sync::atomic::Ordering;

use super::disk::DiskWriter;
use crate::block::check_range;
use crate::error::Result;
use crate::repo::content::CLUSTER_BYTES;
use crate::repo::content::{
    LEAVES_PER_REGION, REGION_BYTES, Region, leaf_index, set_leaf, zero_leaf, zero_region,
};
use crate::types::GuestCluster;
use crate::types::width::usize_from_u64;

impl DiskWriter {
    /// Writes zeroes (also TRIM: what is discarded reads as zero).
    ///
    /// # Errors
    /// As [`DiskWriter::write`].
    pub fn zero(&self, offset: u64, length_bytes: u64) -> Result<()> {
        check_range(self.size_bytes(), offset, length_bytes)?;
        if length_bytes == 0 {
            return Ok(());
        }
        let end = offset + length_bytes;
        let zeroed = self.zero_range(offset, end);
        self.note_range(offset..end, &zeroed);
        zeroed
    }

    fn zero_range(&self, offset: u64, end: u64) -> Result<()> {
        let _gate = self.enter()?;
        self.note_change();
        let mut at = offset;
        while at < end {
            // One region at a time, so that a zeroed disk does not hold all its ranges at once.
            let stop = ((at / REGION_BYTES + 1) * REGION_BYTES).min(end);
            self.zero_in_region(at, stop)?;
            at = stop;
        }
        self.relieve()
    }

    fn zero_in_region(&self, from: u64, end: u64) -> Result<()> {
        let _range = self
            .ranges
            .hold(from / CLUSTER_BYTES, end.div_ceil(CLUSTER_BYTES));
        let whole_from = from.next_multiple_of(CLUSTER_BYTES);
        let whole_end = if end == self.size_bytes() {
            end.next_multiple_of(CLUSTER_BYTES)
        } else {
            end - end % CLUSTER_BYTES
        };
        if whole_from >= whole_end {
            return self.zero_part(from, end);
        }
        if from < whole_from {
            self.zero_part(from, whole_from)?;
        }
        self.zero_whole(whole_from / CLUSTER_BYTES, whole_end / CLUSTER_BYTES)?;
        if whole_end < end {
            self.zero_part(whole_end, end)
        } else {
            Ok(())
        }
    }

    /// Zeroes that lie within one or two clusters and cover none.
    fn zero_part(&self, from: u64, end: u64) -> Result<()> {
        static ZEROES: [u8; 65_536] = [0; 65_536];
        let mut at = from;
        while at < end {
            let stop = ((at / CLUSTER_BYTES + 1) * CLUSTER_BYTES).min(end);
            self.write_part(
                at,
                ZEROES.get(..usize_from_u64(stop - at)).unwrap_or(&ZEROES),
            )?;
            at = stop;
        }
        Ok(())
    }

    fn zero_whole(&self, first: u64, end: u64) -> Result<()> {
        let region = Region::of(GuestCluster(first));
        self.counters
            .zero
            .fetch_add((end - first) * CLUSTER_BYTES, Ordering::Relaxed);
        let untouched = !self.touched().contains(&region);
        let parent_is_zero = match &self.parent {
            Some(parent) => parent.leaves.region(region) == zero_region(),
            None => true,
        };
        if untouched && parent_is_zero {
            self.gather.forget(first, end);
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
            .try_for_each(|(cluster, _)| self.set_zero(GuestCluster(cluster)));
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
        marked?;
        self.gather.forget(first, end);
        Ok(())
    }
}
