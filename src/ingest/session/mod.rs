//! A session: a restore point being written, with all disks of its VM.

pub(in crate::ingest) mod attach;
pub(in crate::ingest) mod base;
pub(in crate::ingest) mod begin;
pub(in crate::ingest) mod change;
pub(in crate::ingest) mod change_id;
pub(in crate::ingest) mod commit;
pub mod copy;
pub(in crate::ingest) mod open;
pub(in crate::ingest) mod plan;
pub(in crate::ingest) mod resume;
#[cfg(test)]
mod sample;
pub(in crate::ingest) mod space;

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;

use crate::block::BufferPool;
use crate::block::page::PageBudget;
use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::completion::Door;
use crate::ingest::disk::DiskWriter;
use crate::ingest::disk::buffer::{FREE_BYTES_MAX, Reservation};
use crate::ingest::disk::connection::Connection;
use crate::repo::sidecar::session as sidecar;
use crate::repo::{Ending, Job, JobDisk, Owner};
use crate::types::sync::{Condvar, Mutex, RwLock, RwLockReadGuard};
use crate::types::{DiskName, Memory, PointName, SessionRef, VmName};
use space::{Promised, Promises};

/// The state that all sessions of a process share.
#[derive(Clone)]
pub struct Engine {
    /// The owner of the repository.
    pub owner: Arc<Owner>,
    /// Open layers and resolved ranges.
    pub pool: Arc<Pool>,
    /// Memory for tables and leaves.
    pub budget: Arc<PageBudget>,
    pub(in crate::ingest) buffers: Arc<BufferPool>,
    /// Bytes to keep free, when not the default.
    low_water_bytes: Arc<RwLock<Option<u64>>>,
    pub(in crate::ingest) promises: Arc<Promises>,
}

impl Engine {
    /// Creates an engine with the default budget.
    #[must_use]
    pub fn new(owner: Arc<Owner>, pool: Arc<Pool>) -> Self {
        Self::with_budget(owner, pool, Memory::default().ingest_bytes())
    }

    /// Creates an engine whose tables and leaves take at most `bytes_max` of memory; the rest goes
    /// to files.
    #[must_use]
    pub fn with_budget(owner: Arc<Owner>, pool: Arc<Pool>, bytes_max: u64) -> Self {
        Self {
            owner,
            pool,
            budget: PageBudget::new(bytes_max),
            buffers: BufferPool::new(FREE_BYTES_MAX),
            low_water_bytes: Arc::default(),
            promises: Arc::default(),
        }
    }

    /// The same engine, which refuses sessions that would leave fewer than `bytes` free.
    #[must_use]
    pub fn with_low_water(self, bytes: Option<u64>) -> Self {
        self.set_low_water(bytes);
        self
    }

    /// Sets the bytes that later sessions must leave free; `None` for the default.
    pub fn set_low_water(&self, bytes: Option<u64>) {
        let mut own = self.low_water_bytes.write();
        *own = bytes;
    }

    pub(in crate::ingest) fn low_water_bytes(&self) -> Option<u64> {
        *self.low_water_bytes.read()
    }
}

/// The state of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// The session takes writes.
    Open,
    /// A commit is running.
    Committing,
    /// The session has become the restore point of this name.
    Committed(PointName),
    /// The session has ended without a point.
    Aborted,
}

/// LIMIT: how long a writer may pause (between two disks, or before the commit) and still counts as
/// writing.
const PAUSE: Duration = Duration::from_secs(3);

/// A restore point being written.
pub struct Session {
    pub(in crate::ingest) engine: Engine,
    pub(in crate::ingest) sidecar: Mutex<sidecar::Session>,
    pub(in crate::ingest) disks: RwLock<Vec<Arc<DiskWriter>>>,
    pub(in crate::ingest) state: Mutex<SessionState>,
    /// Notified when a commit ends.
    pub(in crate::ingest) settled: Condvar,
    pub(in crate::ingest) last_error: Mutex<Option<String>>,
    /// Held while the session's disks or declarations change.
    pub(in crate::ingest) changing: Mutex<()>,
    /// The highest number given to a disk so far.
    pub(in crate::ingest) number_high: AtomicU32,
    /// Held shared while a file is written, exclusively to end all such writes.
    pub(in crate::ingest) writing: RwLock<()>,
    /// Time of the last change of its names, in nanoseconds since the epoch.
    changed_at: AtomicI64,
    /// Serial of its inode numbers, unique in this process.
    serial: u32,
    /// Bytes that the session was expected to store when it began.
    estimate_bytes: u64,
    /// The clock's monotonic milliseconds at the last activity.
    active_ms: AtomicU64,
}

