//! One disk of a session: its state, and the way of a write through it (stored in `store`, zeroed in `zero`, made durable
//! in `flush`, read back in `read`).
//!
//! # Invariants
//! - The page of a region holds the leaf of each cluster as the session's disk has it now; [`UNKNOWN`] stands for a
//!   cluster that was resumed and not rehashed yet.
//! - A record is pending only after its data has been handed to the file; a flush takes the pending records
//!   first, then makes the data durable, then the records.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use jiff::Timestamp;

use super::door::Door;
use super::doubt::Doubts;
use super::finish::Finish;
use super::gather::Gather;
use super::parent::Parent;
use super::range_lock::RangeLock;
use super::record::{Pending, Record, RecordLog};
use super::word::{Word, Writing};
use crate::block::check_range;
use crate::block::page::PageTable;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::point::prove;
use crate::qcow2::{LayerWriter, Mapping};
use crate::repo::content::{CLUSTER, CLUSTER_BYTES, Region, leaf_at, leaf_index, zero_page};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::sync::{Mutex, RwLock};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster};

/// Leaf of a cluster whose content has not been hashed since it was resumed; no content hashes to it in practice.
pub(super) const UNKNOWN: Digest = Digest([0xff; 32]);

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
    pub(super) received: AtomicU64,
    pub(super) equal: AtomicU64,
    pub(super) zero: AtomicU64,
    pub(super) stored: AtomicU64,
    /// Of `stored`, what a flush has made durable.
    pub(super) flushed: AtomicU64,
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
    pub(super) missing: super::missing::Missing,
    /// Whether the log says that it is finished.
    pub(super) word: Word,
    /// Regions that were written to.
    pub(super) touched: Mutex<BTreeSet<Region>>,
    pub(super) size_bytes: AtomicU64,
    pub(super) source_bytes: AtomicU64,
    pub(super) counters: Counters,
    /// Writers hold it shared; the seal holds it alone.
    pub(super) gate: RwLock<()>,
    pub(super) sealed: AtomicBool,
    /// An fsync of the layer has failed. The kernel may call the lost pages clean afterwards, so that a later fsync would
    /// succeed over them: nothing of this disk can be answered as durable any more.
    pub(super) is_unsure: AtomicBool,
    pub(super) doubts: Doubts,
    pub(super) door: super::door::Owner,
    /// Held while the size changes.
    pub(super) sizing: Mutex<()>,
    pub(super) clock: Arc<dyn Clock>,
    /// Nanoseconds since the epoch of the last change of its content.
    pub(super) written_at: AtomicI64,
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

    /// Bytes that were written, zeroes included, as a share of the disk, 0 to 1. What was written twice counts twice. Whether a writer came
    /// to its end is not known by it: a person sees how far one came that was killed.
    #[must_use]
    pub fn written_share(&self) -> f64 {
        let stats = self.stats();
        let written = stats.received_bytes.saturating_add(stats.zero_bytes);
        let thousandths = u128::from(written) * 1_000 / u128::from(self.source_bytes().max(1));
        f64::from(u16::try_from(thousandths.min(1_000)).unwrap_or(1_000)) / 1_000.0
    }

    /// Bytes that are not zero, at most: what the parent has, and what was stored.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let parents = self.parent.as_ref().map_or(0, Parent::data_bytes);
        let stored = self.counters.stored.load(Ordering::Relaxed);
        parents.saturating_add(stored).min(self.source_bytes())
    }

    /// When its content changed last; never twice the same.
    #[must_use]
    pub fn written_at(&self) -> Timestamp {
        let nanoseconds = self.written_at.load(Ordering::SeqCst);
        Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Sets when its content changed last, until it changes again.
    pub fn set_written_at(&self, at: Timestamp) {
        let nanoseconds = i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX);
        self.written_at.store(nanoseconds, Ordering::SeqCst);
    }

    pub(super) fn note_change(&self) {
        let now = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        let before = self.written_at.swap(now, Ordering::SeqCst);
        if before == now {
            self.written_at.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether it may be committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finish.is_finished() && self.missing.is_empty()
    }

    /// Declares it finished, or not; whatever could not be written before does not matter any more.
    pub fn set_finished(&self, finished: bool) {
        self.missing.clear();
        self.finish.set(finished);
        if finished {
            // Whoever still writes over NBD says it with his goodbye, or not at all: what he has begun comes after this.
            self.finish.if_finished(|| self.word.say(true));
        } else {
            self.word.say(false);
        }
    }

    /// Makes what was written through the tree durable, and that it is all: whoever writes a file and syncs it has come to an end, for
    /// all that can be known after a crash.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn sync_file(&self) -> Result<()> {
        if self.missing.is_empty() {
            self.finish.if_finished(|| self.word.say(true));
        }
        self.flush().inspect_err(|_| self.word.say(false))
    }

    /// Begins a write as into a file: takes back, durably, that the disk was finished, and until what is returned is dropped nobody says
    /// so for the time after a crash.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn begin_write(&self) -> Result<Writing<'_>> {
        let writing = self.word.enter();
        self.take_back_finished()?;
        Ok(writing)
    }

    /// Takes back, durably, that it was declared finished: somebody writes it again, and what he overwrites in place needs no record.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub(super) fn take_back_finished(&self) -> Result<()> {
        if self.word.take_back() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Whether an fsync has failed, so that only an abort is left.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.is_unsure.load(Ordering::SeqCst)
    }

    pub(super) fn check_durable(&self) -> Result<()> {
        if !self.is_unsure() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            format!(
                "an fsync of disk {} has failed, what was written may be lost",
                self.meta.name
            ),
        )
        .advise("look at the repository's filesystem, abort the session and begin anew"))
    }

    /// Connections that are writing now.
    #[must_use]
    pub fn writers(&self) -> u64 {
        self.finish.writers()
    }

    pub(super) fn record(&self, record: Record) {
        self.pending.lock().push(record);
    }

    pub(super) fn enter(&self) -> Result<std::sync::RwLockReadGuard<'_, ()>> {
        let guard = self.gate.read();
        if self.sealed.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!("disk {} is sealed and takes no more writes", self.meta.name),
            ));
        }
        self.check_durable()?;
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
        self.note_change();
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
            let whole = if end == self.size_bytes() && !self.grows() {
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

    pub(super) fn known_leaves(
        &self,
        region: Region,
        first: usize,
        count: usize,
    ) -> Result<Vec<Digest>> {
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
        self.touched.lock()
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

    /// Bytes of one cluster that do not cover it.
    pub(super) fn write_part(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let cluster = CLUSTER.guest_cluster(crate::types::GuestOffset(offset));
        let from = usize_from_u64(CLUSTER.within(offset));
        let length = if self.grows() {
            usize_from_u64(CLUSTER_BYTES)
        } else {
            self.cluster_length(cluster)
        };
        if let Some(whole) = self.gather.add(cluster.0, from, bytes, length) {
            let inside = self.cluster_length(cluster);
            self.write_gathered(cluster, whole.bytes.get(..inside).unwrap_or(&whole.bytes))?;
            self.gather.remove(cluster.0);
        }
        Ok(())
    }

    /// Whether it is written as a file, which may go on behind its present end: the last cluster is whole only once all of it was
    /// written, or nothing more comes.
    fn grows(&self) -> bool {
        self.door() == Some(Door::Tree)
    }

    fn write_gathered(&self, cluster: GuestCluster, bytes: &[u8]) -> Result<()> {
        self.write_in_region(cluster, bytes)
    }

    /// Flushes when there are too many records, and completes the oldest gathered clusters while there are too many.
    /// Called without any range held.
    pub(super) fn relieve(&self) -> Result<()> {
        let pending = self.pending.lock().len();
        if pending > PENDING_MAX {
            self.flush_gated()?;
        }
        while let Some(cluster) = self.gather.surplus() {
            self.complete(cluster)?;
        }
        Ok(())
    }

    /// Completes one gathered cluster from what the disk has there, and stores it.
    pub(super) fn complete(&self, cluster: u64) -> Result<()> {
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
        self.settle_doubts()?;
        let stated = self
            .known_leaves(Region::of(cluster), leaf_index(cluster), 1)?
            .first()
            .copied()
            .unwrap_or(UNKNOWN);
        match self.writer.get(cluster)? {
            Mapping::Unallocated => match &self.parent {
                Some(parent) if stated == UNKNOWN => {
                    let stated = parent.leaves.load_leaf(cluster)?;
                    return parent.read_proved(cluster, &stated, buf);
                }
                Some(parent) => return parent.read_proved(cluster, &stated, buf),
                None => {
                    buf.fill(0);
                    return Ok(());
                }
            },
            held => self.read_held(held, buf)?,
        }
        if stated == UNKNOWN {
            return Ok(());
        }
        let words = || {
            let name = &self.meta.name;
            format!("a cluster of disk {name} that this session wrote reads differently")
        };
        prove(cluster, buf, &stated, words).map_err(|e| {
            e.advise("the repository's disk is failing; write the whole cluster again or abort the session")
        })
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
}
