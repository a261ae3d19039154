//! The desk: what commands ask for on the control socket is done here, on the one table of open sessions.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::control::{BeginAnswer, CommitAnswer, Hello, SessionAnswer, Status, Welcome};
use super::mount_table::MountTable;
use crate::error::Result;
use crate::ingest::{BeginRequest, CommitRequest, Registry, Telling};
use crate::repo::{Ending, Job};
use crate::types::{PointName, VmName};

/// Does what a request on the control socket asks for.
pub(super) struct Desk {
    sessions: Arc<Registry>,
    mounts: Arc<MountTable>,
    nbd_sockets: Vec<PathBuf>,
    nbd_tcp: OnceLock<String>,
}

impl Desk {
    pub(super) fn new(
        sessions: Arc<Registry>,
        mounts: Arc<MountTable>,
        nbd_sockets: Vec<PathBuf>,
    ) -> Self {
        Self {
            sessions,
            mounts,
            nbd_sockets,
            nbd_tcp: OnceLock::new(),
        }
    }

    /// Sets the URI below which exports are served over TCP. Once.
    pub(super) fn set_tcp(&self, base: String) {
        // A second caller would be a mistake of the wiring, and is ignored.
        let _ = self.nbd_tcp.set(base);
    }

    pub(super) const fn sessions(&self) -> &Arc<Registry> {
        &self.sessions
    }

    pub(super) const fn mounts(&self) -> &Arc<MountTable> {
        &self.mounts
    }

    /// Whether it is known where NBD listens on TCP.
    pub(super) fn has_tcp(&self) -> bool {
        self.nbd_tcp.get().is_some()
    }

    /// NBD sockets, the first being the one in URIs.
    pub(super) fn nbd_sockets(&self) -> &[PathBuf] {
        &self.nbd_sockets
    }

    /// What a command is answered that says which repository it means.
    pub(super) fn welcome(&self, hello: &Hello) -> Result<Welcome> {
        hello.answer(self.sessions.engine().owner.site())
    }

    pub(super) fn status(&self) -> Status {
        let mounts = self.mounts.list();
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

    /// Keeps in the history that a backup failed before a session began.
    pub(super) fn note_failure(&self, vm: &VmName, reason: &str) {
        let owner = &self.sessions.engine().owner;
        let now = owner.clock().now();
        owner.keep_job(&Job::of_failure(vm, reason, now, now));
    }

    pub(super) fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        let session = self.sessions.begin(request, Telling::Wait)?;
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
        let vm = self.sessions.require(vm, name)?.vm();
        let point = self.sessions.commit(&vm, name, request, Telling::Wait)?;
        Ok(CommitAnswer { vm, point })
    }

    pub(super) fn attach(
        &self,
        vm: &VmName,
        name: &PointName,
        file: &str,
        content: &[u8],
    ) -> Result<()> {
        self.sessions.require(vm, name)?.attach(file, content)
    }

    pub(super) fn end(&self, vm: &VmName, name: &PointName, ending: &Ending) -> Result<()> {
        self.sessions.end(vm, name, ending, Telling::Wait)
    }

    pub(super) fn list(&self) -> Vec<SessionAnswer> {
        let sessions = self.sessions.all();
        sessions
            .iter()
            .map(|session| SessionAnswer::of(session))
            .collect()
    }
}
