//! Storing whole clusters: each is hashed and compared, then dropped or written, with as few writes
//! as possible.

use super::draft::LayerDraft;
use super::journal::{Change, Journal};
use crate::error::Result;
use crate::qcow2::{Mapping, compress};
use crate::repo::content::{
    CLUSTER_BYTES, Region, leaf_at, leaf_index, leaf_of, padded, set_leaf, zero_leaf,
};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, HostOffset};

/// A whole cluster to be written: its leaf, its bytes, and whether the layer already holds the
/// cluster.
struct Incoming<'a> {
    cluster: GuestCluster,
    leaf: Digest,
    bytes: &'a [u8],
    /// Position among the chunks of the writer's buffer.
    chunk: usize,
    held: Mapping,
}

impl LayerDraft {
    /// Writes whole clusters from `first` on; the last one may be short at the end of the disk.
    /// After a failure some of them may have changed.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; `Corrupt` (the base's sums).
    pub fn write(&self, first: GuestCluster, bytes: &[u8], journal: &impl Journal) -> Result<()> {
        let mut cluster = first.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            // One region at a time: its page is accessed once before and once after.
            let region_end = Region(Region::of(GuestCluster(cluster)).0 + 1)
                .first_cluster()
                .0;
            let length = usize_from_u64((region_end - cluster) * CLUSTER_BYTES).min(rest.len());
            let (part, tail) = rest.split_at(length);
            self.write_in_region(GuestCluster(cluster), part, journal)?;
            cluster = region_end;
            rest = tail;
        }
        Ok(())
    }

    fn write_in_region(
        &self,
        first: GuestCluster,
        bytes: &[u8],
        journal: &impl Journal,
    ) -> Result<()> {
        let region = Region::of(first);
        let chunks: Vec<&[u8]> = bytes.chunks(usize_from_u64(CLUSTER_BYTES)).collect();
        let leaves: Vec<Digest> = chunks.iter().map(|chunk| leaf_of(chunk)).collect();
        self.touch(region)?;
        self.settle_doubts()?;
        let known = self.known_leaves(region, leaf_index(first), leaves.len())?;
        let mut fresh: Vec<Incoming<'_>> = Vec::new();
        let mut changed: Vec<(usize, Digest)> = Vec::new();
        for (n, ((chunk, leaf), known)) in chunks.iter().zip(&leaves).zip(&known).enumerate() {
            if leaf == known {
                journal.note_equal(u64_from_usize(chunk.len()));
                continue;
            }
            let cluster = GuestCluster(first.0 + u64_from_usize(n));
            let held = self.writer.get(cluster)?;
            changed.push((leaf_index(cluster), *leaf));
            if self.is_bases_again(cluster, held, leaf)? {
                journal.note_equal(u64_from_usize(chunk.len()));
                self.drop_held(cluster, journal)?;
                continue;
            }
            fresh.push(Incoming {
                cluster,
                leaf: *leaf,
                bytes: chunk,
                chunk: n,
                held,
            });
        }
        if changed.is_empty() {
            return Ok(());
        }
        let marked = self.store(&fresh, bytes, journal).and_then(|()| {
            self.pages.with_page(
                region.0,
                |_| Ok(()),
                |page| {
                    for (index, leaf) in &changed {
                        set_leaf(page, *index, leaf);
                    }
                },
            )
        });
        if marked.is_err() {
            // Some clusters may be stored, in place of those that the page still names: their
            // content is unknown.
            self.mark_unknown_leaves(region, changed.iter().map(|(index, _)| *index));
        }
        marked
    }

    /// Takes over a cluster that is compressed already, in the layer's own method, whose leaf is known and proved.
    ///
    /// # Errors
    /// `InvalidInput` in a layer without compression; `NoSpace`, `Io`; `Corrupt` (the base's sums).
    pub fn take_compressed(
        &self,
        cluster: GuestCluster,
        packed: &[u8],
        leaf: &Digest,
    ) -> Result<()> {
        let region = Region::of(cluster);
        self.touch(region)?;
        self.writer.append_compressed(cluster, packed)?;
        self.pages.with_page(
            region.0,
            |_| Ok(()),
            |page| set_leaf(page, leaf_index(cluster), leaf),
        )
    }

    /// Takes a cluster whose content is lost, with the leaf of what it was: whoever reads it finds it damaged.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; `Corrupt` (the base's sums).
    pub fn take_damaged(&self, cluster: GuestCluster, bytes: &[u8], leaf: &Digest) -> Result<()> {
        let region = Region::of(cluster);
        self.touch(region)?;
        let host = self.writer.allocate(1)?;
        self.writer.write_data(host, bytes)?;
        self.writer.set(cluster, Mapping::Data(host))?;
        self.pages.with_page(
            region.0,
            |_| Ok(()),
            |page| set_leaf(page, leaf_index(cluster), leaf),
        )
    }

    /// Whether a changed cluster (of a file that was truncated and written again) has the base's
    /// content again.
    fn is_bases_again(&self, cluster: GuestCluster, held: Mapping, leaf: &Digest) -> Result<bool> {
        match &self.base {
            Some(base) if held != Mapping::Unallocated && *leaf != zero_leaf() => {
                let page = base.page(Region::of(cluster))?;
                Ok(leaf_at(&page, leaf_index(cluster)) == *leaf)
            }
            _ => Ok(false),
        }
    }

    /// Drops the layer's copy of a cluster, so that the base's content is visible.
    pub(super) fn drop_held(&self, cluster: GuestCluster, journal: &impl Journal) -> Result<()> {
        self.writer.set(cluster, Mapping::Unallocated)?;
        journal.record(Change::Drop { cluster });
        Ok(())
    }

    /// Stores changed clusters from the writer's `buffer`: adjacent new clusters go to one
    /// contiguous place with one write.
    fn store(
        &self,
        incoming: &[Incoming<'_>],
        buffer: &[u8],
        journal: &impl Journal,
    ) -> Result<()> {
        let zero = zero_leaf();
        let kind = self.compression;
        let mut rest = incoming;
        while let Some(next) = rest.first() {
            if next.leaf == zero {
                self.store_zero(next, journal)?;
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            if let Some(packed) = kind.and_then(|kind| compress(kind, &padded(next.bytes))) {
                let place = self.writer.append_compressed(next.cluster, &packed)?;
                journal.note_stored(u64_from_usize(packed.len()));
                journal.record(Change::Compressed {
                    cluster: next.cluster,
                    host: place.host,
                    length_bytes: place.length_bytes,
                });
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            if let Mapping::Data(host) = next.held {
                self.writer.write_data(host, &padded(next.bytes))?;
                journal.note_stored(CLUSTER_BYTES);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let run = if kind.is_some() { 1 } else { new_run(rest) };
            let (run, tail) = rest.split_at(run);
            self.store_run(run, buffer, journal)?;
            rest = tail;
        }
        Ok(())
    }

    fn store_run(&self, run: &[Incoming<'_>], buffer: &[u8], journal: &impl Journal) -> Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let count = u64_from_usize(run.len());
        let host = self.writer.allocate(count)?;
        let from = first.chunk * usize_from_u64(CLUSTER_BYTES);
        let end = last.chunk * usize_from_u64(CLUSTER_BYTES) + last.bytes.len();
        let bytes = buffer.get(from..end).unwrap_or_default();
        self.writer.write_data(host, bytes)?;
        if u64_from_usize(last.bytes.len()) < CLUSTER_BYTES {
            // The disk ends within its last cluster: the slack is zero.
            let slack = vec![0; usize_from_u64(CLUSTER_BYTES) - last.bytes.len()];
            self.writer
                .write_data(HostOffset(host.0 + u64_from_usize(bytes.len())), &slack)?;
        }
        let mut mapped = 0;
        let result = run.iter().try_for_each(|item| {
            let place = HostOffset(host.0 + u64::from(mapped) * CLUSTER_BYTES);
            self.writer.set(item.cluster, Mapping::Data(place))?;
            mapped += 1;
            Ok(())
        });
        journal.note_stored(u64::from(mapped) * CLUSTER_BYTES);
        // Recorded even when the write stopped half-way: a later write of these clusters goes to
        // the same place and has no record of its own.
        if mapped > 0 {
            journal.record(Change::Data {
                cluster: first.cluster,
                count: mapped,
                host,
            });
        }
        result
    }

    fn store_zero(&self, item: &Incoming<'_>, journal: &impl Journal) -> Result<()> {
        journal.note_zero(CLUSTER_BYTES);
        self.set_zero(item.cluster, journal)
    }

    /// Maps a cluster to zero: explicitly where the base's content would be visible, otherwise by
    /// no mapping.
    pub(super) fn set_zero(&self, cluster: GuestCluster, journal: &impl Journal) -> Result<()> {
        if self.base.is_some() {
            self.writer.set(cluster, Mapping::Zero { host: None })?;
            journal.record(Change::Zero { cluster });
        } else {
            self.writer.set(cluster, Mapping::Unallocated)?;
            journal.record(Change::Drop { cluster });
        }
        Ok(())
    }
}

/// The number of items from the front that are new, not zero, and contiguous.
fn new_run(items: &[Incoming<'_>]) -> usize {
    let Some(first) = items.first() else { return 0 };
    let zero = zero_leaf();
    items
        .iter()
        .zip(first.cluster.0..)
        .take_while(|(item, cluster)| {
            item.cluster.0 == *cluster
                && item.leaf != zero
                && !matches!(item.held, Mapping::Data(_))
        })
        .count()
}
