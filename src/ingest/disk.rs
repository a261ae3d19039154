//! One disk of a session: its state, and the way of a write through it (gathered, then given to the layer; zeroed in `zero`, made
//! durable in `flush`, read back in `read`).
//!
//! # Invariants
//! - What is gathered lies over the layer; the layer's leaves are those of the disk without it.
//! - A record is pending only after its data has been handed to the file; a flush takes the pending records
//!   first, then makes the data durable, then the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;

use super::completion::{Completion, Door};
use super::gather::Gather;
use super::parent::Parent;
use super::range_lock::RangeLock;
use super::record::{Pending, Record, RecordLog};
use crate::block::check_range;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Base, Change, Journal, LayerDraft, UNKNOWN};
use crate::point::prove;
use crate::qcow2::Mapping;
use crate::repo::content::{CLUSTER, CLUSTER_BYTES, Region, leaf_index};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::GuestCluster;
use crate::types::sync::{Mutex, RwLock};
use crate::types::width::{u64_from_usize, usize_from_u64};

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

/// A disk that is being written: a layer that is being made, and what only a session needs.
pub struct DiskWriter {
    pub(super) meta: SessionDisk,
    pub(super) draft: LayerDraft,
    pub(super) parent: Option<Parent>,
    pub(super) gather: Gather,
    pub(super) ranges: RangeLock,
    pub(super) pending: Mutex<Pending>,
    pub(super) log: Mutex<RecordLog>,
    pub(super) completion: Completion,
    pub(super) size_bytes: AtomicU64,
    pub(super) source_bytes: AtomicU64,
    pub(super) counters: Counters,
    /// Writers hold it shared; the seal holds it alone.
    pub(super) gate: RwLock<()>,
    pub(super) sealed: AtomicBool,
    /// An fsync of the layer has failed. The kernel may call the lost pages clean afterwards, so that a later fsync would
    /// succeed over them: nothing of this disk can be answered as durable any more.
    pub(super) is_unsure: AtomicBool,
    /// Held while the size changes.
    pub(super) sizing: Mutex<()>,
    pub(super) clock: Arc<dyn Clock>,
    /// Nanoseconds since the epoch of the last change of its content.
    pub(super) written_at: AtomicI64,
}

/// A session's layer tells its log what it must know after a crash, and counts.
impl Journal for DiskWriter {
    fn note_equal(&self, bytes: u64) {
        self.counters.equal.fetch_add(bytes, Ordering::Relaxed);
    }
    fn note_zero(&self, bytes: u64) {
        self.counters.zero.fetch_add(bytes, Ordering::Relaxed);
    }
    fn note_stored(&self, bytes: u64) {
        self.counters.stored.fetch_add(bytes, Ordering::Relaxed);
    }
    fn record(&self, change: Change) {
        self.push_record(change.into());
    }
}

impl DiskWriter {
    /// A disk of a session, whose layer is `draft` and whose log is `log`.
    pub(super) fn new(
        meta: &SessionDisk,
        draft: LayerDraft,
        parent: Option<Parent>,
        log: RecordLog,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            size_bytes: AtomicU64::new(meta.size_bytes),
            source_bytes: AtomicU64::new(meta.source_bytes),
            meta: meta.clone(),
            draft,
            parent,
            gather: Gather::default(),
            ranges: RangeLock::default(),
            pending: Mutex::default(),
            log: Mutex::new(log),
            completion: Completion::default(),
            counters: Counters::default(),
            gate: RwLock::new(()),
            sealed: AtomicBool::new(false),
            is_unsure: AtomicBool::new(false),
            sizing: Mutex::default(),
            clock: Arc::clone(clock),
            // What nobody has written yet is as old as can be: a tool that compares times must not take it for a copy of its source.
            written_at: AtomicI64::new(0),
        }
    }

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
        let parents = self.draft.base().map_or(0, Base::data_bytes);
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

    pub(super) fn push_record(&self, record: Record) {
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

    /// Whole clusters from `first` on; the last chunk may be short at the end of the disk.
    fn write_whole(&self, first: GuestCluster, bytes: &[u8]) -> Result<()> {
        self.draft.write(first, bytes, self)?;
        let count = u64_from_usize(bytes.len()).div_ceil(CLUSTER_BYTES);
        // Only now: until the new bytes are there, readers see what was gathered.
        self.gather.forget(first.0, first.0 + count);
        Ok(())
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
            self.draft.write(
                cluster,
                whole.bytes.get(..inside).unwrap_or(&whole.bytes),
                self,
            )?;
            self.gather.remove(cluster.0);
        }
        Ok(())
    }

    /// Whether it is written as a file, which may go on behind its present end: the last cluster is whole only once all of it was
    /// written, or nothing more comes.
    fn grows(&self) -> bool {
        self.door() == Some(Door::Tree)
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
        self.draft
            .write(cluster, whole.get(..length).unwrap_or(&whole), self)?;
        self.gather.remove(cluster.0);
        Ok(())
    }

    /// A whole cluster as layer or parent has it, proved against its leaf.
    fn load_current(&self, cluster: GuestCluster, buf: &mut [u8]) -> Result<()> {
        self.draft.touch(Region::of(cluster))?;
        self.draft.settle_doubts()?;
        let stated = self
            .draft
            .known_leaves(Region::of(cluster), leaf_index(cluster), 1)?
            .first()
            .copied()
            .unwrap_or(UNKNOWN);
        match self.draft.mapping(cluster)? {
            Mapping::Unallocated => match &self.parent {
                Some(parent) => {
                    let stated = match self.draft.base() {
                        Some(base) if stated == UNKNOWN => base.leaves().load_leaf(cluster)?,
                        _ => stated,
                    };
                    return parent.read_proved(cluster, &stated, buf);
                }
                None => {
                    buf.fill(0);
                    return Ok(());
                }
            },
            held => self.draft.read_held(held, buf)?,
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
}
