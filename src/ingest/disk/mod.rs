//! One disk of a session: its state, and the path of a write through it. This file gathers writes
//! and gives them to the layer; `place` writes parts of clusters in their place, `quiet` knows which of them
//! are to be hashed, `zero` zeroes, `flush` makes durable, `read` reads back.
//!
//! # Invariants
//! - Gathered bytes lie over the layer; the layer's leaves are those of the disk without them. A cluster with
//!   gathered bytes gets no part in its place: the older bytes would hide it.
//! - A record becomes pending only after its data has been handed to the file. A flush first takes
//!   the pending records, then makes the data durable, then the records.

pub(in crate::ingest) mod buffer;
pub(in crate::ingest) mod connection;
pub(in crate::ingest) mod depth;
pub(in crate::ingest) mod difference;
pub(in crate::ingest) mod finish;
pub(in crate::ingest) mod flush;
pub(in crate::ingest) mod gather;
pub(in crate::ingest) mod parent;
pub(in crate::ingest) mod place;
pub(in crate::ingest) mod quiet;
pub(in crate::ingest) mod range_lock;
pub(in crate::ingest) mod read;
pub(in crate::ingest) mod seal;
pub(in crate::ingest) mod zero;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;

use crate::block::check_range;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::completion::{Completion, Door};
use crate::ingest::record::{Pending, Record, RecordLog};
use crate::layer::{Base, Change, Journal, LayerDraft, UNKNOWN};
use crate::metrics::ingest;
use crate::point::prove;
use crate::qcow2::Mapping;
use crate::repo::content::{CLUSTER, CLUSTER_BYTES, Region};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::GuestCluster;
use crate::types::sync::{Mutex, RwLock};
use crate::types::width::{u64_from_usize, usize_from_u64};
use gather::Gather;
use parent::Parent;
use quiet::Quiet;
use range_lock::RangeLock;

/// LIMIT: records that wait for a flush (24 MiB). Beyond it the disk is flushed even if the client
/// never asks.
const PENDING_MAX: usize = 1 << 20;

/// Byte counts of what a disk of a session has received and stored.
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
pub(in crate::ingest) struct Counters {
    pub(in crate::ingest) received: AtomicU64,
    pub(in crate::ingest) equal: AtomicU64,
    pub(in crate::ingest) zero: AtomicU64,
    pub(in crate::ingest) stored: AtomicU64,
    /// The part of `stored` that a flush has made durable.
    pub(in crate::ingest) flushed: AtomicU64,
}

/// A disk that is being written: a layer draft, and the state that only a session needs.
pub struct DiskWriter {
    pub(in crate::ingest) meta: SessionDisk,
    pub(in crate::ingest) draft: LayerDraft,
    pub(in crate::ingest) parent: Option<Parent>,
    pub(in crate::ingest) gather: Gather,
    /// Clusters whose leaf is unknown, to be hashed when they are quiet.
    pub(in crate::ingest) quiet: Quiet,
    pub(in crate::ingest) ranges: RangeLock,
    pub(in crate::ingest) pending: Mutex<Pending>,
    pub(in crate::ingest) log: Mutex<RecordLog>,
    pub(in crate::ingest) completion: Completion,
    pub(in crate::ingest) size_bytes: AtomicU64,
    pub(in crate::ingest) source_bytes: AtomicU64,
    pub(in crate::ingest) counters: Counters,
    /// Writers hold it shared; the seal holds it exclusively.
    pub(in crate::ingest) gate: RwLock<()>,
    pub(in crate::ingest) sealed: AtomicBool,
    /// Whether an fsync of the layer has failed. The kernel may mark the lost pages clean
    /// afterwards, so that a later fsync would succeed without them: no byte of this disk can be
    /// reported as durable any more.
    pub(in crate::ingest) is_unsure: AtomicBool,
    /// Held while the size changes.
    pub(in crate::ingest) sizing: Mutex<()>,
    pub(in crate::ingest) clock: Arc<dyn Clock>,
    /// Time of the last change of the content, in nanoseconds since the epoch.
    pub(in crate::ingest) written_at: AtomicI64,
}

