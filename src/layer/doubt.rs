//! Unknown leaves: clusters whose content is uncertain because a write failed half-way.
//!
//! # Why
//! A cluster that the layer holds is rewritten in place. When a write fails after some of its
//! clusters, their bytes are new and their leaves are old. If a writer then writes the old content
//! again, it would be dropped as equal, and the seal would put the old leaf over the new bytes. So
//! the leaves of a failed write count as unknown, as after a resume.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::page::PageTable;
use crate::error::Result;
use crate::repo::content::{Region, set_leaf};
use crate::types::Digest;
use crate::types::sync::Mutex;

/// Leaf of a cluster whose content has not been hashed since it may have changed; no content hashes to it in practice.
pub const UNKNOWN: Digest = Digest([0xff; 32]);

/// Clusters whose leaves must be marked unknown: a write of them failed, and marking them has
/// failed so far too.
#[derive(Debug, Default)]
pub(super) struct UnknownLeaves {
    clusters: Mutex<Vec<(Region, usize)>>,
    is_any: AtomicBool,
}

impl UnknownLeaves {
    /// Adds clusters of a region.
    pub(super) fn add(&self, region: Region, indices: impl Iterator<Item = usize>) {
        self.clusters
            .lock()
            .extend(indices.map(|index| (region, index)));
        self.is_any.store(true, Ordering::SeqCst);
    }

    /// Marks the leaves of all added clusters.
    ///
    /// # Errors
    /// What the file that leaves are spilled to returns.
    pub(super) fn settle(&self, pages: &PageTable) -> Result<()> {
        if !self.is_any.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut clusters = self.clusters.lock();
        while let Some((region, index)) = clusters.last().copied() {
            pages.with_page(region.0, |_| Ok(()), |page| set_leaf(page, index, &UNKNOWN))?;
            clusters.pop();
        }
        self.is_any.store(false, Ordering::SeqCst);
        Ok(())
    }
}
