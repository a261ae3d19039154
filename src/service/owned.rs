//! A repository in the process that owns it: its sessions, tasks, events, and addresses, and the way from it to others.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use super::answer::BeginAnswer;
use super::event::{EventBus, Happening, SessionChange};
use super::host::{Host, Status};
use super::login::{Login, LoginAnswer};
use super::look::Flight;
use super::works::Works;
use super::{Service, task};
use crate::access::{AuditLog, Caller, LiveAccess};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{Change, Hook, Registry, Session, SessionState, Telling};
use crate::metrics;
use crate::repo::register::Registered;
use crate::repo::{Job, Repository};
use crate::task::{Monitor, TaskReport, TaskTable};
use crate::types::RepositoryName;

/// The name of a repository that has none in the register.
pub const DEFAULT_NAME: &str = "default";

/// A repository that this process owns.
pub struct OwnedRepository {
    sessions: Arc<Registry>,
    tasks: TaskTable,
    events: Arc<EventBus>,
    /// Unix sockets of its NBD server; the first one is used in URIs.
    nbd_sockets: Vec<PathBuf>,
    /// URI below which exports are served over TCP.
    nbd_tcp: OnceLock<String>,
    host: OnceLock<Arc<dyn Host>>,
    login: OnceLock<Arc<dyn Login>>,
    access: Arc<LiveAccess>,
    audit: OnceLock<Arc<AuditLog>>,
    /// The looks at it for the metrics.
    looks: Arc<Flight>,
    works: Works,
    /// The way to other repositories.
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
}

/// Publishes changes to the subscribers.
struct Announcer(Arc<EventBus>);

impl Hook for Announcer {
    fn before_seal(&self, _: &Session) {}

    fn changed(&self, change: &Change, _: Telling) {
        let of = |session: &Session, state| Happening::Session {
            session: session.reference(),
            state,
        };
        match change {
            Change::Begun(session) => {
                self.0.publish(of(session, SessionChange::Open));
                let task = task::of_session(session);
                self.0.publish(Happening::Task { task });
            }
            Change::Ended(session) => match session.state() {
                SessionState::Committed(point) => {
                    self.0.publish(of(session, SessionChange::Committed));
                    self.0.publish(Happening::Point {
                        vm: session.vm(),
                        point,
                        is_there: true,
                    });
                }
                _ => self.0.publish(of(session, SessionChange::Aborted)),
            },
            Change::Discarded(session) => self.0.publish(Happening::Session {
                session: session.clone(),
                state: SessionChange::Aborted,
            }),
            Change::Vm(vm) => self.0.publish(Happening::Repository { vm: vm.clone() }),
            Change::Labelled(vm, point) => self.0.publish(Happening::Point {
                vm: vm.clone(),
                point: point.clone(),
                is_there: true,
            }),
            Change::Forgotten(vm, points) => {
                for point in points {
                    self.0.publish(Happening::Point {
                        vm: vm.clone(),
                        point: point.clone(),
                        is_there: false,
                    });
                }
            }
        }
    }
}

impl OwnedRepository {
    /// Creates the repository; its NBD server listens on these Unix sockets. `access` is the table
    /// as this repository sees it ([`LiveAccess::of_repository`]).
    #[must_use]
    pub fn new(
        sessions: Arc<Registry>,
        nbd_sockets: Vec<PathBuf>,
        access: Arc<LiveAccess>,
    ) -> Arc<Self> {
        let events = EventBus::new();
        sessions.add_hook(Box::new(Announcer(Arc::clone(&events))));
        let clock = Arc::clone(sessions.engine().owner.clock());
        metrics::process::note_start(clock.now());
        Arc::new(Self {
            sessions,
            tasks: TaskTable::new(clock),
            events,
            nbd_sockets,
            nbd_tcp: OnceLock::new(),
            host: OnceLock::new(),
            login: OnceLock::new(),
            access,
            audit: OnceLock::new(),
            looks: Arc::default(),
            works: Works::default(),
            elsewhere: OnceLock::new(),
        })
    }

    /// Sets the URI below which exports are served over TCP. Called at most once.
    pub fn set_tcp(&self, base: String) {
        // A second call would be a programming error, and is ignored.
        let _ = self.nbd_tcp.set(base);
    }

    /// Sets the daemon around the repository. Called at most once.
    pub fn set_host(&self, host: Arc<dyn Host>) {
        // A second call would be a programming error, and is ignored.
        let _ = self.host.set(host);
    }

    /// Sets what makes logins to the web pages. Called at most once.
    pub fn set_login(&self, login: Arc<dyn Login>) {
        // A second call would be a programming error, and is ignored.
        let _ = self.login.set(login);
    }

    /// A login for a caller.
    pub(super) fn make_login(&self, caller: &Caller) -> Result<LoginAnswer> {
        match self.login.get() {
            Some(login) => login.make(caller),
            None => Err(
                Error::not_found("no daemon serves web pages of this repository")
                    .advise("start it with --http 127.0.0.1:8420, or set http.listen"),
            ),
        }
    }

    /// Sets the audit log; without one, acts go to the log of the process. Called at most once.
    pub fn set_audit(&self, audit: Arc<AuditLog>) {
        // A second call would be a programming error, and is ignored.
        let _ = self.audit.set(audit);
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog {
        self.audit.get_or_init(Arc::default)
    }

    /// The access table as this repository sees it.
    #[must_use]
    pub const fn access(&self) -> &Arc<LiveAccess> {
        &self.access
    }

    /// The name by which the access table and the audit log know the repository.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.access.repository();
        name.map_or(DEFAULT_NAME, RepositoryName::as_str)
    }

