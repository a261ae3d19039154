//! Refcounts of a layer that is being written: one page is one refcount block, 16 bits each, big-endian.

use crate::block::page::PageTable;
use crate::error::{Error, Result};
use crate::qcow2::field;
use crate::types::HostCluster;
use crate::types::width::usize_from_u64;

/// Refcounts in one block of 64 KiB.
pub(super) const BLOCK_ENTRIES: u64 = super::CLUSTER_BYTES / 2;

/// The number of L2 entries that use each host cluster.
pub(super) struct Refcounts {
    blocks: PageTable,
}

impl Refcounts {
    pub(super) fn new(blocks: PageTable) -> Self {
        Self { blocks }
    }

    /// Adds a user of a cluster.
    pub(super) fn increment(&self, cluster: HostCluster, users_max: u16) -> Result<()> {
        let changed = self.change(cluster, |users| {
            users.checked_add(1).filter(|users| *users <= users_max)
        })?;
        if changed {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "host cluster {cluster} is in use already"
        )))
    }

    /// Removes a user of a cluster.
    pub(super) fn decrement(&self, cluster: HostCluster) -> Result<()> {
        if self.change(cluster, |users| users.checked_sub(1))? {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "host cluster {cluster} is freed without being in use"
        )))
    }

    fn change(&self, cluster: HostCluster, f: impl FnOnce(u16) -> Option<u16>) -> Result<bool> {
        let at = usize_from_u64(cluster.get() % BLOCK_ENTRIES * 2);
        self.blocks.with_page(
            cluster.get() / BLOCK_ENTRIES,
            |_| Ok(()),
            |page| match field::u16_at(page, at).and_then(f) {
                Some(users) => field::set(page, at, &users.to_be_bytes()),
                None => false,
            },
        )
    }

    /// Resets all counts.
    pub(super) fn clear(&self) {
        for index in self.blocks.indices() {
            self.blocks.remove(index);
        }
    }

    /// Copies block `index` to `block`; an absent block is zero.
    pub(super) fn copy_block(&self, index: u64, block: &mut [u8]) -> Result<()> {
        self.blocks.peek(index, |page| match page {
            Some(page) => {
                field::set(block, 0, page);
            }
            None => block.fill(0),
        })
    }
}
