//! A daemon's service that outlives restarts of the daemon.
//!
//! # Invariants
//! - A session that was begun through it is resumable, and has a lease: it ends by itself when the backup has not renewed it for
//!   [`LEASE_SECONDS`].
//! - A commit whose answer was lost is asked for again; the point that it has made is found.

use super::desk::Desk;
use super::made::Made;
use super::patience::Patience;
use crate::error::{ErrorKind, Result};
use crate::ingest::{BeginRequest, CommitRequest};
use crate::service::{BeginAnswer, CommitAnswer, DiskResult, DiskTarget, Service};
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
}

impl<'a> Lasting<'a> {
    /// The desk of a daemon that `service` is connected to.
    #[must_use]
    pub fn new(service: Box<dyn Service>, way: &'a dyn Way) -> Self {
        Self {
            service: Mutex::new(service),
            way,
        }
    }

    fn ask<T>(&self, ask: impl Fn(&dyn Service) -> Result<T>) -> Result<T> {
        let mut patience = Patience::default();
        loop {
            let lost = match ask(self.service.lock().as_ref()) {
                Err(e) if e.kind() == ErrorKind::Disconnected => e,
                done => return done,
            };
            patience.wait(lost)?;
            let service = loop {
                match self.way.connect() {
                    Ok(service) => break service,
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
        self.ask(|service| service.abort(session, failure))
    }
}