/// Records in the session's log what must be known after a crash, and counts bytes.
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
    /// Creates a disk of a session whose layer is `draft` and whose log is `log`.
    pub(in crate::ingest) fn new(
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
            quiet: Quiet::default(),
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
            // A disk that nobody has written yet has the oldest possible time: a tool that compares
            // times must not take it for a copy of its source.
            written_at: AtomicI64::new(0),
        }
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    /// Size of the source in bytes, which tree and restore show.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes.load(Ordering::SeqCst)
    }

    /// Name, key and kind as the session was begun.
    #[must_use]
    pub const fn meta(&self) -> &SessionDisk {
        &self.meta
    }

    /// Byte counts of what the disk has received and stored.
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

    /// Bytes that were written, zeroes included, as a share of the disk, 0 to 1. Bytes written
    /// twice count twice. The share does not tell whether a writer reached its end; it shows a
    /// person how far a killed writer came.
    #[must_use]
    pub fn written_share(&self) -> f64 {
        let stats = self.stats();
        let written = stats.received_bytes.saturating_add(stats.zero_bytes);
        let thousandths = u128::from(written) * 1_000 / u128::from(self.source_bytes().max(1));
        f64::from(u16::try_from(thousandths.min(1_000)).unwrap_or(1_000)) / 1_000.0
    }

    /// Upper bound of the bytes that are not zero: the parent's plus the stored ones.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let parents = self.draft.base().map_or(0, Base::data_bytes);
        let stored = self.counters.stored.load(Ordering::Relaxed);
        parents.saturating_add(stored).min(self.source_bytes())
    }

    /// Time of the last change of the content; never the same twice.
    #[must_use]
    pub fn written_at(&self) -> Timestamp {
        let nanoseconds = self.written_at.load(Ordering::SeqCst);
        Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Sets the time of the last change of the content, until the next change.
    pub fn set_written_at(&self, at: Timestamp) {
        let nanoseconds = i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX);
        self.written_at.store(nanoseconds, Ordering::SeqCst);
    }

    /// Gives the content a new time. Called when a change, also one that failed, has been made and
    /// before it is answered: the kernel drops the pages that it has when it sees another time. With
    /// a time that is new before the change, a page that was read meanwhile would count as new.
    pub(in crate::ingest) fn note_change(&self) {
        let now = i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        let before = self.written_at.swap(now, Ordering::SeqCst);
        if before == now {
            self.written_at.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether an fsync has failed, so that the session can only be aborted.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.is_unsure.load(Ordering::SeqCst)
    }

    pub(in crate::ingest) fn check_durable(&self) -> Result<()> {
        if !self.is_unsure() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            format!(
                "an fsync of disk {} failed: written data may be lost",
                self.meta.name
            ),
        )
        .advise("look at the repository's filesystem, abort the session and begin anew"))
    }

    pub(in crate::ingest) fn push_record(&self, record: Record) {
        self.pending.lock().push(record);
    }

    pub(in crate::ingest) fn enter(&self) -> Result<std::sync::RwLockReadGuard<'_, ()>> {
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

    /// Bytes of the cluster that count: the end of the disk may cut the last one.
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
        let began = Instant::now();
        self.counters.received.fetch_add(length, Ordering::Relaxed);
        let written = self.write_parts(offset, bytes);
        self.note_change();
        written?;
        let done = self.relieve();
        ingest::note_write(length, began);
        done
    }

    /// Writes the part of a cluster at the front, whole clusters, and the part at the end.
    fn write_parts(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + u64_from_usize(bytes.len());
        let first = offset / CLUSTER_BYTES;
        let last = end.div_ceil(CLUSTER_BYTES);
        let _range = self.ranges.hold(first, last);
        let mut at = offset;
        let mut rest = bytes;
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
        if tail.is_empty() {
            return Ok(());
        }
        self.write_part(at, tail)
    }

    /// Writes whole clusters from `first` on; the last chunk may be short at the end of the disk.
    fn write_whole(&self, first: GuestCluster, bytes: &[u8]) -> Result<()> {
        self.draft.write(first, bytes, self)?;
        let count = u64_from_usize(bytes.len()).div_ceil(CLUSTER_BYTES);
        // The gathered bytes are dropped only now: readers see them until the new bytes are in
        // place.
        self.gather.forget(first.0, first.0 + count);
        Ok(())
    }

    /// Writes bytes of one cluster that do not cover it.
    pub(in crate::ingest) fn write_part(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let cluster = CLUSTER.guest_cluster(crate::types::GuestOffset(offset));
        let from = usize_from_u64(CLUSTER.within(offset));
        if self.place_part(cluster, from, bytes)? {
            return Ok(());
        }
        let inside = self.cluster_length(cluster);
        let length = if self.grows() {
            usize_from_u64(CLUSTER_BYTES)
        } else {
            inside
        };
        let Some(gathered) = self.gather.add(cluster.0, from, bytes, length) else {
            return Ok(());
        };
        if let Some(whole) = gathered.whole(inside) {
            self.draft.write(cluster, whole, self)?;
        }
        drop(gathered);
        self.gather.remove(cluster.0);
        Ok(())
    }

    /// Whether the disk is written as a file, which may grow beyond its present end. The last
    /// cluster is then whole only once all of it is written, or no more bytes come.
    fn grows(&self) -> bool {
        self.door() == Some(Door::Tree)
    }

    /// Flushes when there are too many records, and completes the oldest gathered clusters while
    /// there are too many. The caller must not hold a range.
    pub(in crate::ingest) fn relieve(&self) -> Result<()> {
        let pending = self.pending.lock().len();
        if pending > PENDING_MAX {
            self.flush_gated()?;
        }
        while let Some(cluster) = self.gather.claim_surplus() {
            self.complete(cluster)
                .inspect_err(|_| self.gather.put_back(cluster))?;
        }
        Ok(())
    }

    /// Completes one gathered cluster from the disk's content below it, and stores it.
    pub(in crate::ingest) fn complete(&self, cluster: u64) -> Result<()> {
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

    /// Reads a whole cluster from the layer or the parent, and checks it against its leaf.
    fn load_current(&self, cluster: GuestCluster, buf: &mut [u8]) -> Result<()> {
        self.draft.touch(Region::of(cluster))?;
        self.draft.settle_doubts()?;
        let stated = self.draft.leaf(cluster)?;
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
        let describe = || {
            let name = &self.meta.name;
            format!("a cluster of disk {name} that this session wrote reads differently")
        };
        prove(cluster, buf, &stated, describe).map_err(|e| {
            e.advise("the repository's disk is failing; write the whole cluster again or abort the session")
        })
    }
}
