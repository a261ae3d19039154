//! Unknown leaves: what a write that failed half-way may have left.
//!
//! # Why
//! A cluster that the layer holds is rewritten in place. When a write fails after some of its clusters, their bytes are new and their
//! leaves are old. A writer that then writes the old content again would have it dropped as equal, and the seal
//! would put the old leaf over the new bytes. So the leaves of a failed write count as unknown, as after a resume.

use std::sync::atomic::{AtomicBool, Ordering};

use super::draft::{LayerDraft, UNKNOWN};
use crate::error::Result;
use crate::repo::content::{Region, set_leaf};
use crate::types::sync::Mutex;

/// Clusters whose leaves are to be marked unknown: a write of them failed, and so far the mark too.
#[derive(Debug, Default)]
pub(super) struct UnknownLeaves {
    clusters: Mutex<Vec<(Region, usize)>>,
    is_any: AtomicBool,
}

impl LayerDraft {
    /// After a failed change: the leaves of clusters that may have been changed are not known any more, and are taken from
    /// their bytes at the seal. Until that is noted, the layer takes nothing more: a later write that equals the old leaf would be
    /// dropped, and the old leaf be sealed over other bytes.
    pub(super) fn mark_unknown_leaves(&self, region: Region, indices: impl Iterator<Item = usize>) {
        self.doubts
            .clusters
            .lock()
            .extend(indices.map(|index| (region, index)));
        self.doubts.is_any.store(true, Ordering::SeqCst);
        if let Err(e) = self.settle_doubts() {
            tracing::warn!(layer = %self.slot, error = %e.report(), "the leaves of a failed write could not be marked yet");
        }
    }

    /// Marks the leaves of failed writes, where that was not possible yet. To be called with the range held, before a leaf is
    /// believed.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub fn settle_doubts(&self) -> Result<()> {
        if !self.doubts.is_any.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut doubtful = self.doubts.clusters.lock();
        while let Some((region, index)) = doubtful.last().copied() {
            self.pages
                .with_page(region.0, |_| Ok(()), |page| set_leaf(page, index, &UNKNOWN))?;
            doubtful.pop();
        }
        self.doubts.is_any.store(false, Ordering::SeqCst);
        Ok(())
    }
}
