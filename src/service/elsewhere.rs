//! Other repositories, as the owner of one sees them that copies to them.

use std::sync::Arc;

use super::Service;
use crate::access::Caller;
use crate::error::Result;
use crate::repo::Repository;
use crate::repo::register::Registered;
use crate::task::Monitor;
use crate::types::{RepositoryName, VmName};

/// A repository that a name leads to.
pub enum Destination {
    /// This process serves it.
    Served(Arc<Repository>),
    /// Another process does, or none.
    Registered(Registered),
}

impl Destination {
    /// The repository, for reading.
    ///
    /// # Errors
    /// As [`Registered::open`].
    pub(super) fn open(&self) -> Result<Arc<Repository>> {
        match self {
            Self::Served(repository) => Ok(Arc::clone(repository)),
            Self::Registered(entry) => entry.open().map(Arc::new),
        }
    }
}

/// The way from a repository to others.
pub trait Elsewhere: Send + Sync {
    /// The repository of a name of the register, or of one that this process serves; no other one is opened.
    ///
    /// # Errors
    /// `NotFound` when nothing has the name; as [`Register::load`](crate::repo::register::Register::load).
    fn find(&self, name: &RepositoryName) -> Result<Destination>;

    /// Refuses a caller that may not send copies of a VM to a repository that this process serves.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `Disconnected` when it is not served any more.
    fn check_receives(&self, to: &Repository, caller: &Caller, vm: &VmName) -> Result<()>;

    /// The operations of a repository: where this process serves it, those of the caller; else those of its daemon, or with its lock, for
    /// as long as the value lives. Waits a while for a lock of another process; `monitor` ends the wait.
    ///
    /// # Errors
    /// `Locked`; `Cancelled`; those of connecting to a daemon and of taking the lock.
    fn writer(
        &self,
        to: &Arc<Repository>,
        caller: &Caller,
        monitor: &Monitor,
    ) -> Result<Box<dyn Service>>;
}