impl Promised for Session {
    fn outstanding_bytes(&self) -> u64 {
        if self.state() != SessionState::Open {
            return 0;
        }
        let disks = self.disks();
        let stored: u64 = disks.iter().map(|disk| disk.stats().stored_bytes).sum();
        self.estimate_bytes.saturating_sub(stored)
    }
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
}

impl Session {
    pub(in crate::ingest) fn new(
        engine: Engine,
        sidecar: sidecar::Session,
        serial: u32,
        disks: Vec<Arc<DiskWriter>>,
        estimate_bytes: u64,
    ) -> Arc<Self> {
        let now = engine.owner.clock().monotonic();
        let promises = Arc::clone(&engine.promises);
        let session = Arc::new(Self {
            engine,
            serial,
            estimate_bytes,
            changing: Mutex::default(),
            writing: RwLock::default(),
            settled: Condvar::new(),
            changed_at: AtomicI64::new(nanoseconds(sidecar.captured_at)),
            number_high: AtomicU32::new(0),
            sidecar: Mutex::new(sidecar),
            disks: RwLock::new(disks),
            state: Mutex::new(SessionState::Open),
            last_error: Mutex::new(None),
            active_ms: AtomicU64::new(milliseconds(now)),
        });
        let promised: Weak<Self> = Arc::downgrade(&session);
        promises.add(promised);
        session
    }

    /// Serial of its inode numbers.
    #[must_use]
    pub const fn serial(&self) -> u32 {
        self.serial
    }

    /// Time at which a name in the session last appeared or disappeared; never the same twice.
    #[must_use]
    pub fn changed_at(&self) -> Timestamp {
        let at = self.changed_at.load(Ordering::SeqCst);
        Timestamp::from_nanosecond(at.into()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Records that a name in the session has appeared or disappeared.
    pub fn note_change(&self) {
        let now = nanoseconds(self.engine.owner.clock().now());
        let next = |at: i64| Some(now.max(at.saturating_add(1)));
        // The update cannot fail: the closure always returns a value.
        let _ = self
            .changed_at
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    /// The current sidecar.
    #[must_use]
    pub fn sidecar(&self) -> sidecar::Session {
        self.sidecar.lock().clone()
    }

    /// The VM.
    #[must_use]
    pub fn vm(&self) -> VmName {
        self.sidecar.lock().vm.clone()
    }

    /// VM and name.
    #[must_use]
    pub fn reference(&self) -> SessionRef {
        let sidecar = self.sidecar.lock();
        SessionRef {
            vm: sidecar.vm.clone(),
            session: sidecar.name.clone(),
        }
    }

    /// Name of the session.
    #[must_use]
    pub fn name(&self) -> PointName {
        self.sidecar.lock().name.clone()
    }

    /// The state of the session.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.state.lock().clone()
    }

    /// The last error of a write, flush or commit, for `status`.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Records an error for `status` and returns the result unchanged.
    pub fn note_error<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(e) = &result {
            *self.last_error.lock() = Some(e.report());
        }
        result
    }

    /// All disks, without those that are written beside others.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<DiskWriter>> {
        let files = self.files();
        files
            .into_iter()
            .filter_map(|(temporary, disk)| temporary.is_none().then_some(disk))
            .collect()
    }

