//! Resuming a layer draft: its mappings are restored, and its clusters hashed again.

use super::doubt::UNKNOWN;
use super::draft::LayerDraft;
use super::journal::Journal;
use crate::error::Result;
use crate::qcow2::Mapping;
use crate::repo::content::{
    CLUSTER, LEAVES_PER_REGION, Region, leaf_at, leaf_index, leaf_of, set_leaf, zero_leaf,
};
use crate::types::GuestCluster;
use crate::types::width::u64_from_usize;

impl LayerDraft {
    /// Restores how the layer holds a cluster; later calls win.
    ///
    /// # Errors
    /// `InvalidInput` for a mapping that does not fit the layer; `LimitExceeded`, `NoSpace`, `Io`.
    pub fn restore(&self, cluster: GuestCluster, mapping: Mapping) -> Result<()> {
        self.writer.restore_mapping(cluster, mapping)
    }

    /// Called after the last [`LayerDraft::restore`]: marks every cluster that the layer holds as
    /// not hashed yet, and hands each to `unknown`.
    ///
    /// # Errors
    /// `Corrupt` (the base's sums); `NoSpace`, `Io`.
    pub fn restored(&self, mut unknown: impl FnMut(GuestCluster)) -> Result<()> {
        self.writer.restore_next(self.writer.next_host())?;
        let clusters = CLUSTER.clusters_for(self.writer.size_bytes());
        for index in self.writer.regions() {
            let region = Region(index);
            let first = region.first_cluster().0;
            let mut marks = Vec::new();
            for cluster in first..(first + u64_from_usize(LEAVES_PER_REGION)).min(clusters) {
                match self.writer.get(GuestCluster(cluster))? {
                    Mapping::Unallocated => {}
                    Mapping::Zero { .. } => {
                        marks.push((leaf_index(GuestCluster(cluster)), zero_leaf()))
                    }
                    _ => {
                        unknown(GuestCluster(cluster));
                        marks.push((leaf_index(GuestCluster(cluster)), UNKNOWN));
                    }
                }
            }
            if !marks.is_empty() {
                self.touch(region)?;
                self.pages.with_page(
                    index,
                    |_| Ok(()),
                    |page| marks.iter().for_each(|(i, leaf)| set_leaf(page, *i, leaf)),
                )?;
            }
        }
        Ok(())
    }

    /// Hashes a cluster whose leaf is unknown. One that has become zero is mapped so. The caller holds its range.
    ///
    /// # Errors
    /// `Corrupt`, `NoSpace`, `Io`.
    pub fn rehash(
        &self,
        cluster: GuestCluster,
        buf: &mut [u8],
        journal: &impl Journal,
    ) -> Result<()> {
        let region = Region::of(cluster);
        let index = leaf_index(cluster);
        let is_unknown = self.pages.peek(region.0, |page| {
            page.is_some_and(|page| leaf_at(page, index) == UNKNOWN)
        })?;
        let held = self.writer.get(cluster)?;
        if !is_unknown || held == Mapping::Unallocated {
            return Ok(());
        }
        self.read_held(held, buf)?;
        let leaf = leaf_of(buf);
        if leaf == zero_leaf() {
            self.set_zero(cluster, journal)?;
        }
        self.pages
            .with_page(region.0, |_| Ok(()), |page| set_leaf(page, index, &leaf))
    }
}
