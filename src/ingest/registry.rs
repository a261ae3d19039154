//! The open sessions of a repository: one table that every door begins, finds, commits and aborts them in.
//!
//! # Concurrency
//! The table's mutex is held for looking up and noting only, never over a begin, a commit or an abort. Sessions begin one after the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::request::{BeginRequest, CommitRequest};
use super::session::{Engine, Session, SessionState};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{Ending, Forgetting, JobResult};
use crate::sys::limit;
use crate::types::sync::{Condvar, Mutex, RwLock};
use crate::types::width::u64_from_usize;
use crate::types::{PointName, SessionRef, VmName};

type Key = (String, String);

/// LIMIT: how long a commit waits for connections that are ending.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);
/// LIMIT: sessions that have ended of which is remembered how (about 200 bytes each).
const ENDED_MAX: usize = 16_384;

/// Files that are open for each disk of a session: its layer and its records. LIMIT: disks of open sessions take half of the files that the
/// process may have open, and those of one session more.
const FILES_OF_DISK: u64 = 2;

/// What has changed in a repository.
#[derive(Clone)]
pub enum Change {
    /// A session has begun.
    Begun(Arc<Session>),
    /// A session has ended; its state says how.
    Ended(Arc<Session>),
    /// A session that could not go on after a restart was aborted.
    Discarded(SessionRef),
    /// A VM was made or removed.
    Vm(VmName),
    /// Restore points of a VM were forgotten.
    Forgotten(VmName, Vec<PointName>),
}

/// What is called when sessions and points come and go, before the caller is answered: mounts that must show what there is, events.
pub trait Hook: Send + Sync {
    /// A session is about to be sealed: what is still held of its disks (a kernel's page cache) is handed in now. Called once more when
    /// the restore point is there: what is held since then is dropped.
    fn before_seal(&self, session: &Session);

    /// Something has changed. With [`Telling::Wait`] the hook returns once everybody who looks sees the change.
    fn changed(&self, change: &Change, telling: Telling);
}

/// Whether the caller of an operation waits until every mount shows the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// The caller waits: the change is seen when the caller is answered.
    Wait,
    /// The caller does not wait, because it holds what the mounts would wait for (a directory of the mounted tree).
    Go,
}

/// The open sessions of one repository.
pub struct Registry {
    engine: Engine,
    open: Mutex<BTreeMap<Key, Arc<Session>>>,
    /// Held while a session begins, until it is in the table.
    beginning: Mutex<()>,
    /// Whether no session is begun any more.
    is_closing: AtomicBool,
    /// Sessions that have ended, by serial: who still holds one of their files is told how.
    ended: Mutex<HashMap<u32, (VmName, SessionState)>>,
    hooks: RwLock<Vec<Box<dyn Hook>>>,
    /// Counts beginnings and ends.
    generation: AtomicU64,
    /// Rung when a session was begun: it may be the one to look at next.
    bell: (Mutex<u64>, Condvar),
}