    /// The disk of that number, including those that are written beside others.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<Arc<DiskWriter>> {
        let disks = self.disks.read();
        disks.iter().find(|d| d.meta.number == number).cloned()
    }

    /// All disks; a disk that is written beside another comes with the name of its file in the
    /// tree.
    #[must_use]
    pub fn files(&self) -> Vec<(Option<String>, Arc<DiskWriter>)> {
        let disks = self.disks.read();
        let sidecar = self.sidecar.lock();
        let place = |disk: &DiskWriter| {
            let mut all = sidecar.disks.iter();
            all.find(|d| d.layer_id == disk.meta.layer_id && !d.unlinked)
                .map(|d| d.temporary.clone())
        };
        // A disk that the sidecar does not name is being removed.
        disks
            .iter()
            .filter_map(|disk| Some((place(disk)?, Arc::clone(disk))))
            .collect()
    }

    /// The disk of that name.
    ///
    /// # Errors
    /// `NotFound`, which names the disk and the session.
    pub fn disk(&self, name: &DiskName) -> Result<Arc<DiskWriter>> {
        let found = self
            .disks()
            .into_iter()
            .find(|disk| disk.meta.name.same_as(name));
        found.ok_or_else(|| {
            Error::not_found(format!(
                "session {}/{} has no disk {name}",
                self.vm(),
                self.name()
            ))
        })
    }

    /// Checks that the session takes writes.
    ///
    /// # Errors
    /// `Busy` while it is being committed; `ReadOnly`, `Stale` when it has ended.
    pub fn check_open(&self) -> Result<()> {
        match self.state() {
            SessionState::Open => Ok(()),
            SessionState::Committing => Err(Error::new(
                ErrorKind::Busy,
                "the session is being committed",
            )),
            SessionState::Committed(point) => Err(Error::new(
                ErrorKind::ReadOnly,
                format!("the session has been committed as {point}"),
            )),
            SessionState::Aborted => {
                Err(Error::new(ErrorKind::Stale, "the session has been aborted"))
            }
        }
    }

    /// Admits a write into a file: waits while a commit runs, and no commit or abort seals anything
    /// until the guard is dropped. The kernel drops bytes that it could not write back, so a refusal
    /// would lose bytes that the session needs if the commit fails.
    ///
    /// The caller looks up what it writes after this call: a commit that fails opens disks anew.
    /// The wait ends as soon as it is known what becomes of the session: whoever commits waits for
    /// the kernel then, which waits for the writes that it has sent.
    ///
    /// # Errors
    /// `ReadOnly`, `Stale` when it has ended.
    pub fn enter_write(&self) -> Result<RwLockReadGuard<'_, ()>> {
        loop {
            let mut state = self.state.lock();
            while *state == SessionState::Committing {
                state = self.settled.wait(state);
            }
            drop(state);
            let guard = self.writing.read();
            match self.check_open() {
                // The next commit has begun.
                Err(e) if e.kind() == ErrorKind::Busy => {}
                open => return open.map(|()| guard),
            }
        }
    }

    /// Ends running writes into files; the state refuses later ones, or makes them wait.
    pub(super) fn end_writes(&self) {
        drop(self.writing.write());
    }

    /// Opens a door's connection to this disk, which may have lost its name meanwhile.
    ///
    /// # Errors
    /// `Stale` when the disk was removed or replaced; `Busy`, `ReadOnly`.
    pub fn enter(&self, disk: &Arc<DiskWriter>) -> Result<Connection> {
        self.check_open()?;
        self.touch();
        if !self.disks().iter().any(|known| Arc::ptr_eq(known, disk)) {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("disk {} was removed or replaced", disk.meta().name),
            ));
        }
        Ok(Connection::new(disk))
    }

    /// Lends a buffer for a write of `length_bytes` at `offset`. The caller receives into it and
    /// submits it.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end of the disk; `Busy`, `ReadOnly`, `Stale`.
    pub fn reserve(
        &self,
        disk: &Arc<DiskWriter>,
        offset: u64,
        length_bytes: u64,
    ) -> Result<Reservation> {
        self.check_open()?;
        crate::block::check_range(disk.size_bytes(), offset, length_bytes)?;
        self.touch();
        Ok(Reservation::new(
            disk,
            &self.engine.buffers,
            offset,
            length_bytes,
        ))
    }

    /// Makes everything written to all disks durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn flush(&self) -> Result<()> {
        self.touch();
        self.disks().iter().try_for_each(|disk| disk.flush())
    }

    /// Records activity: the session's ttl counts from here.
    pub fn touch(&self) {
        let now = self.engine.owner.clock().monotonic();
        self.active_ms.store(milliseconds(now), Ordering::Relaxed);
    }

    /// How long the session has been idle in this process. A change of the wall clock does not
    /// affect it.
    #[must_use]
    pub fn idle(&self) -> Duration {
        let active = Duration::from_millis(self.active_ms.load(Ordering::Relaxed));
        self.engine.owner.clock().monotonic().saturating_sub(active)
    }

    /// Whether a client writes the session, or pauses between two steps of a write.
    #[must_use]
    pub fn is_being_written(&self) -> bool {
        self.state() == SessionState::Committing
            || self.idle() < PAUSE
            || self.disks().iter().any(|disk| disk.writers() > 0)
    }

    /// Makes the session durable as it is, including which disks are finished, for the next
    /// process. A client that writes through the tree may be in the middle of a copy: bytes that it
    /// has not synced are kept, but the disk is not recorded as finished.
    ///
    /// # Errors
    /// The error of the first disk that could not be made durable, after all were tried.
    pub fn suspend(&self) -> Result<()> {
        let make_durable = |disk: &Arc<DiskWriter>| match disk.door() {
            Some(Door::Tree) => disk.flush(),
            Some(Door::Nbd) | None => disk.sync_file(),
        };
        self.disks()
            .iter()
            .map(make_durable)
            .fold(Ok(()), Result::and)
    }

    /// How long the session may still be idle; `None` once it has expired.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        let ttl = self.sidecar.lock().ttl_seconds;
        Duration::from_secs(ttl).checked_sub(self.idle())
    }

    /// Whether the session has been idle for longer than its ttl.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.state() == SessionState::Open && self.patience().is_none()
    }

    /// The session's entry in the history.
    pub(in crate::ingest) fn job(&self, ending: &Ending) -> Job {
        let now = self.engine.owner.clock().now();
        let mut ending = ending.clone();
        if ending == Ending::aborted() {
            // A caller that aborts a session seldom gives a reason; the last error may be the
            // reason.
            let last = self.last_error();
            ending.reason = last.map(|error| format!("its last error: {error}"));
        }
        let disks = self.disks();
        let disks = disks.iter().map(|disk| {
            let stats = disk.stats();
            JobDisk {
                name: disk.meta.name.clone(),
                received_bytes: stats.received_bytes,
                equal_bytes: stats.equal_bytes,
                zero_bytes: stats.zero_bytes,
                stored_bytes: stats.stored_bytes,
                door: disk.door().map(|door| door.name().to_owned()),
            }
        });
        Job {
            disks: disks.collect(),
            ..Job::of_session(&self.sidecar(), &ending, now)
        }
    }

    /// Ends the session without a point, for the given reason. Its space is free afterwards, and
    /// the history keeps the reason.
    ///
    /// # Errors
    /// `Busy` while it is being committed; `ReadOnly` afterwards; `Io`.
    pub fn end(&self, ending: &Ending) -> Result<()> {
        {
            let mut state = self.state.lock();
            match *state {
                SessionState::Open => *state = SessionState::Aborted,
                SessionState::Aborted => return Ok(()),
                SessionState::Committing => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        "the session is being committed",
                    ));
                }
                SessionState::Committed(_) => {
                    return Err(Error::new(
                        ErrorKind::ReadOnly,
                        "the session has been committed",
                    ));
                }
            }
        }
        // Running changes and writes into files end first: they would create files behind
        // the removal. Later ones are refused, as is a copy at its next piece.
        let _turn = self.changing.lock();
        self.end_writes();
        for (_, disk) in self.files() {
            // Running writes end first; later ones are refused.
            let _alone = disk.gate.write();
            disk.sealed.store(true, Ordering::SeqCst);
        }
        // The removal uses the state in memory, so that a removal that failed half-way is repeated
        // completely.
        let removed = self.engine.owner.discard_session(&self.sidecar());
        match &removed {
            Ok(()) => self.engine.owner.keep_job(&self.job(ending)),
            // Some files are left, and layers may already be empty: the session can be aborted
            // again, takes no writes, and is never committed.
            Err(_) => {
                let mut sidecar = self.sidecar.lock();
                sidecar.dismantled = true;
                drop(sidecar);
                *self.state.lock() = SessionState::Open;
            }
        }
        removed
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
