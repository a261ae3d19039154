//! A daemon's service that outlives restarts of the daemon.
//!
//! # Invariants
//! - A session that was begun through it is resumable, and has a lease: it ends by itself when the backup has not renewed it for
//!   [`LEASE_SECONDS`].
//! - A commit whose answer was lost is asked for again; the point that it has made is found.

use super::desk::Desk;
use super::made::Made;
use crate::error::{ErrorKind, Result};
use crate::ingest::{BeginRequest, CommitRequest};
use crate::service::{BeginAnswer, CommitAnswer, DiskResult, DiskTarget, Service};
use crate::task::{Monitor, Patience};
use crate::types::SessionRef;
use crate::types::sync::Mutex;

/// Seconds after which a session ends whose backup does not live any more.
pub const LEASE_SECONDS: u64 = 120;

/// The ways of a backup to a daemon that may be restarted.
pub trait Way {
    /// Connects anew.
    ///
    /// # Errors
    /// What connecting returns.
    fn connect(&self) -> Result<Box<dyn Service>>;

    /// The restore point that a session has made.
    ///
    /// # Errors
    /// `Io`.
    fn committed(&self, session: &SessionRef) -> Result<Option<CommitAnswer>>;
}

/// The desk of a daemon.
pub struct Lasting<'a> {
    service: Mutex<Box<dyn Service>>,
    way: &'a dyn Way,
    monitor: Monitor,
}

impl<'a> Lasting<'a> {
    /// The desk of a daemon that `service` is connected to. Nobody waits for it any more when the monitor asks the work to stop.
    #[must_use]
    pub fn new(service: Box<dyn Service>, way: &'a dyn Way, monitor: Monitor) -> Self {
        Self {
            service: Mutex::new(service),
            way,
            monitor,
        }
    }

    fn ask<T>(&self, ask: impl Fn(&dyn Service) -> Result<T>) -> Result<T> {
        let mut patience = Patience::new(&self.monitor);
        loop {
            let lost = match ask(self.service.lock().as_ref()) {
                Err(e) if e.kind() == ErrorKind::Disconnected => e,
                done => return done,
            };
            patience.wait(lost)?;
            let service = loop {
                match self.way.connect() {
                    Ok(service) => break service,
                    // Another release, or another owner: it will not be better.
                    Err(e)
                        if matches!(
                            e.kind(),
                            ErrorKind::Unsupported | ErrorKind::PermissionDenied
                        ) =>
                    {
                        return Err(e);
                    }
                    Err(e) => patience.wait(e)?,
                }
            };
            *self.service.lock() = service;
        }
    }
}

impl Desk for Lasting<'_> {
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        let leased = BeginRequest {
            ttl_seconds: LEASE_SECONDS,
            resumable: true,
            ..request.clone()
        };
        self.service.lock().begin(&leased)
    }

    fn target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget> {
        self.ask(|service| service.disk_target(session, disk))
    }

    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()> {
        self.ask(|service| service.attach(session, name, content))
    }

    fn renew(&self, session: &SessionRef) -> Result<()> {
        self.ask(|service| service.renew(session))
    }

    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<Made> {
        let answer = match self.ask(|service| service.commit(session, request)) {
            Err(e) if e.kind() == ErrorKind::NotFound => self.way.committed(session)?.ok_or(e),
            done => done,
        }?;
        Made::of(&answer)
    }

    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()> {
        let aborted = self.service.lock().abort(session, failure);
        match aborted {
            // The daemon was restarted meanwhile; one that is not there now ends the session by its lease.
            Err(e) if e.kind() == ErrorKind::Disconnected => match self.way.connect() {
                Ok(service) => service.abort(session, failure),
                Err(_) => Err(e),
            },
            done => done,
        }
    }
}