/// Waits until nobody writes any more, for a moment. nbdcopy and QEMU end without waiting for the server after `NBD_CMD_DISC`: a
/// commit that comes right behind them can be faster than their goodbye.
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
    /// Goes on with every session that an earlier process left. One that cannot go on is said in the log, and kept until it is
    /// aborted.
    ///
    /// # Errors
    /// `Io` when the sessions cannot be listed.
    pub fn resume(engine: Engine) -> Result<Arc<Self>> {
        let mut open = BTreeMap::new();
        for vm in engine.owner.vms_with_sessions() {
            for name in engine.owner.repository().session_names(&vm)? {
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

    /// A registry without sessions, for a command that holds the lock as long as it runs: sessions that an earlier process left stay as
    /// they are.
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

    /// What all sessions share.
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

    /// Counts sessions that have begun or ended.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Session>>> {
        self.open.lock()
    }

    /// The open session of that name, without regard to case.
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

    /// How the session of that serial ended, and of which VM it was.
    #[must_use]
    pub fn ended(&self, serial: u32) -> Option<(VmName, SessionState)> {
        let ended = self.ended.lock();
        ended.get(&serial).cloned()
    }

    /// The open session of that name, or a clear error.
    ///
    /// # Errors
    /// `NotFound` naming it.
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

    /// Refuses a further session when those that are open have so many disks that reading, committing and aborting could soon open no file.
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
            "commit or abort sessions that nobody needs (restorefs sessions), or allow it more: LimitNOFILE= of its unit",
        ))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// `LimitExceeded` when the open ones have too many disks; as [`Session::begin`].
    pub fn begin(&self, request: &BeginRequest, telling: Telling) -> Result<Arc<Session>> {
        let turn = self.beginning.lock();
        if self.is_closing() {
            return Err(Error::new(ErrorKind::Busy, "the daemon is about to stop")
                .advise("begin when it is there again"));
        }
        self.check_files()?;
        let session = Session::begin(&self.engine, request)?;
        let key = key(&session.vm(), &session.name());
        self.table().insert(key, Arc::clone(&session));
        drop(turn);
        self.ring();
        self.tell(&Change::Begun(Arc::clone(&session)), telling);
        Ok(session)
    }

    /// From now on no session is begun; those that are open go on. One that is just beginning is waited for, and is one of them.
    pub fn close(&self) {
        let _turn = self.beginning.lock();
        self.is_closing.store(true, Ordering::SeqCst);
    }

    /// Whether no session is begun any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// Sessions that somebody writes, or has only just written.
    #[must_use]
    pub fn being_written(&self) -> Vec<Arc<Session>> {
        let mut all = self.all();
        all.retain(|session| session.is_being_written());
        all
    }

    /// Makes all sessions durable as they are, so that the next process goes on with them: disks that are finished stay so.
    ///
    /// # Errors
    /// What the first one answers that could not be; the others are made durable all the same.
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

    /// Commits a session; a connection that is just ending is waited for.
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
        let point = session.commit(request, &flush_caches);
        // Also when only its durability could not be had: the point is in place.
        if matches!(session.state(), SessionState::Committed(_)) {
            self.note_end(&session, telling);
        }
        point
    }

    /// Ends a session without a point, also one that could not go on. The history keeps the reason.
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
        // One that is just beginning is on disk before it is in the table: it is not one that could not go on.
        let turn = self.beginning.lock();
        match self.get(vm, name) {
            Some(session) => {
                drop(turn);
                session.end(ending)?;
                self.note_end(&session, telling);
            }
            // One that could not go on has no live session, but is still there.
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
        // Its name has been free for a moment: another session may have it already.
        if table
            .get(&key)
            .is_some_and(|open| Arc::ptr_eq(open, session))
        {
            table.remove(&key);
        }
        drop(table);
        self.tell(&Change::Ended(Arc::clone(session)), telling);
    }

    /// Forgets restore points of a VM; each is forgotten, or kept for the reason that is answered with it.
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

    /// Makes a VM without restore points.
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

    /// Ends sessions that have been idle past their ttl; answers whether all of them could be ended.
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

    /// How long it is until a session can expire, if none shows a sign of life before.
    #[must_use]
    pub fn nearest_expiry(&self) -> Option<Duration> {
        let sessions = self.all();
        let open = sessions.iter().filter(|s| s.state() == SessionState::Open);
        open.map(|s| s.patience().unwrap_or_default()).min()
    }

    /// Waits until the bell has rung more often than was `heard`, at most so long.
    pub(super) fn wait(&self, heard: &mut u64, at_most: Duration) {
        let (rung, bell) = &self.bell;
        let rung = rung.lock();
        let waited = bell.wait_timeout_while(rung, at_most, |rung| *rung == *heard);
        *heard = *waited.0;
    }

    /// Ends a [`Registry::wait`].
    pub(super) fn ring(&self) {
        *self.bell.0.lock() += 1;
        self.bell.1.notify_all();
    }
}
