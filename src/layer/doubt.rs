//! Unknown leaves: clusters whose content is uncertain because a write failed half-way.
//!
//! # Why
//! A cluster that the layer holds is rewritten in place. When a write fails after some of its
//! clusters, their bytes are new and their leaves are old. If a writer then writes the old content
//! again, it would be dropped as equal, and the seal would put the old leaf over the new bytes. So
//! the leaves of a failed write count as unknown, as after a resume.

use std::sync::atomic::{AtomicBool, Ordering};

use super::draft::{LayerDraft, UNKNOWN};
use crate::error::Result;
use crate::repo::content::{Region, set_leaf};
use crate::types::sync::Mutex;

/// Clusters whose leaves must be marked unknown: a write of them failed, and marking them has
/// failed so far too.
#[derive(Debug, Default)]
pub(super) struct UnknownLeaves {
    clusters: Mutex<Vec<(Region, usize)>>,
    is_any: AtomicBool,
}

impl LayerDraft {
    /// Called after a failed change: marks the leaves of clusters that may have changed as unknown,
    /// so that the seal takes them from the bytes. Until the mark is recorded, the layer takes no
    /// write: a later write that equals the old leaf would be dropped, and the old leaf would be
    /// sealed over other bytes.
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

    /// Marks the leaves of failed writes for which marking has failed before. The caller holds the
    /// range, and calls this before it trusts a leaf.
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
