//! Open sessions.

use std::collections::HashMap;

use super::{View, absent, missing_right};
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::Session;
use crate::repo::sidecar::index::PointEntry;
use crate::service::{
    BeginAnswer, BeginRequest, CommitAnswer, CommitRequest, SessionAnswer, committed,
};
use crate::types::sync::Mutex;
use crate::types::{JobId, SessionId, SessionRef, VmName};

/// An open session as its caller sees it.
pub type SessionView = SessionAnswer;

/// The requests that have begun the open sessions.
#[derive(Default)]
pub(super) struct BegunRequests(Mutex<HashMap<SessionId, BeginRequest>>);

impl BegunRequests {
    fn get(&self, id: SessionId) -> Option<BeginRequest> {
        self.0.lock().get(&id).cloned()
    }

    /// Keeps a request, and drops those of sessions that have ended.
    fn put(&self, id: SessionId, request: &BeginRequest, is_open: impl Fn(SessionId) -> bool) {
        let mut all = self.0.lock();
        all.retain(|id, _| is_open(*id));
        all.insert(id, request.clone());
    }
}

/// Whether an open session is what a request asks for, as far as the session tells: this process has not begun it over HTTP.
fn is_as_asked(session: &Session, request: &BeginRequest) -> bool {
    let sidecar = session.sidecar();
    let has = |wanted: &crate::service::DiskRequest| {
        let mut disks = sidecar.disks.iter();
        disks
            .find(|disk| disk.name.same_as(&wanted.name))
            .is_some_and(|disk| {
                wanted
                    .source_bytes
                    .is_none_or(|size| size == disk.source_bytes)
                    && wanted.key.as_ref().is_none_or(|key| *key == disk.key)
            })
    };
    let is_point = request
        .point
        .as_ref()
        .is_none_or(|point| sidecar.point.as_ref().is_some_and(|own| own.same_as(point)));
    is_point && request.disks.iter().all(has)
}

impl View {
    /// Refuses a caller that may not write the VM.
    fn check_ingest(&self, vm: &VmName) -> Result<()> {
        match (self.may(Right::Ingest, vm), self.may(Right::Read, vm)) {
            (true, _) => Ok(()),
            (false, true) => Err(missing_right(Right::Ingest, vm)),
            (false, false) => Err(absent(vm)),
        }
    }

    /// The same for an operation that has not been noted otherwise: a refusal is.
    fn demand_ingest(&self, operation: &str, session: &SessionRef) -> Result<()> {
        let allowed = self.check_ingest(&session.vm);
        if allowed.is_err() {
            let name = session.session.as_str();
            self.local()
                .note_result(operation, &session.vm, name, &allowed);
        }
        allowed
    }

    /// The open sessions of a VM.
    ///
    /// # Errors
    /// `NotFound` for a VM that the caller may neither read nor write, and for one that does not exist.
    pub fn sessions(&self, vm: &VmName) -> Result<Vec<SessionView>> {
        if !self.may(Right::Read, vm) && !self.may(Right::Ingest, vm) {
            return Err(absent(vm));
        }
        let open = self.local().registry().of_vm(vm);
        if open.is_empty() {
            self.tree().vm(vm)?;
        }
        Ok(open.iter().map(|one| SessionAnswer::of(one)).collect())
    }

    /// One open session.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn session(&self, session: &SessionRef) -> Result<SessionView> {
        if !self.may(Right::Read, &session.vm) && !self.may(Right::Ingest, &session.vm) {
            return Err(absent(&session.vm));
        }
        let registry = self.local().registry();
        let open = registry.require(&session.vm, &session.session)?;
        Ok(SessionAnswer::of(&open))
    }

    /// The session, for a caller that may write it.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied`.
    pub fn session_to_write(&self, session: &SessionRef) -> Result<()> {
        self.demand_ingest("attach", session)?;
        let registry = self.local().registry();
        registry.require(&session.vm, &session.session).map(drop)
    }

    /// Begins a session, or finds the one that an equal request has begun; returns whether it is new.
    ///
    /// # Errors
    /// `AlreadyExists` when a session of that name is open that was begun otherwise; as [`Service::begin`](crate::service::Service::begin).
    pub fn begin(
        &self,
        session: &SessionRef,
        request: &BeginRequest,
    ) -> Result<(bool, BeginAnswer)> {
        self.demand_ingest("begin", session)?;
        let open = || self.local().registry().get(&session.vm, &session.session);
        if let Some(open) = open() {
            return Ok((false, self.begun(session, &open, request)?));
        }
        match self.service().begin(request) {
            Ok(answer) => {
                if let Some(open) = open() {
                    let id = open.sidecar().session_id;
                    self.shared.begun.put(id, request, |id| self.is_open(id));
                }
                Ok((true, answer))
            }
            // The same request on another connection was faster.
            Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::Busy) => {
                let open = open().ok_or(e)?;
                Ok((false, self.begun(session, &open, request)?))
            }
            Err(e) => Err(e),
        }
    }

    fn is_open(&self, id: SessionId) -> bool {
        let open = self.local().registry().all();
        open.iter().any(|one| one.sidecar().session_id == id)
    }

    /// The answer for an open session, where this request has begun it.
    fn begun(
        &self,
        session: &SessionRef,
        open: &Session,
        request: &BeginRequest,
    ) -> Result<BeginAnswer> {
        let known = self.shared.begun.get(open.sidecar().session_id);
        let is_it = match known {
            Some(known) => known == *request,
            None => is_as_asked(open, request),
        };
        match is_it {
            // The client lives.
            true => {
                open.touch();
                Ok(self.shared.served.begin_answer(open))
            }
            false => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{session} is open, and was begun by another request"),
            )
            .advise("choose another name, or end it first")),
        }
    }

    /// Makes a restore point of a session, or finds the one that it has made.
    ///
    /// # Errors
    /// As [`Service::commit`](crate::service::Service::commit).
    pub fn commit(
        &self,
        session: &SessionRef,
        request: &CommitRequest,
    ) -> Result<(VmName, PointEntry)> {
        match self.service().commit(session, request) {
            Ok(CommitAnswer { vm, point }) => Ok((vm, point)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.check_ingest(&session.vm)?;
                let made = committed(self.repository(), session)?.ok_or(e)?;
                Ok((made.vm, made.point))
            }
            Err(e) => Err(e),
        }
    }

    /// Asks a job to stop.
    ///
    /// # Errors
    /// As [`Service::cancel`](crate::service::Service::cancel).
    pub fn cancel(&self, job: JobId) -> Result<()> {
        self.service().cancel(job)
    }

    /// Whether the caller may cancel a job that runs.
    #[must_use]
    pub fn may_cancel(&self, job: JobId) -> bool {
        self.local().may_cancel(job)
    }
}