    /// Sets the way to other repositories. Called at most once.
    pub fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        // A second call would be a programming error, and is ignored.
        let _ = self.elsewhere.set(elsewhere);
    }

    pub(super) fn elsewhere(&self) -> Option<&Arc<dyn Elsewhere>> {
        self.elsewhere.get()
    }

    /// Asks all works to stop, and refuses further ones. Each ends as failed, because nobody asked for its end.
    pub fn stop_works(&self) {
        self.works.stop(&self.tasks);
    }

    /// The works that this process does itself.
    #[must_use]
    pub const fn works(&self) -> &Works {
        &self.works
    }

    /// Its open sessions.
    #[must_use]
    pub const fn sessions(&self) -> &Arc<Registry> {
        &self.sessions
    }

    /// The events of the repository.
    #[must_use]
    pub const fn events(&self) -> &Arc<EventBus> {
        &self.events
    }

    /// Unix sockets of its NBD server; the first one is used in URIs.
    #[must_use]
    pub fn nbd_sockets(&self) -> &[PathBuf] {
        &self.nbd_sockets
    }

    /// Whether the TCP address of NBD is known.
    #[must_use]
    pub fn has_tcp(&self) -> bool {
        self.nbd_tcp.get().is_some()
    }

    pub(super) const fn looks(&self) -> &Arc<Flight> {
        &self.looks
    }

    pub(super) const fn tasks(&self) -> &TaskTable {
        &self.tasks
    }

    pub(super) fn host(&self) -> Option<&Arc<dyn Host>> {
        self.host.get()
    }

    /// The answer for the caller that has begun a session.
    pub(super) fn begin_answer(&self, session: &Session) -> BeginAnswer {
        BeginAnswer::of(
            session,
            self.socket(),
            self.nbd_tcp.get().map(String::as_str),
        )
    }

    /// The URIs at which a session can be written over NBD on this machine.
    pub(super) fn nbd_targets(&self, session: &Session) -> String {
        BeginAnswer::of(session, self.socket(), None).nbd_targets_string
    }

    /// The Unix socket that URIs name; empty where there is none.
    fn socket(&self) -> &Path {
        self.nbd_sockets
            .first()
            .map_or(Path::new(""), PathBuf::as_path)
    }

    /// Publishes the begin of a task, which a crash does not make forgotten.
    pub(super) fn note_begin(&self, report: &TaskReport) {
        let owner = &self.sessions.engine().owner;
        owner.note_running(&Job::of_interrupted(report));
        self.note_task(report);
    }

    /// Publishes the progress or end of a task; the job history keeps the end.
    pub(super) fn note_task(&self, report: &TaskReport) {
        if let Some(job) = Job::of_task(report) {
            let owner = &self.sessions.engine().owner;
            owner.keep_job(&job);
            owner.note_not_running(job.job_id);
        }
        self.events.publish(Happening::Task {
            task: report.clone(),
        });
    }

    /// The process, and the addresses where it serves the repository.
    #[must_use]
    pub fn status(&self) -> Status {
        let mounts = self.host().map(|host| host.mounts()).unwrap_or_default();
        let repository = self.sessions.engine().owner.repository();
        Status {
            repository: repository
                .store()
                .local_root()
                .map_or_else(PathBuf::new, Into::into),
            mountpoint: mounts.first().map(|mount| mount.mountpoint.clone()),
            mounts,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nbd_sockets: self.nbd_sockets.clone(),
            nbd_tcp: self.nbd_tcp.get().cloned(),
        }
    }
}

/// A repository that a name leads to.
pub enum Destination {
    /// This process serves it. It is held weakly: work must not keep the lock of another repository.
    Served(Weak<OwnedRepository>),
    /// Another process does, or none.
    Registered(Registered),
}

impl Destination {
    /// The repository, for reading.
    ///
    /// # Errors
    /// `Disconnected` when it is not served any more; as [`Registered::open`].
    pub(super) fn open(&self) -> Result<Arc<Repository>> {
        match self {
            Self::Served(there) => {
                let there = still_served(there)?;
                Ok(Arc::clone(there.sessions().engine().owner.repository()))
            }
            Self::Registered(entry) => entry.open().map(Arc::new),
        }
    }
}

/// The repository, while this process serves it.
///
/// # Errors
/// `Disconnected`.
pub(super) fn still_served(there: &Weak<OwnedRepository>) -> Result<Arc<OwnedRepository>> {
    there.upgrade().ok_or_else(|| {
        Error::new(
            ErrorKind::Disconnected,
            "the other repository is not served any more",
        )
    })
}

/// The way from a repository to others.
pub trait Elsewhere: Send + Sync {
    /// The repository of a name of the register, or of one that this process serves; no other one is opened.
    ///
    /// # Errors
    /// `NotFound` when nothing has the name; as [`Register::load`](crate::repo::register::Register::load).
    fn find(&self, name: &RepositoryName) -> Result<Destination>;

    /// The operations of a repository that this process does not serve: those of its daemon, or with its lock, for as long as the value
    /// lives. Waits a while for a lock of another process; `monitor` ends the wait.
    ///
    /// # Errors
    /// `Locked`; `Cancelled`; those of connecting to a daemon and of taking the lock.
    fn writer(&self, to: &Arc<Repository>, monitor: &Monitor) -> Result<Box<dyn Service>>;
}
