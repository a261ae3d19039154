//! Who may change a repository now: the daemon that owns it, or this process with the lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access::{Caller, Door, LiveAccess, Origin};
use crate::chain::Pool;
use crate::clock::SystemClock;
use crate::control::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{Engine, Registry};
use crate::repo::{Owner, Repository};
use crate::service::{OwnedRepository, Service};

/// Pause between attempts to take the lock.
pub const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// How long a step waits for the lock that comes after long work, which would be lost.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Access to change a repository.
pub struct Writer {
    /// The operations.
    pub service: Box<dyn Service>,
    /// The holder of the lock, when that is this process.
    pub owner: Option<Arc<Owner>>,
}

/// The means of a process that takes the lock.
pub struct WriterMeans<'a> {
    /// The role of the process, which the lock names.
    pub role: &'a str,
    /// The pool for chains.
    pub pool: &'a dyn Fn() -> Arc<Pool>,
    /// Bytes of memory for the tables of layers that are written.
    pub ingest_bytes: u64,
}

impl Writer {
    /// Connects to the daemon that owns the repository, or takes the lock.
    ///
    /// # Errors
    /// `Locked` when a process other than a daemon has it; as [`Owner::open`] and [`Client::connect`].
    pub fn open(repository: Arc<Repository>, means: &WriterMeans<'_>) -> Result<Self> {
        if let Some(client) = Client::connect(&repository)? {
            return Ok(Self {
                service: Box::new(client),
                owner: None,
            });
        }
        let owner = Arc::new(Owner::open(repository, Arc::new(SystemClock), means.role)?);
        let sessions = Registry::empty(Engine::with_budget(
            Arc::clone(&owner),
            (means.pool)(),
            means.ingest_bytes,
        ));
        let service = OwnedRepository::new(sessions, Vec::new(), LiveAccess::none())
            .of_caller(Caller::Owner, Origin::of(Door::Command));
        Ok(Self {
            service: Box::new(service),
            owner: Some(owner),
        })
    }
}

/// Calls `open` until it does not answer `Locked`, for at most `wait`. `waiting` is called after each refusal; it ends the wait with its
/// error.
///
/// # Errors
/// Those of `open` and `waiting`.
pub fn patiently<T>(
    wait: Duration,
    mut open: impl FnMut() -> Result<T>,
    mut waiting: impl FnMut(&Error) -> Result<()>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(e) if e.kind() == ErrorKind::Locked && begun.elapsed() < wait => {
                waiting(&e)?;
                std::thread::sleep(LOCK_PAUSE);
            }
            other => return other,
        }
    }
}
