//! The virtual tree: VMs, points, disks and guest files as nodes with inode numbers. It does not depend on
//! FUSE.
//!
//! ```text
//! /web01/latest -> 2026-11-20_02-00-00
//! /web01/2026-11-20_02-00-00/{info.json, attached/, disks/vda.raw, volumes.json, volumes/vda/part/{1/, 1.raw}}
//! ```
//!
//! # Invariants
//! - Names and listings down to a point's own files come from a [`Snapshot`] in memory: they open no chain.
//! - Everything below a committed point never changes, except `info.json` and `volumes.json`, which have an
//!   inode per version.
//! - Nodes have no state of their own: any inode number can be resolved at any time, so there is nothing to
//!   open and nothing to leak.
//! - Only open sessions (`*.partial`) are writable.
//! - Damage in one volume or file affects only that one; the rest stays available.
//!
//! # Concurrency
//! All methods take `&self` and may be called from many threads. The snapshot is replaced as a whole; a call
//! uses the one with which it began. No lock is held over a read, except that of the object that is being
//! opened.

mod attribute;
mod bytes;
mod cache;
mod disk;
mod document;
mod entry;
mod files;
mod flat;
mod harm;
mod harmed;
mod inode;
mod list;
mod location;
mod lookup;
mod node;
mod parent;
mod probe;
mod read;
mod rebase;
mod refusal;
mod session;
mod session_node;
mod shared;
mod snapshot;
mod stat;
mod unread;
mod volume;
mod volume_node;
mod xattr;

pub mod path;

pub use attribute::{Attributes, Found, TreeOptions, Ttl};
pub use entry::DirEntry;
pub use harm::Harm;
pub use harmed::{Harmed, HarmedKind};
pub use inode::Ino;
pub use session::{Allocation, NewAttributes, NewTime, Sessions};
pub use snapshot::{PointView, Snapshot, VmView};
pub use unread::Unread;

use std::sync::Arc;

use crate::chain::{Disk, Pool};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::DiskEntry;
use crate::store::Space;
use crate::types::size::Count;
use crate::types::sync::{Mutex, RwLock};
use crate::types::{DiskName, VmName};
use session::OpenSessions;
use shared::SharedState;
use snapshot::Loader;

/// The nodes of a repository, by inode number.
pub struct Tree {
    repository: Arc<Repository>,
    options: TreeOptions,
    shared: Arc<SharedState>,
    /// The part of the repository that this tree shows now.
    snapshot: RwLock<Arc<Snapshot>>,
    progress: Mutex<Progress>,
    /// Open sessions, where they can be written through this tree.
    open_sessions: Option<OpenSessions>,
}

/// The state of a tree's refreshes.
#[derive(Default)]
struct Progress {
    /// All VMs and points, as this tree saw them last.
    taken: Arc<Snapshot>,
    /// Changes that were not reported yet.
    untold: Vec<Ino>,
}

/// A disk of a committed point.
pub struct PointDiskView {
    /// The point.
    pub point: Arc<PointView>,
    /// The index entry of the disk. The object has its `size_bytes`; the source had `source_bytes`.
    pub entry: DiskEntry,
    /// Its content.
    pub disk: Arc<Disk>,
}

impl Tree {
    /// The tree of a repository in its present state.
    ///
    /// # Errors
    /// `Io` when the VMs cannot be listed. An unreadable VM is skipped and logged.
    pub fn new(
        repository: Arc<Repository>,
        pool: Arc<Pool>,
        options: TreeOptions,
    ) -> Result<Arc<Self>> {
        let shared = SharedState::new(&repository, pool, &options, Loader::default());
        Self::with(repository, shared, options, None)
    }

    /// The tree of a single VM, for a caller that reads its points and mounts nothing. Other VMs are not
    /// read, so inode numbers may differ from those in a tree of all VMs.
    ///
    /// # Errors
    /// As [`Tree::new`].
    pub fn of_vm(
        repository: Arc<Repository>,
        pool: Arc<Pool>,
        options: TreeOptions,
        vm: VmName,
    ) -> Result<Arc<Self>> {
        let shared = SharedState::new(&repository, pool, &options, Loader::of_vm(vm));
        Self::with(repository, shared, options, None)
    }

    /// Another view of the same repository that shows open sessions and lets them be written. It shares the
    /// first tree's open objects, caches, memory limits, reader isolation and ownership of the repository.
    ///
    /// # Errors
    /// As [`Tree::new`].
    pub fn beside(&self, options: TreeOptions, sessions: Arc<dyn Sessions>) -> Result<Arc<Self>> {
        let options = TreeOptions {
            writable: self.options.writable,
            isolation: self.options.isolation.clone(),
            memory: self.options.memory,
            harm: self.options.harm.clone(),
            ..options
        };
        let (repository, shared) = (Arc::clone(&self.repository), Arc::clone(&self.shared));
        Self::with(
            repository,
            shared,
            options,
            Some(OpenSessions::new(sessions)),
        )
    }

