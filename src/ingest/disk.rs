//! One disk of a session: compares, stores, gathers, flushes.
//!
//! # Invariants
//! - The page of a region holds the leaf of each cluster as the session's disk has it now; [`UNKNOWN`] stands for a
//!   cluster that was resumed and not rehashed yet.
//! - A record is pending only after its data has been handed to the file; a flush takes the pending records
//!   first, then makes the data durable, then the records.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::finish::Finish;
use super::gather::Gather;
use super::parent::Parent;
use super::range_lock::RangeLock;
use super::record::{Pending, Record, RecordLog};
use crate::block::check_range;
use crate::block::page::PageTable;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::{LayerWriter, Mapping, compress};
use crate::repo::content::{
    CLUSTER, LEAVES_PER_REGION, REGION_BYTES, Region, leaf_at, leaf_index, set_leaf, zero_leaf,
    zero_page,
};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, HostOffset};

/// Leaf of a cluster whose content has not been hashed since it was resumed; no content hashes to it in practice.
pub(super) const UNKNOWN: Digest = Digest([0xff; 32]);

const CLUSTER_BYTES: u64 = CLUSTER.size_bytes();
/// LIMIT: records that wait for a flush (24 MiB); a client that never flushes is flushed.
const PENDING_MAX: usize = 1 << 20;

/// What a disk of a session has taken in, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Received from the door.
    pub received_bytes: u64,
    /// Found equal to the parent's and not stored.
    pub equal_bytes: u64,
    /// Found or declared zero.
    pub zero_bytes: u64,
    /// Written to the layer.
    pub stored_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    received: AtomicU64,
    equal: AtomicU64,
    zero: AtomicU64,
    stored: AtomicU64,
}

