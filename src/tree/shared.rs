//! State of a repository that all trees of one process share: opened objects, caches, and the meaning of
//! inode numbers.
//!
//! # Why
//! Mounts of one repository show it to different users in different ways. But its objects are opened and
//! cached once, within one memory budget.
//!
//! # Invariants
//! An inode number has the same meaning in all trees. So serials are unique among all VMs, including those
//! that a tree does not show, and there is one table of numbers.

use std::num::NonZeroUsize;
use std::sync::{Arc, MutexGuard};

use lru::LruCache;

use super::attribute::TreeOptions;
use super::cache::Flights;
use super::disk::Disks;
use super::flat::Flats;
use super::inode::{Ino, Table};
use super::probe::Kept;
use super::snapshot::{Loader, Snapshot};
use super::volume::Scanner;
use crate::block::{ReadAt, Weighted};
use crate::chain::Pool;
use crate::error::Result;
use crate::metrics::cache::Cache;
use crate::repo::Repository;
use crate::types::PointId;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;

/// LIMIT: points whose volumes from the state are cached.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// LIMIT: guest directories whose parent is cached.
const PARENTS_KEPT: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// State of a repository that the trees of one process share.
pub(super) struct SharedState {
    pub(super) disks: Arc<Disks>,
    pub(super) flats: Flats,
    pub(super) scanner: Arc<Scanner>,
    pub(super) table: Table,
    pub(super) kept: Flights<PointId, Kept>,
    pub(super) contents: Weighted<Ino, Arc<dyn ReadAt>>,
    pub(super) documents: Weighted<Ino, Arc<[u8]>>,
    parents: Mutex<LruCache<Ino, Ino>>,
    source: Mutex<Source>,
}

/// All VMs and points, as they were read last.
struct Source {
    loader: Loader,
    snapshot: Arc<Snapshot>,
}

impl SharedState {
    pub(super) fn new(
        repository: &Arc<Repository>,
        pool: Arc<Pool>,
        options: &TreeOptions,
        loader: Loader,
    ) -> Arc<Self> {
        let memory = options.memory;
        let harm = Arc::clone(&options.harm);
        let disks = Disks::new(Arc::clone(repository), pool, options.writable, harm);
        Arc::new(Self {
            scanner: Arc::new(Scanner::new(&disks, options)),
            table: Table::open(repository, options.writable),
            disks,
            flats: Flats::default(),
            kept: Flights::new(KEPT, Cache::TreeVolumes),
            contents: Weighted::metered(usize_from_u64(memory.runs()), Cache::TreeContents),
            documents: Weighted::metered(
                usize_from_u64(memory.document_bytes()),
                Cache::TreeDocuments,
            ),
            parents: Mutex::new(LruCache::new(PARENTS_KEPT)),
            source: Mutex::new(Source {
                loader,
                snapshot: Arc::default(),
            }),
        })
    }

    pub(super) fn parents(&self) -> MutexGuard<'_, LruCache<Ino, Ino>> {
        self.parents.lock()
    }

    /// Reads changed indexes, and returns all VMs and points.
    ///
    /// # Errors
    /// `Io` when the VMs cannot be listed.
    pub(super) fn load(&self, repository: &Repository) -> Result<Arc<Snapshot>> {
        let mut source = self.source.lock();
        let Source { loader, snapshot } = &mut *source;
        if let Some(next) = loader.load(repository, snapshot)? {
            *snapshot = Arc::new(next);
        }
        Ok(Arc::clone(snapshot))
    }
}
