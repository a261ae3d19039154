//! The open sessions of a repository: one table in which every door begins, finds, commits and
//! aborts them.
//!
//! # Concurrency
//! The table's mutex is held only for lookups and updates, never during a begin, a commit or an
//! abort. Sessions begin one after the other.

pub(in crate::ingest) mod flusher;
pub(in crate::ingest) mod keeper;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::ingest::request::{BeginRequest, CommitRequest};
use crate::ingest::session::{Engine, Session, SessionState};
use crate::metrics::ingest;
use crate::repo::checks::CheckNotes;
use crate::repo::selector::Which;
use crate::repo::sidecar::copied::PointCopy;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{Ending, Forgetting, JobResult, LabelChange};
use crate::sys::limit;
use crate::types::sync::{Condvar, Mutex, RwLock};
use crate::types::width::u64_from_usize;
use crate::types::{PointId, PointName, SessionRef, VmName};

type Key = (String, String);

/// LIMIT: how long a commit waits for connections that are ending.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);
/// LIMIT: ended sessions whose final state is kept (about 200 bytes each).
const ENDED_MAX: usize = 16_384;

/// Open files of each disk of a session: its layer and its records. LIMIT: disks of open sessions
/// take half of the files that the process may have open, and those of one session more.
const FILES_OF_DISK: u64 = 2;

/// A change in a repository.
#[derive(Clone)]
pub enum Change {
    /// A session has begun.
    Begun(Arc<Session>),
    /// A session has ended; its state tells how.
    Ended(Arc<Session>),
    /// A session that could not be resumed after a restart was aborted.
    Discarded(SessionRef),
    /// A VM was created or removed.
    Vm(VmName),
    /// Restore points of a VM were forgotten.
    Forgotten(VmName, Vec<PointName>),
    /// The labels of a restore point were changed.
    Labelled(VmName, PointName),
}

/// Called when sessions and points come and go, before the caller gets its answer: by mounts, which
/// must show the change, and by events.
pub trait Hook: Send + Sync {
    /// Called before a session is sealed: hands in all bytes of its disks that are still held back
    /// (in a kernel's page cache). Called once more when the restore point exists: drops all bytes
    /// held back since.
    fn before_seal(&self, session: &Session);

    /// Called after a change. With [`Telling::Wait`] the hook returns once every reader sees the
    /// change.
    fn changed(&self, change: &Change, telling: Telling);
}

/// Whether the caller of an operation waits until every mount shows the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// The caller waits: the change is visible when the caller gets its answer.
    Wait,
    /// The caller does not wait, because it holds a lock that the mounts would wait for (a
    /// directory of the mounted tree).
    Go,
}

/// The open sessions of one repository.
pub struct Registry {
    engine: Engine,
    open: Mutex<BTreeMap<Key, Arc<Session>>>,
    /// Held while a session begins, until it is in the table.
    beginning: Mutex<()>,
    /// Whether the registry refuses new sessions.
    is_closing: AtomicBool,
    /// Ended sessions, by serial: a program that still holds one of their files learns how the
    /// session ended.
    ended: Mutex<HashMap<u32, (VmName, SessionState)>>,
    hooks: RwLock<Vec<Box<dyn Hook>>>,
    /// Counts begins and ends.
    generation: AtomicU64,
    /// Signalled when a session begins: it may be the next that is due.
    bell: (Mutex<u64>, Condvar),
}