/// A disk that is being written.
pub struct DiskWriter {
    pub(super) meta: SessionDisk,
    pub(super) writer: LayerWriter,
    pub(super) pages: PageTable,
    pub(super) parent: Option<Parent>,
    pub(super) gather: Gather,
    pub(super) ranges: RangeLock,
    pub(super) pending: Mutex<Pending>,
    pub(super) log: Mutex<RecordLog>,
    pub(super) finish: Finish,
    /// Regions that were written to.
    pub(super) touched: Mutex<BTreeSet<Region>>,
    pub(super) size_bytes: AtomicU64,
    pub(super) source_bytes: AtomicU64,
    pub(super) counters: Counters,
    /// Writers hold it shared; the seal holds it alone.
    pub(super) gate: RwLock<()>,
    pub(super) sealed: AtomicBool,
}

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
    /// Virtual size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    /// Size of the source in bytes: what tree and restore will show.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes.load(Ordering::SeqCst)
    }

    /// Name, key and kind as the session was begun.
    #[must_use]
    pub const fn meta(&self) -> &SessionDisk {
        &self.meta
    }

    /// What it has taken in.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            received_bytes: load(&self.counters.received),
            equal_bytes: load(&self.counters.equal),
            zero_bytes: load(&self.counters.zero),
            stored_bytes: load(&self.counters.stored),
        }
    }

    /// Whether it may be committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finish.is_finished()
    }

    /// Declares it finished, or not.
    pub fn set_finished(&self, finished: bool) {
        self.finish.set(finished);
        self.record(Record::State { finished });
    }

    /// Connections that are writing now.
    #[must_use]
    pub fn writers(&self) -> u64 {
        self.finish.writers()
    }

    pub(super) fn record(&self, record: Record) {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(record);
    }

    fn enter(&self) -> Result<std::sync::RwLockReadGuard<'_, ()>> {
        let guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.sealed.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!("disk {} is sealed and takes no more writes", self.meta.name),
            ));
        }
        Ok(guard)
    }

    /// Clusters and bytes of the cluster that count: the last one may be cut by the end of the disk.
    fn cluster_length(&self, cluster: GuestCluster) -> usize {
        let start = cluster.0 * CLUSTER_BYTES;
        usize_from_u64(self.size_bytes().saturating_sub(start).min(CLUSTER_BYTES))
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end; `ReadOnly` once sealed; `NoSpace`, `Io`, `Corrupt` (the parent).
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = u64_from_usize(bytes.len());
        check_range(self.size_bytes(), offset, length)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let _gate = self.enter()?;
        self.counters.received.fetch_add(length, Ordering::Relaxed);
        let end = offset + length;
        let first = offset / CLUSTER_BYTES;
        let last = end.div_ceil(CLUSTER_BYTES);
        {
            let _range = self.ranges.hold(first, last);
            let mut at = offset;
            let mut rest = bytes;
            // The part of a cluster at the front.
            if CLUSTER.within(at) != 0 {
                let (head, tail) = rest.split_at(
                    rest.len()
                        .min(usize_from_u64(CLUSTER_BYTES - CLUSTER.within(at))),
                );
                self.write_part(at, head)?;
                at += u64_from_usize(head.len());
                rest = tail;
            }
            // Whole clusters; the disk's last one counts as whole when it is written to the end.
            let whole = if end == self.size_bytes() {
                rest.len()
            } else {
                rest.len() - rest.len() % usize_from_u64(CLUSTER_BYTES)
            };
            let (whole, tail) = rest.split_at(whole);
            if !whole.is_empty() {
                self.write_whole(GuestCluster(at / CLUSTER_BYTES), whole)?;
                at += u64_from_usize(whole.len());
            }
            if !tail.is_empty() {
                self.write_part(at, tail)?;
            }
        }
        self.relieve()
    }

    /// Whole clusters from `first` on; the last chunk may be short at the end of the disk.
    fn write_whole(&self, first: GuestCluster, bytes: &[u8]) -> Result<()> {
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

    fn write_in_region(&self, first: GuestCluster, bytes: &[u8]) -> Result<()> {
        let region = Region::of(first);
        let chunks: Vec<&[u8]> = bytes.chunks(usize_from_u64(CLUSTER_BYTES)).collect();
        let leaves: Vec<Digest> = chunks.iter().map(|chunk| leaf_of(chunk)).collect();
        self.touch(region)?;
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
            fresh.push(Incoming {
                cluster,
                leaf: *leaf,
                bytes: chunk,
                chunk: n,
                held,
            });
        }
        if fresh.is_empty() {
            return Ok(());
        }
        self.store(&fresh, bytes)?;
        self.pages.with_page(
            region.0,
            |_| Ok(()),
            |page| {
                for (index, leaf) in &changed {
                    set_leaf(page, *index, leaf);
                }
            },
        )
    }

    fn known_leaves(&self, region: Region, first: usize, count: usize) -> Result<Vec<Digest>> {
        self.pages.peek(region.0, |page| {
            let page = page.unwrap_or_else(|| zero_page());
            (first..first + count)
                .map(|index| leaf_at(page, index))
                .collect()
        })
    }

    /// Makes the page of a region present; the parent's page is loaded outside of the table's lock.
    pub(super) fn touch(&self, region: Region) -> Result<()> {
        if self.touched().contains(&region) {
            return Ok(());
        }
        let mut page = vec![0; self.pages.page_bytes()];
        self.load_parent_page(region, &mut page)?;
        self.pages.with_page(
            region.0,
            |fresh| {
                fresh.copy_from_slice(&page);
                Ok(())
            },
            |_| (),
        )?;
        self.touched().insert(region);
        Ok(())
    }

    pub(super) fn touched(&self) -> MutexGuard<'_, BTreeSet<Region>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leaves of a region as the parent has them.
    pub(super) fn load_parent_page(&self, region: Region, page: &mut [u8]) -> Result<()> {
        match &self.parent {
            Some(parent) => parent.leaves.load_page(region, page),
            None => {
                page.copy_from_slice(zero_page());
                Ok(())
            }
        }
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
        for (n, item) in (0..).zip(run) {
            self.writer.set(
                item.cluster,
                Mapping::Data(HostOffset(host.0 + n * CLUSTER_BYTES)),
            )?;
        }
        self.counters
            .stored
            .fetch_add(count * CLUSTER_BYTES, Ordering::Relaxed);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.record(Record::Data {
            cluster: first.cluster.0,
            count,
            host: host.0,
        });
        Ok(())
    }

    fn store_zero(&self, item: &Incoming<'_>) -> Result<()> {
        self.counters
            .zero
            .fetch_add(CLUSTER_BYTES, Ordering::Relaxed);
        self.set_zero(item.cluster)
    }

    /// Maps a cluster to zero: explicitly where a parent could shine through, else not at all.
    fn set_zero(&self, cluster: GuestCluster) -> Result<()> {
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

    /// Bytes of one cluster that do not cover it.
    fn write_part(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let cluster = CLUSTER.guest_cluster(crate::types::GuestOffset(offset));
        let from = usize_from_u64(CLUSTER.within(offset));
        let length = self.cluster_length(cluster);
        if let Some(whole) = self.gather.add(cluster.0, from, bytes, length) {
            self.write_gathered(cluster, whole.bytes.get(..length).unwrap_or(&whole.bytes))?;
            self.gather.remove(cluster.0);
        }
        Ok(())
    }

    fn write_gathered(&self, cluster: GuestCluster, bytes: &[u8]) -> Result<()> {
        self.write_in_region(cluster, bytes)
    }

    /// Flushes when there are too many records, and completes the oldest gathered clusters while there are too many. Called without any range held.
    fn relieve(&self) -> Result<()> {
        let pending = self
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        if pending > PENDING_MAX {
            self.flush_gated()?;
        }
        while let Some(cluster) = self.gather.surplus() {
            self.complete(cluster)?;
        }
        Ok(())
    }

    /// Completes one gathered cluster from what the disk has there, and stores it.
    fn complete(&self, cluster: u64) -> Result<()> {
        let _range = self.ranges.hold(cluster, cluster + 1);
        let Some(partial) = self.gather.get(cluster) else {
            return Ok(());
        };
        let cluster = GuestCluster(cluster);
        let mut whole = vec![0; usize_from_u64(CLUSTER_BYTES)];
        self.load_current(cluster, &mut whole)?;
        partial.lay_over(&mut whole);
        let length = self.cluster_length(cluster);
        self.write_gathered(cluster, whole.get(..length).unwrap_or(&whole))?;
        self.gather.remove(cluster.0);
        Ok(())
    }

    /// A whole cluster as layer or parent has it, proved against its leaf.
    fn load_current(&self, cluster: GuestCluster, buf: &mut [u8]) -> Result<()> {
        self.touch(Region::of(cluster))?;
        let stated = self
            .known_leaves(Region::of(cluster), leaf_index(cluster), 1)?
            .first()
            .copied()
            .unwrap_or(UNKNOWN);
        match self.writer.get(cluster)? {
            Mapping::Unallocated => match &self.parent {
                Some(parent) => return parent.read_proved(cluster, &stated, buf),
                None => {
                    buf.fill(0);
                    return Ok(());
                }
            },
            held => self.read_held(held, buf)?,
        }
        let found = leaf_of(buf);
        if stated != UNKNOWN && found != stated {
            return Err(Error::corrupt(
                format!("a cluster of disk {} that this session wrote reads differently", self.meta.name),
                stated,
                found,
            )
            .at_offset(cluster.0 * CLUSTER_BYTES)
            .advise("the repository's disk is failing; write the whole cluster again or abort the session"));
        }
        Ok(())
    }

    /// A cluster that the layer holds.
    pub(super) fn read_held(&self, held: Mapping, buf: &mut [u8]) -> Result<()> {
        match held {
            Mapping::Data(host) => self.writer.read_data(host, buf),
            Mapping::Compressed(place) => self.writer.read_compressed(place, buf),
            Mapping::Zero { .. } | Mapping::Unallocated | Mapping::Subclusters { .. } => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Writes zeroes (also TRIM: what is discarded reads as zero).
    ///
    /// # Errors
    /// As [`DiskWriter::write`].
    pub fn zero(&self, offset: u64, length_bytes: u64) -> Result<()> {
        check_range(self.size_bytes(), offset, length_bytes)?;
        if length_bytes == 0 {
            return Ok(());
        }
        let _gate = self.enter()?;
        let end = offset + length_bytes;
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
            Some(parent) => parent.leaves.region(region) == crate::repo::content::zero_region(),
            None => true,
        };
        if untouched && parent_is_zero {
            self.gather.forget(first, end);
            return Ok(());
        }
        self.touch(region)?;
        let from = leaf_index(GuestCluster(first));
        let count = usize_from_u64(end - first);
        let known = self.known_leaves(region, from, count)?;
        let zero = zero_leaf();
        for (cluster, known) in (first..end).zip(&known) {
            if *known != zero {
                self.set_zero(GuestCluster(cluster))?;
            }
        }
        self.pages.with_page(
            region.0,
            |_| Ok(()),
            |page| {
                (from..(from + count).min(LEAVES_PER_REGION))
                    .for_each(|index| set_leaf(page, index, &zero))
            },
        )?;
        self.gather.forget(first, end);
        Ok(())
    }

    /// Makes all that was written before durable: data first, then the records that name it.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: what was written since the last flush may then be lost; `Corrupt` (the parent).
    pub fn flush(&self) -> Result<()> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.sealed.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.flush_gated()
    }

    /// [`DiskWriter::flush`] for one who holds the gate.
    pub(super) fn flush_gated(&self) -> Result<()> {
        for cluster in self.gather.clusters() {
            self.complete(cluster)?;
        }
        // Flushes take turns: a second one must not answer before the first one's records are durable.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let taken =
            std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let done = self.writer.flush().and_then(|()| {
            if taken.is_empty() {
                Ok(())
            } else {
                log.append(&taken)
            }
        });
        if done.is_err() {
            self.pending
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .put_back(taken);
        }
        done.at_path(self.meta.layer.open_file())
    }

    /// Changes the size: `source_bytes` is what people see, padded to 512 what the guest has. What lies beyond the
    /// smallest size that the disk had reads as zero when it grows again.
    ///
    /// # Errors
    /// `ReadOnly` once sealed; `InvalidInput` for a size that QCOW2 cannot have; `NoSpace`, `Io`.
    pub fn set_size(&self, source_bytes: u64) -> Result<()> {
        let size_bytes = source_bytes
            .checked_next_multiple_of(512)
            .ok_or_else(|| Error::invalid("the size is out of range"))?;
        let old = self.size_bytes();
        if source_bytes < old {
            self.zero(source_bytes, old - source_bytes)?;
            self.flush()?;
        }
        let _gate = self.enter()?;
        // The layer keeps the largest size until the seal: zeroes beyond the end must not be forgotten.
        if size_bytes > self.writer.size_bytes() {
            self.writer.set_size(size_bytes)?;
        }
        self.size_bytes.store(size_bytes, Ordering::SeqCst);
        self.source_bytes.store(source_bytes, Ordering::SeqCst);
        self.record(Record::Size {
            size_bytes,
            source_bytes,
        });
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

/// A cluster's bytes, zero-padded when the disk ends within it.
fn padded(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if u64_from_usize(bytes.len()) == CLUSTER_BYTES {
        return std::borrow::Cow::Borrowed(bytes);
    }
    let mut whole = bytes.to_vec();
    whole.resize(usize_from_u64(CLUSTER_BYTES), 0);
    std::borrow::Cow::Owned(whole)
}

/// The leaf of a cluster, zero-padded.
pub(super) fn leaf_of(bytes: &[u8]) -> Digest {
    if is_zero(bytes) {
        return zero_leaf();
    }
    Digest::of(&padded(bytes))
}

/// Whether all bytes are zero; ends at the first that is not, in steps that the compiler vectorises.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(1024)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
