//! What every command needs: the repository, its owner or its daemon, and where to print.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::output::Output;
use crate::chain::{Pool, PoolLimits};
use crate::clock::SystemClock;
use crate::daemon::control::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::Engine;
use crate::repo::selector::Selector;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::repo::sidecar::point::Point;
use crate::repo::{Owner, Repository};

/// Everything a command runs with.
pub(super) struct Context {
    repo: Option<PathBuf>,
    /// Where to print.
    pub(super) output: Output,
}

/// Whoever can write to the repository.
pub(super) enum Writer {
    /// A daemon has the lock.
    Daemon(Client),
    /// This process has it.
    Here(Arc<Owner>),
}

impl Context {
    /// A context from the global flags.
    #[must_use]
    pub(super) const fn new(repo: Option<PathBuf>, output: Output) -> Self {
        Self { repo, output }
    }

    /// Path of the repository.
    ///
    /// # Errors
    /// `InvalidInput` when none was named.
    pub(super) fn path(&self) -> Result<&Path> {
        self.repo.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::NoRepository, "no repository was named")
                .advise("use --repo DIR, or set RESTOREFS_REPO")
        })
    }

    /// Opens the repository for reading.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub(super) fn repository(&self) -> Result<Arc<Repository>> {
        Repository::open(self.path()?).map(Arc::new)
    }

    /// Finds the daemon that owns the repository, or takes the lock. `role` is what the lock says of us.
    ///
    /// # Errors
    /// `Locked` when another process than a daemon has it; as [`Owner::open`].
    pub(super) fn writer(&self, role: &str) -> Result<Writer> {
        let repository = self.repository()?;
        if let Some(client) = Client::connect(repository.format().repository_id)? {
            return Ok(Writer::Daemon(client));
        }
        Ok(Writer::Here(Arc::new(Owner::open(
            repository,
            Arc::new(SystemClock),
            role,
        )?)))
    }

    /// The pool for chains.
    #[must_use]
    pub(super) fn pool(&self) -> Arc<Pool> {
        // More descriptors make deep chains faster; without them the pool just reopens layers.
        let _ = crate::sys::limit::raise_open_files();
        Pool::new(PoolLimits::default())
    }

    /// The engine over an owner.
    #[must_use]
    pub(super) fn engine(&self, owner: &Arc<Owner>) -> Engine {
        Engine::new(Arc::clone(owner), self.pool())
    }
}

/// Finds a point.
///
/// # Errors
/// `NotFound`; `Corrupt`; `Io`.
pub(super) fn find(
    repository: &Repository,
    selector: &Selector,
) -> Result<(Index, PointEntry, Point)> {
    let vm = repository.spelled(&selector.vm)?;
    let index = repository.index(&vm)?;
    let entry = selector.which.find(&index)?.clone();
    let point = repository.point(&vm, &entry)?;
    Ok((index, entry, point))
}