/// Waits for a short time until no connection is writing. nbdcopy and QEMU end after `NBD_CMD_DISC`
/// without waiting for the server, so a commit that follows at once can overtake their disconnect.
fn wait_for_goodbyes(session: &Session) {
    let begun = Instant::now();
    while session.disks().iter().any(|disk| disk.writers() > 0)
        && begun.elapsed() < GOODBYE_PATIENCE
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn key(vm: &VmName, name: &PointName) -> Key {
    (vm.folded(), name.folded())
}

impl Registry {
    /// Resumes every session that an earlier process left. A session that cannot be resumed is
    /// reported in the log, and kept until it is aborted.
    ///
    /// # Errors
    /// `Io` when the sessions cannot be listed.
    pub fn resume(engine: Engine) -> Result<Arc<Self>> {
        let mut open = BTreeMap::new();
        for vm in engine.owner.vms_with_sessions() {
            for name in engine.owner.repository().session_names(&vm)? {
                // A copy goes on by the command that sends it.
                let sidecar = engine.owner.repository().session(&vm, &name);
                if sidecar.is_ok_and(|sidecar| sidecar.arriving.is_some()) {
                    continue;
                }
                match Session::resume(&engine, &vm, &name) {
                    Ok(session) => {
                        tracing::info!(vm = %vm, session = %name, "a session goes on");
                        open.insert(key(&vm, &name), session);
                    }
                    Err(e) => tracing::error!(vm = %vm, session = %name, error = %e.report(),
                        "a session cannot go on; it is kept until it is aborted"),
                }
            }
        }
        Ok(Self::with(engine, open))
    }

    /// Creates a registry without sessions, for a command that holds the lock while it runs:
    /// sessions that an earlier process left stay as they are.
    #[must_use]
    pub fn empty(engine: Engine) -> Arc<Self> {
        Self::with(engine, BTreeMap::new())
    }

    fn with(engine: Engine, open: BTreeMap<Key, Arc<Session>>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            open: Mutex::new(open),
            beginning: Mutex::default(),
            is_closing: AtomicBool::new(false),
            ended: Mutex::default(),
            hooks: RwLock::default(),
            generation: AtomicU64::new(0),
            bell: Default::default(),
        })
    }

    /// The engine that all sessions share.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Adds a hook; hooks are called in the order in which they were added.
    pub fn add_hook(&self, hook: Box<dyn Hook>) {
        self.hooks.write().push(hook);
    }

    fn tell(&self, change: &Change, telling: Telling) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        for hook in self.hooks.read().iter() {
            hook.changed(change, telling);
        }
    }

    /// The number of begins and ends so far.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Session>>> {
        self.open.lock()
    }

    /// The open session of that name, ignoring case.
    #[must_use]
    pub fn get(&self, vm: &VmName, name: &PointName) -> Option<Arc<Session>> {
        self.table().get(&key(vm, name)).cloned()
    }

    /// The open session of that serial.
    #[must_use]
    pub fn by_serial(&self, serial: u32) -> Option<Arc<Session>> {
        let table = self.table();
        table.values().find(|s| s.serial() == serial).cloned()
    }

    /// The VM and the final state of the ended session of that serial.
    #[must_use]
    pub fn ended(&self, serial: u32) -> Option<(VmName, SessionState)> {
        let ended = self.ended.lock();
        ended.get(&serial).cloned()
    }

    /// The open session of that name.
    ///
    /// # Errors
    /// `NotFound`, which names the session.
    pub fn require(&self, vm: &VmName, name: &PointName) -> Result<Arc<Session>> {
        self.get(vm, name).ok_or_else(|| {
            Error::not_found(format!("there is no open session {vm}/{name}"))
                .advise(format!(
                    "list the sessions with: restorefs sessions, and those that have ended with: restorefs jobs {vm}"
                ))
        })
    }

    /// All open sessions, by VM and name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.table().values().cloned().collect()
    }

    /// The open sessions of a VM, by name.
    #[must_use]
    pub fn of_vm(&self, vm: &VmName) -> Vec<Arc<Session>> {
        let folded = vm.folded();
        let table = self.table();
        let of_vm = table.iter().filter(|((vm, _), _)| *vm == folded);
        of_vm.map(|(_, session)| Arc::clone(session)).collect()
    }

    /// Refuses another session when the open ones have so many disks that reads, commits and aborts
    /// could soon run out of file descriptors.
    fn check_files(&self) -> Result<()> {
        let disks: usize = self.all().iter().map(|one| one.disks().len()).sum();
        let files = u64_from_usize(disks).saturating_mul(FILES_OF_DISK);
        let limit = limit::open_files();
        if files < limit / 2 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::LimitExceeded,
            format!(
                "the open sessions have {disks} disks, which take half of the {limit} files that the daemon may have open"
            ),
        )
        .advise(
            "commit or abort unused sessions (restorefs sessions), or allow it more: LimitNOFILE= of its unit",
        ))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// `LimitExceeded` when the open ones have too many disks; as [`Session::begin`].
    pub fn begin(&self, request: &BeginRequest, telling: Telling) -> Result<Arc<Session>> {
        let turn = self.beginning.lock();
        self.check_begin()
            .inspect_err(|e| Session::keep_failure(&self.engine, request, e))?;
        let session = Session::begin(&self.engine, request)?;
        let key = key(&session.vm(), &session.name());
        self.table().insert(key, Arc::clone(&session));
        drop(turn);
        self.ring();
        self.tell(&Change::Begun(Arc::clone(&session)), telling);
        Ok(session)
    }

    fn check_begin(&self) -> Result<()> {
        if self.is_closing() {
            return Err(Error::new(ErrorKind::Busy, "the daemon is about to stop")
                .advise("begin when it is there again"));
        }
        self.check_files()
    }

    /// Refuses new sessions from now on; open ones continue. Waits for a session that is just
    /// beginning, which counts as open.
    pub fn close(&self) {
        let _turn = self.beginning.lock();
        self.is_closing.store(true, Ordering::SeqCst);
    }

    /// Whether the registry refuses new sessions.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// Sessions that a client writes, or has written until just now.
    #[must_use]
    pub fn being_written(&self) -> Vec<Arc<Session>> {
        let mut all = self.all();
        all.retain(|session| session.is_being_written());
        all
    }

    /// Makes all sessions durable as they are, so that the next process resumes them; finished
    /// disks stay finished.
    ///
    /// # Errors
    /// The error of the first session that could not be made durable; the others are made durable
    /// nevertheless.
    pub fn suspend(&self) -> Result<()> {
        let mut result = Ok(());
        for session in self.all() {
            let (vm, name) = (session.vm(), session.name());
            match session.suspend() {
                Ok(()) => {
                    tracing::info!(%vm, session = %name, "a session is suspended; the next daemon goes on with it")
                }
                Err(error) => {
                    tracing::error!(%vm, session = %name, error = %error.report(), "a session could not be made durable");
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    /// Commits a session; waits for connections that are just ending.
    ///
    /// # Errors
    /// As [`Session::commit`]; `NotFound`.
    pub fn commit(
        &self,
        vm: &VmName,
        name: &PointName,
        request: &CommitRequest,
        telling: Telling,
    ) -> Result<PointEntry> {
        let session = self.require(vm, name)?;
        wait_for_goodbyes(&session);
        let flush_caches = || {
            for hook in self.hooks.read().iter() {
                hook.before_seal(&session);
            }
        };
        let began = Instant::now();
        let point = session.commit(request, &flush_caches);
        ingest::note_commit(point.as_ref().err().map(Error::kind), began);
        // This includes a commit of which only the durability failed: the point is in place.
        if matches!(session.state(), SessionState::Committed(_)) {
            self.note_end(&session, telling);
        }
        point
    }

    /// Ends a session without a point, also one that could not be resumed. The history keeps the
    /// reason.
    ///
    /// # Errors
    /// `NotFound`; as [`Session::end`].
    pub fn end(
        &self,
        vm: &VmName,
        name: &PointName,
        ending: &Ending,
        telling: Telling,
    ) -> Result<()> {
        // A session that is just beginning is on disk before it is in the table; it must not be
        // taken for one that could not be resumed.
        let turn = self.beginning.lock();
        match self.get(vm, name) {
            Some(session) => {
                drop(turn);
                session.end(ending)?;
                self.note_end(&session, telling);
            }
            // A session that could not be resumed exists on disk only.
            None => {
                self.engine.owner.end_session(vm, name, ending)?;
                drop(turn);
                let session = SessionRef {
                    vm: vm.clone(),
                    session: name.clone(),
                };
                self.tell(&Change::Discarded(session), telling);
            }
        }
        Ok(())
    }

    fn note_end(&self, session: &Arc<Session>, telling: Telling) {
        let vm = session.vm();
        let mut ended = self.ended.lock();
        if ended.len() >= ENDED_MAX {
            ended.clear();
        }
        ended.insert(session.serial(), (vm.clone(), session.state()));
        drop(ended);
        let key = key(&vm, &session.name());
        let mut table = self.table();
        // The name has been free for a moment: another session may already have it.
        if table
            .get(&key)
            .is_some_and(|open| Arc::ptr_eq(open, session))
        {
            table.remove(&key);
        }
        drop(table);
        self.tell(&Change::Ended(Arc::clone(session)), telling);
    }

    /// Forgets restore points of a VM. The answer lists each point as forgotten, or as kept with
    /// the reason.
    ///
    /// # Errors
    /// As [`Owner::forget_points`](crate::repo::Owner::forget_points).
    pub fn forget_points(
        &self,
        vm: &VmName,
        points: &[PointName],
        telling: Telling,
    ) -> Result<Forgetting> {
        let done = self.engine.owner.forget_points(vm, points)?;
        if !done.forgotten.is_empty() {
            let change = Change::Forgotten(vm.clone(), done.forgotten.clone());
            self.tell(&change, telling);
        }
        Ok(done)
    }

    /// Changes the labels of a restore point; returns the point as it is then.
    ///
    /// # Errors
    /// As [`Owner::label_point`](crate::repo::Owner::label_point).
    pub fn label_point(
        &self,
        vm: &VmName,
        which: &Which,
        change: &LabelChange,
        telling: Telling,
    ) -> Result<PointEntry> {
        let point = self.engine.owner.label_point(vm, which, change)?;
        self.tell(&Change::Labelled(vm.clone(), point.name.clone()), telling);
        Ok(point)
    }

    /// Gives a VM another name; returns the former one.
    ///
    /// # Errors
    /// As [`Owner::rename_vm`](crate::repo::Owner::rename_vm).
    pub fn rename_vm(&self, vm: &VmName, to: &VmName, telling: Telling) -> Result<VmName> {
        let from = self.engine.owner.rename_vm(vm, to)?;
        self.tell(&Change::Vm(from.clone()), telling);
        self.tell(&Change::Vm(to.clone()), telling);
        Ok(from)
    }

    /// Brings a forgotten point back from the trash.
    ///
    /// # Errors
    /// As [`Owner::undelete`](crate::repo::Owner::undelete).
    pub fn undelete(&self, vm: &VmName, point: &PointName, telling: Telling) -> Result<PointEntry> {
        let entry = self.engine.owner.undelete(vm, point)?;
        self.tell(&Change::Vm(vm.clone()), telling);
        Ok(entry)
    }

    /// Keeps results of verifying a VM.
    ///
    /// # Errors
    /// As [`Owner::note_checks`](crate::repo::Owner::note_checks).
    pub fn note_checks(&self, vm: &VmName, notes: &CheckNotes, telling: Telling) -> Result<()> {
        self.engine.owner.note_checks(vm, notes)?;
        if !notes.points.is_empty() {
            self.tell(&Change::Vm(vm.clone()), telling);
        }
        Ok(())
    }

    /// Makes a restore point of a copy that has arrived; returns the point.
    ///
    /// # Errors
    /// As [`Owner::arrive`](crate::repo::Owner::arrive); `Io` when the point is in place, but may not be durable.
    pub fn arrive(&self, vm: &VmName, session: &PointName, telling: Telling) -> Result<PointEntry> {
        let published = self.engine.owner.arrive(vm, session)?;
        let change = Change::Labelled(vm.clone(), published.entry.name.clone());
        self.tell(&change, telling);
        match published.unsure {
            Some(error) => Err(error),
            None => Ok(published.entry),
        }
    }

    /// Records copies of points at another repository.
    ///
    /// # Errors
    /// As [`Owner::note_copies`](crate::repo::Owner::note_copies).
    pub fn note_copies(
        &self,
        vm: &VmName,
        copies: &[(PointId, PointCopy)],
        telling: Telling,
    ) -> Result<()> {
        self.engine.owner.note_copies(vm, copies)?;
        self.tell(&Change::Vm(vm.clone()), telling);
        Ok(())
    }

    /// Makes a VM that is copied from another repository a VM of this one; returns whether it was a copy.
    ///
    /// # Errors
    /// As [`Owner::adopt`](crate::repo::Owner::adopt).
    pub fn adopt(&self, vm: &VmName, telling: Telling) -> Result<bool> {
        let was_copy = self.engine.owner.adopt(vm)?;
        self.tell(&Change::Vm(vm.clone()), telling);
        Ok(was_copy)
    }

    /// Creates a VM without restore points.
    ///
    /// # Errors
    /// `AlreadyExists`; as [`Owner::ensure_vm`](crate::repo::Owner::ensure_vm).
    pub fn make_vm(&self, vm: &VmName, telling: Telling) -> Result<()> {
        let owner = &self.engine.owner;
        if owner.vm(vm).is_ok() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("there is a VM {vm} already (names are compared without regard to case)"),
            ));
        }
        owner.ensure_vm(vm)?;
        self.tell(&Change::Vm(vm.clone()), telling);
        Ok(())
    }

    /// Removes a VM that never had a restore point.
    ///
    /// # Errors
    /// As [`Owner::remove_vm`](crate::repo::Owner::remove_vm).
    pub fn remove_vm(&self, vm: &VmName, telling: Telling) -> Result<()> {
        self.engine.owner.remove_vm(vm)?;
        self.tell(&Change::Vm(vm.clone()), telling);
        Ok(())
    }

    /// Ends sessions that have been idle past their ttl; returns whether all of them could be
    /// ended.
    pub fn expire(&self) -> bool {
        let mut all_ended = true;
        for session in self.all() {
            if session.is_expired() {
                let (vm, name) = (session.vm(), session.name());
                tracing::warn!(vm = %vm, session = %name, "a session was idle past its ttl and is aborted");
                let ending = Ending {
                    result: JobResult::Expired,
                    reason: Some(format!(
                        "idle for more than its ttl of {} s",
                        session.sidecar().ttl_seconds
                    )),
                };
                if let Err(e) = self.end(&vm, &name, &ending, Telling::Wait) {
                    tracing::error!(vm = %vm, session = %name, error = %e.report(), "the expired session could not be removed");
                    all_ended = false;
                }
            }
        }
        all_ended
    }

    /// The time until the next session can expire, if none is active before.
    #[must_use]
    pub fn nearest_expiry(&self) -> Option<Duration> {
        let sessions = self.all();
        let open = sessions.iter().filter(|s| s.state() == SessionState::Open);
        open.map(|s| s.patience().unwrap_or_default()).min()
    }

    /// Waits until the bell has been rung more often than `heard`, for at most `at_most`.
    pub(in crate::ingest) fn wait(&self, heard: &mut u64, at_most: Duration) {
        let (rung, bell) = &self.bell;
        let rung = rung.lock();
        let waited = bell.wait_timeout_while(rung, at_most, |rung| *rung == *heard);
        *heard = *waited.0;
    }

    /// Wakes a [`Registry::wait`].
    pub(in crate::ingest) fn ring(&self) {
        *self.bell.0.lock() += 1;
        self.bell.1.notify_all();
    }
}