    fn with(
        repository: Arc<Repository>,
        shared: Arc<SharedState>,
        options: TreeOptions,
        open_sessions: Option<OpenSessions>,
    ) -> Result<Arc<Self>> {
        let tree = Self {
            repository,
            options,
            shared,
            snapshot: RwLock::default(),
            progress: Mutex::default(),
            open_sessions,
        };
        tree.refresh()?;
        Ok(Arc::new(tree))
    }

    /// The repository that the tree shows.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The options of the tree.
    #[must_use]
    pub fn options(&self) -> &TreeOptions {
        &self.options
    }

    /// Whether the tree shows open sessions and lets them be written.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.open_sessions.is_some()
    }

    /// VMs and points as of the last refresh.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Reads changed indexes, and returns the nodes whose cached data are now invalid.
    ///
    /// # Errors
    /// `Io` when the VMs cannot be listed; the tree stays as it was.
    pub fn refresh(&self) -> Result<Vec<Ino>> {
        let mut progress = self.progress.lock();
        let new = self.load(&mut progress)?;
        let mut changes = std::mem::take(&mut progress.untold);
        changes.extend(new);
        drop(progress);
        if let Some(open_sessions) = &self.open_sessions {
            let snapshot = self.snapshot();
            changes.extend(open_sessions.changes(|vm| snapshot.vm(vm).map(|vm| vm.ino())));
        }
        Ok(changes)
    }

    /// The same for an operation that changed something itself and looks for it next; the invalid nodes are
    /// reported later.
    fn refresh_quietly(&self) -> Result<()> {
        let mut progress = self.progress.lock();
        let changes = self.load(&mut progress)?;
        progress.untold.extend(changes);
        Ok(())
    }

    fn load(&self, progress: &mut Progress) -> Result<Vec<Ino>> {
        let all = self.shared.load(&self.repository)?;
        if Arc::ptr_eq(&all, &progress.taken) {
            return Ok(Vec::new());
        }
        let new = if self.options.vms.is_empty() {
            Arc::clone(&all)
        } else {
            Arc::new(all.only(|vm| self.options.shows(vm)))
        };
        let changes = snapshot::changes(&self.snapshot(), &new);
        *self.snapshot.write() = new;
        progress.taken = all;
        Ok(changes)
    }

    /// The VM of that name; the search ignores case.
    ///
    /// # Errors
    /// `NotFound` naming the VM; `Corrupt` when its sidecar is damaged.
    pub fn vm(&self, name: &VmName) -> Result<Arc<VmView>> {
        let snapshot = self.snapshot();
        let found = snapshot
            .vm(name.as_str())
            .or_else(|| snapshot.vms().find(|view| view.name.same_as(name)));
        found
            .cloned()
            .ok_or_else(|| match self.repository.vm(name) {
                // A damaged VM is not shown.
                Err(error) if error.kind() == ErrorKind::Corrupt => error,
                _ => Error::not_found(format!("there is no VM {name}"))
                    .advise("list the VMs with: restorefs ls"),
            })
    }

    /// The point of a selector; the search for VM and point ignores case.
    ///
    /// # Errors
    /// `NotFound` naming VM and point.
    pub fn point(&self, vm: &VmName, which: &Which) -> Result<Arc<PointView>> {
        let view = self.vm(vm)?;
        let missing = |what: String| {
            Error::not_found(what).advise(format!("list the points with: restorefs ls {vm}"))
        };
        let found = match which {
            Which::Named(name) => view
                .points
                .iter()
                .find(|point| point.entry.name.same_as(name)),
            Which::Latest(back) => {
                let mut points: Vec<_> = view.points.iter().collect();
                points.sort_by_key(|point| std::cmp::Reverse(point.entry.seq));
                points.get(*back).copied()
            }
        };
        found.cloned().ok_or_else(|| match which {
            Which::Named(name) => missing(format!("there is no restore point {vm}@{name}")),
            Which::Latest(_) if view.points.is_empty() => {
                missing(format!("{vm} has no restore points yet"))
            }
            Which::Latest(_) => missing(format!(
                "{vm} has only {}",
                Count::of(view.points.len(), "restore point")
            )),
        })
    }

    /// Names of a point's disks.
    #[must_use]
    pub fn disk_names(&self, point: &PointView) -> Vec<DiskName> {
        let disks = self.shared.disks.facts(point).disks;
        disks.into_iter().map(|disk| disk.name).collect()
    }

    /// Opens a disk of a point, for callers that serve whole disks.
    ///
    /// # Errors
    /// `NotFound`; errors of opening the chain.
    pub fn open_disk(&self, vm: &VmName, which: &Which, disk: &DiskName) -> Result<PointDiskView> {
        let point = self.point(vm, which)?;
        let facts = self.shared.disks.facts(&point);
        let index = facts
            .disks
            .iter()
            .position(|entry| entry.name.same_as(disk))
            .ok_or_else(|| {
                Error::not_found(format!("{vm}@{} has no disk {disk}", point.entry.name))
            })?;
        Ok(PointDiskView {
            entry: self.shared.disks.entry(&point, index)?,
            disk: self.shared.disks.disk(&point, index)?,
            point,
        })
    }

    /// Space in the repository; `None` where the store has no such numbers.
    ///
    /// # Errors
    /// `Io`.
    pub fn space(&self) -> Result<Option<Space>> {
        self.repository.store().space()
    }
}
