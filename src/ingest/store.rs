//! Storing whole clusters: hashed, looked up, then dropped or written with as few writes as they allow.

use std::sync::atomic::Ordering;

use super::disk::DiskWriter;
use super::record::Record;
use crate::error::Result;
use crate::qcow2::{Mapping, compress};
use crate::repo::content::{
    CLUSTER_BYTES, Region, leaf_at, leaf_index, leaf_of, padded, set_leaf, zero_leaf,
};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, HostOffset};

/// A whole cluster on its way: its leaf, its bytes, and whether the layer holds the cluster already.
struct Incoming<'a> {
    cluster: GuestCluster,
    leaf: Digest,
    bytes: &'a [u8],
    /// Position among the chunks of the door's buffer.
    chunk: usize,
    held: Mapping,
}

impl DiskWriter {
    /// Whole clusters from `first` on; the last chunk may be short at the end of the disk.
    pub(super) fn write_whole(&self, first: GuestCluster, bytes: &[u8]) -> Result<()> {
        let count = u64_from_usize(bytes.len()).div_ceil(CLUSTER_BYTES);
        let mut cluster = first.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            // One region at a time: its page is looked at once before and once after.
            let region_end = (cluster / 8192 + 1) * 8192;
            let length = usize_from_u64((region_end - cluster) * CLUSTER_BYTES).min(rest.len());
            let (part, tail) = rest.split_at(length);
            self.write_in_region(GuestCluster(cluster), part)?;
            cluster = region_end;
            rest = tail;
        }
        // Only now: until the new bytes are there, readers see what was gathered.
        self.gather.forget(first.0, first.0 + count);
        Ok(())
    }

    pub(super) fn write_in_region(&self, first: GuestCluster, bytes: &[u8]) -> Result<()> {
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
                self.counters
                    .equal
                    .fetch_add(u64_from_usize(chunk.len()), Ordering::Relaxed);
                continue;
            }
            let cluster = GuestCluster(first.0 + u64_from_usize(n));
            let held = self.writer.get(cluster)?;
            changed.push((leaf_index(cluster), *leaf));
            if self.is_parents_again(cluster, held, leaf)? {
                self.counters
                    .equal
                    .fetch_add(u64_from_usize(chunk.len()), Ordering::Relaxed);
                self.drop_held(cluster)?;
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
        let marked = self.store(&fresh, bytes).and_then(|()| {
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
            // Some may be stored, in place of what the page still names: what they hold now is not known.
            self.mark_unknown_leaves(region, changed.iter().map(|(index, _)| *index));
        }
        marked
    }

    /// Whether a cluster that this session had changed (a file that was cut and is written anew) has the parent's content again.
    fn is_parents_again(
        &self,
        cluster: GuestCluster,
        held: Mapping,
        leaf: &Digest,
    ) -> Result<bool> {
        match &self.parent {
            Some(parent) if held != Mapping::Unallocated && *leaf != zero_leaf() => {
                let page = parent.page(Region::of(cluster))?;
                Ok(leaf_at(&page, leaf_index(cluster)) == *leaf)
            }
            _ => Ok(false),
        }
    }

    /// Forgets what the layer holds of a cluster, so that the parent shines through.
    fn drop_held(&self, cluster: GuestCluster) -> Result<()> {
        self.writer.set(cluster, Mapping::Unallocated)?;
        self.record(Record::Drop {
            cluster: cluster.0,
            count: 1,
        });
        Ok(())
    }

    /// Stores changed clusters out of the door's `buffer`: neighbours that are new go to one contiguous place with
    /// one write.
    fn store(&self, incoming: &[Incoming<'_>], buffer: &[u8]) -> Result<()> {
        let zero = zero_leaf();
        let kind = self.writer.compression().kind();
        let mut rest = incoming;
        while let Some(next) = rest.first() {
            if next.leaf == zero {
                self.store_zero(next)?;
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            if let Some(packed) = kind.and_then(|kind| compress(kind, &padded(next.bytes))) {
                let place = self.writer.append_compressed(next.cluster, &packed)?;
                self.counters
                    .stored
                    .fetch_add(u64_from_usize(packed.len()), Ordering::Relaxed);
                self.record(Record::Compressed {
                    cluster: next.cluster.0,
                    host: place.host.0,
                    length_bytes: place.length_bytes,
                });
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            if let Mapping::Data(host) = next.held {
                self.writer.write_data(host, &padded(next.bytes))?;
                self.counters
                    .stored
                    .fetch_add(CLUSTER_BYTES, Ordering::Relaxed);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let run = if kind.is_some() { 1 } else { new_run(rest) };
            let (run, tail) = rest.split_at(run);
            self.store_run(run, buffer)?;
            rest = tail;
        }
        Ok(())
    }

    fn store_run(&self, run: &[Incoming<'_>], buffer: &[u8]) -> Result<()> {
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
        self.counters
            .stored
            .fetch_add(u64::from(mapped) * CLUSTER_BYTES, Ordering::Relaxed);
        // Also when it stopped half-way: what is written there later goes to the same place, and has no record of its own.
        if mapped > 0 {
            self.record(Record::Data {
                cluster: first.cluster.0,
                count: mapped,
                host: host.0,
            });
        }
        result
    }

    fn store_zero(&self, item: &Incoming<'_>) -> Result<()> {
        self.counters
            .zero
            .fetch_add(CLUSTER_BYTES, Ordering::Relaxed);
        self.set_zero(item.cluster)
    }

    /// Maps a cluster to zero: explicitly where a parent could shine through, else not at all.
    pub(super) fn set_zero(&self, cluster: GuestCluster) -> Result<()> {
        if self.parent.is_some() {
            self.writer.set(cluster, Mapping::Zero { host: None })?;
            self.record(Record::Zero {
                cluster: cluster.0,
                count: 1,
            });
        } else {
            self.writer.set(cluster, Mapping::Unallocated)?;
            self.record(Record::Drop {
                cluster: cluster.0,
                count: 1,
            });
        }
        Ok(())
    }
}

/// How many items from the front on are new, not zero, and follow each other.
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
