//! Other repositories, as the owner of one sees them that copies to them.

use std::sync::{Arc, Weak};

use super::{OwnedRepository, Service};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::register::Registered;
use crate::task::Monitor;
use crate::types::RepositoryName;

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
