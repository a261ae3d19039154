//! The sessions that the daemon holds open, and what is done with them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::control::{BeginAnswer, CommitAnswer, SessionAnswer, Status};
use crate::error::{Error, Result};
use crate::ingest::{BeginRequest, CommitRequest, Engine, Session, SessionState};
use crate::types::{PointName, VmName};

type Key = (String, String);
/// Told after a commit or abort, before it is answered: the mounted tree shows it at once.
type Changed = Box<dyn Fn() + Send + Sync>;

/// LIMIT: how long a commit waits for connections that are ending.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);

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

/// All open sessions of the repository.
pub(super) struct Sessions {
    engine: Engine,
    open: Mutex<BTreeMap<Key, Arc<Session>>>,
    nbd_sockets: Vec<PathBuf>,
    mountpoint: Option<PathBuf>,
    nbd_tcp: OnceLock<String>,
    changed: OnceLock<Changed>,
}

impl Sessions {
    /// Goes on with every session that an earlier daemon left.
    pub(super) fn resume(
        engine: Engine,
        nbd_sockets: Vec<PathBuf>,
        mountpoint: Option<PathBuf>,
    ) -> Result<Self> {
        let mut open = BTreeMap::new();
        for vm in engine.owner.vm_names() {
            for name in engine.owner.repository().session_names(&vm)? {
                match Session::resume(&engine, &vm, &name) {
                    Ok(session) => {
                        tracing::info!(vm = %vm, session = %name, "a session goes on");
                        open.insert((vm.folded(), name.folded()), session);
                    }
                    Err(e) => tracing::error!(vm = %vm, session = %name, error = %e.report(),
                        "a session cannot go on; it is kept until it is aborted"),
                }
            }
        }
        Ok(Self {
            engine,
            open: Mutex::new(open),
            nbd_sockets,
            mountpoint,
            nbd_tcp: OnceLock::new(),
            changed: OnceLock::new(),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Sets who is told of commits. Once.
    pub(super) fn on_change(&self, changed: Changed) {
        // A second caller would be a mistake of the wiring, and is ignored.
        let _ = self.changed.set(changed);
    }

    /// Sets the URI below which exports are served over TCP. Once.
    pub(super) fn on_tcp(&self, base: String) {
        // As above.
        let _ = self.nbd_tcp.set(base);
    }

    fn tell(&self) {
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open session of that name.
    pub(super) fn get(&self, vm: &VmName, name: &PointName) -> Option<Arc<Session>> {
        self.table().get(&(vm.folded(), name.folded())).cloned()
    }

    fn require(&self, vm: &VmName, name: &PointName) -> Result<Arc<Session>> {
        self.get(vm, name).ok_or_else(|| {
            Error::not_found(format!("there is no open session {vm}/{name}"))
                .advise("list the sessions with: restorefs sessions")
        })
    }

    /// All open sessions.
    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.table().values().cloned().collect()
    }

    pub(super) fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nbd_sockets: self.nbd_sockets.clone(),
            nbd_tcp: self.nbd_tcp.get().cloned(),
            mountpoint: self.mountpoint.clone(),
        }
    }

    pub(super) fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        let session = Session::begin(&self.engine, request)?;
        let key = (session.vm().folded(), session.name().folded());
        self.table().insert(key, Arc::clone(&session));
        self.tell();
        let socket = self.nbd_sockets.first().cloned().unwrap_or_default();
        let tcp = self.nbd_tcp.get().map(String::as_str);
        Ok(BeginAnswer::of(&session, &socket, tcp))
    }

    pub(super) fn commit(
        &self,
        vm: &VmName,
        name: &PointName,
        request: &CommitRequest,
    ) -> Result<CommitAnswer> {
        let session = self.require(vm, name)?;
        wait_for_goodbyes(&session);
        let point = session.commit(request)?;
        self.table().remove(&(vm.folded(), name.folded()));
        self.tell();
        Ok(CommitAnswer {
            vm: session.vm(),
            point,
        })
    }

    pub(super) fn attach(
        &self,
        vm: &VmName,
        name: &PointName,
        file: &str,
        content: &[u8],
    ) -> Result<()> {
        self.require(vm, name)?.attach(file, content)
    }

    pub(super) fn abort(&self, vm: &VmName, name: &PointName) -> Result<()> {
        match self.get(vm, name) {
            Some(session) => {
                session.abort()?;
                self.table().remove(&(vm.folded(), name.folded()));
            }
            // One that could not go on has no live session, but is still there.
            None => {
                self.engine.owner.repository().session(vm, name)?;
                self.engine.owner.remove_session(vm, name)?;
            }
        }
        self.tell();
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<SessionAnswer> {
        self.all()
            .iter()
            .map(|session| SessionAnswer::of(session))
            .collect()
    }

    /// Ends sessions that have been idle past their ttl.
    pub(super) fn expire(&self) {
        for session in self.all() {
            if session.is_expired() && session.state() == SessionState::Open {
                let (vm, name) = (session.vm(), session.name());
                tracing::warn!(vm = %vm, session = %name, "a session was idle past its ttl and is aborted");
                if let Err(e) = self.abort(&vm, &name) {
                    tracing::error!(vm = %vm, session = %name, error = %e.report(), "the expired session could not be removed");
                }
            }
        }
    }
}
