//! What one caller may read of a repository that this process serves.
//!
//! # Invariants
//! - A VM of which the caller has no right does not exist for the caller: the error is that of a name that nobody has.
//! - Names, facts and health need the right `read`; bytes of disks and of guests' files need `restore`.
//! - Answers are types of their own, not sidecars: a change of the repository's format does not change them.
//!
//! # Concurrency
//! A [`View`] belongs to one request. [`SharedView`] is what all requests share: the tree that the daemon keeps fresh, and what was opened
//! or computed of it lately.

mod archive;
mod calendar;
mod capacity;
mod disk;
mod entry;
mod file;
mod health;
mod job;
mod order;
mod page;
mod point;
mod policy;
mod schedule;
mod selection;
mod session;
mod trash;
mod vm;

pub use archive::{ArchiveChoice, Packed, TreeArchive};
pub use calendar::PointMark;
pub use capacity::{CapacityAnswer, RepositoryAnswer};
pub use disk::{ChunkReader, DiskContent};
pub use entry::{EntryAnswer, EntryKind, Listing};
pub use file::{FileContent, Preview};
pub use health::{StatusAnswer, StatusVm};
pub use job::{JobAnswer, JobChoice, JobDiskAnswer, JobState, jobs_of};
pub use page::{LIMIT_DEFAULT, LIMIT_MAX, Page, Slice};
pub use point::{AttachedAnswer, CopyAnswer, PointAnswer, PointDiskAnswer};
pub use policy::{CopyTerm, PolicyAnswer, PolicyTerms, StandingAnswer};
pub use session::SessionView;
pub use vm::{ChainLayer, VmAnswer};

use std::sync::Arc;

use super::{LocalService, OwnedRepository, Service};
use crate::access::{Access, Caller, Origin, Right};
use crate::chain::Pool;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::selector::Which;
use crate::tree::{PointView, Tree, VmView};
use crate::types::{RepositoryName, VmName};
use disk::OpenDisks;
use order::Orders;
use session::BegunRequests;

/// What all views of one served repository share.
pub struct SharedView {
    name: RepositoryName,
    served: Arc<OwnedRepository>,
    tree: Arc<Tree>,
    pool: Arc<Pool>,
    orders: Orders,
    disks: OpenDisks,
    begun: BegunRequests,
}

impl SharedView {
    /// The views of a repository that is served by this name; `tree` shows all of it, and is kept fresh by the daemon.
    #[must_use]
    pub fn new(
        name: RepositoryName,
        served: &Arc<OwnedRepository>,
        tree: &Arc<Tree>,
        pool: &Arc<Pool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            served: Arc::clone(served),
            tree: Arc::clone(tree),
            pool: Arc::clone(pool),
            orders: Orders::default(),
            disks: OpenDisks::default(),
            begun: BegunRequests::default(),
        })
    }

    /// The name by which it is served.
    #[must_use]
    pub const fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// The repository with its sessions and tasks.
    #[must_use]
    pub const fn served(&self) -> &Arc<OwnedRepository> {
        &self.served
    }

    /// What a caller sees and may do.
    #[must_use]
    pub fn of_caller(self: &Arc<Self>, caller: Caller, origin: Origin) -> View {
        let service = self.served.of_caller(caller, origin);
        View {
            shared: Arc::clone(self),
            access: service.access(),
            service: Arc::new(service),
        }
    }
}

/// What one caller sees of a served repository, and may do with it.
pub struct View {
    shared: Arc<SharedView>,
    /// The access table when the request came: it decides what the request reads. Operations that change something ask the table anew.
    access: Arc<Access>,
    service: Arc<LocalService>,
}

impl View {
    /// The name by which the repository is served.
    #[must_use]
    pub fn name(&self) -> &RepositoryName {
        &self.shared.name
    }

    /// The repository with its sessions and tasks.
    #[must_use]
    pub fn served(&self) -> &Arc<OwnedRepository> {
        &self.shared.served
    }

    /// The operations that change the repository, for the same caller.
    #[must_use]
    pub fn service(&self) -> &dyn Service {
        self.service.as_ref()
    }

    /// The same with what only this process can do.
    #[must_use]
    pub const fn local(&self) -> &Arc<LocalService> {
        &self.service
    }

    fn tree(&self) -> &Arc<Tree> {
        &self.shared.tree
    }

    fn repository(&self) -> &Arc<Repository> {
        self.shared.tree.repository()
    }

    fn now(&self) -> jiff::Timestamp {
        let owner = &self.shared.served.sessions().engine().owner;
        let clock: &Arc<dyn Clock> = owner.clock();
        clock.now()
    }

    /// Whether the caller has a right on a VM.
    #[must_use]
    pub fn may(&self, right: Right, vm: &VmName) -> bool {
        self.service.caller().may(right, Some(vm), &self.access)
    }

    /// Whether the caller has a right on the repository as a whole.
    #[must_use]
    pub fn may_all(&self, right: Right) -> bool {
        self.service.caller().may(right, None, &self.access)
    }

    /// Whether the caller has any right here at all; otherwise the repository does not exist for the caller.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        Right::ALL.into_iter().any(|right| self.may_some(right))
    }

    /// Whether the caller has a right on some VM, which need not exist yet.
    #[must_use]
    pub fn may_some(&self, right: Right) -> bool {
        self.service.caller().may_some(right, &self.access)
    }

    /// The VM, for a caller with this right on it; the search ignores case.
    fn vm_for(&self, vm: &VmName, right: Right) -> Result<Arc<VmView>> {
        if self.may(right, vm) {
            return self.tree().vm(vm);
        }
        if !self.may(Right::Read, vm) {
            return Err(absent(vm));
        }
        let view = self.tree().vm(vm)?;
        Err(missing_right(right, &view.name))
    }

    /// The point, for a caller with this right on its VM.
    fn point_for(&self, vm: &VmName, which: &Which, right: Right) -> Result<Arc<PointView>> {
        self.vm_for(vm, right)?;
        self.tree().point(vm, which)
    }
}

/// The error for a VM that does not exist, or not for this caller.
fn absent(vm: &VmName) -> Error {
    Error::not_found(format!("there is no VM {vm}")).advise("list the VMs with: restorefs ls")
}

fn missing_right(right: Right, vm: &VmName) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!("the right \"{}\" on {vm} is missing", right.as_str()),
    )
    .advise("an administrator gives rights in access.toml, or by a token: restorefs token add")
}
