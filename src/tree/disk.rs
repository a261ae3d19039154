//! The disks of points: opened at the first read, a bounded number at a time.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::cache::Flights;
use super::harm::Harm;
use super::snapshot::PointView;
use crate::block::{Extent, ReadAt, check_range};
use crate::chain::{Disk, Pool};
use crate::error::{Error, Result};
use crate::metrics::cache::Cache;
use crate::point::ChainSource;
use crate::repo::Repository;
use crate::repo::sidecar::index::{DiskEntry, PointEntry};
use crate::repo::sidecar::point::Point;
use crate::types::PointId;
use crate::types::width::u64_from_usize;

/// LIMIT: open disks. Each holds the ids of its layers; the pool limits the layers themselves.
const DISKS_OPEN: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// LIMIT: sidecars of points kept decoded.
const POINTS_KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Opens disks.
pub(super) struct Disks {
    repository: Arc<Repository>,
    pool: Arc<Pool>,
    writable: bool,
    harm: Arc<Harm>,
    open: Flights<(PointId, usize), Arc<Disk>>,
    points: Flights<PointId, Arc<Point>>,
}

impl Disks {
    pub(super) fn new(
        repository: Arc<Repository>,
        pool: Arc<Pool>,
        writable: bool,
        harm: Arc<Harm>,
    ) -> Arc<Self> {
        Arc::new(Self {
            repository,
            pool,
            writable,
            harm,
            open: Flights::new(DISKS_OPEN, Cache::TreeDisks),
            points: Flights::new(POINTS_KEPT, Cache::TreePoints),
        })
    }

    /// The sidecar of a point.
    pub(super) fn point(&self, view: &PointView) -> Result<Arc<Point>> {
        self.points.get_or(
            view.entry.point_id,
            |_| true,
            || self.repository.point(&view.vm, &view.entry).map(Arc::new),
        )
    }

    /// The facts about a point from its own sidecar; from the index while the sidecar cannot be read.
    pub(super) fn facts(&self, view: &PointView) -> PointEntry {
        match self.point(view) {
            Ok(point) => PointEntry::of(&point, view.entry.point_blake3, view.entry.serial),
            Err(_) => view.entry.clone(),
        }
    }

    /// The index entry of the disk at that position.
    pub(super) fn entry(&self, view: &PointView, index: usize) -> Result<DiskEntry> {
        let mut disks = self.facts(view).disks;
        if index < disks.len() {
            return Ok(disks.swap_remove(index));
        }
        Err(Error::not_found("no such disk"))
    }

    /// The disk at that position.
    pub(super) fn disk(&self, view: &PointView, index: usize) -> Result<Arc<Disk>> {
        let make = || {
            let point = self.point(view)?;
            let disk = point.disks.get(index);
            let disk = disk.ok_or_else(|| Error::not_found("no such disk"))?;
            ChainSource::new(&self.repository, &view.vm, view.vm_id, self.writable)
                .open_disk(&self.pool, &disk.layer)
                .map(Arc::new)
        };
        self.open
            .get_or((view.entry.point_id, index), |_| true, make)
    }

    /// All disks of a point; none is opened yet.
    pub(super) fn all(self: &Arc<Self>, view: &Arc<PointView>) -> Vec<Arc<dyn ReadAt>> {
        self.facts(view)
            .disks
            .iter()
            .enumerate()
            .map(|(index, disk)| self.lazy(view, index, disk.size_bytes))
            .collect()
    }

    /// The first `size_bytes` of a disk, which is opened when it is read.
    pub(super) fn lazy(
        self: &Arc<Self>,
        view: &Arc<PointView>,
        index: usize,
        size_bytes: u64,
    ) -> Arc<dyn ReadAt> {
        Arc::new(LazyDisk {
            disks: Arc::clone(self),
            point: Arc::clone(view),
            index,
            size_bytes,
        })
    }
}

/// A disk that is looked up at each read, so that the limit of open disks holds for all its users.
struct LazyDisk {
    disks: Arc<Disks>,
    point: Arc<PointView>,
    index: usize,
    size_bytes: u64,
}

impl LazyDisk {
    fn place(&self, error: Error) -> Error {
        error.at_path(format!("{}@{}", self.point.vm, self.point.entry.name))
    }
}

impl ReadAt for LazyDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let length = u64_from_usize(buf.len());
        check_range(self.size_bytes, offset, length)?;
        let id = self.point.entry.point_id;
        self.disks.harm.check(id, self.index, offset, length)?;
        self.disks
            .disk(&self.point, self.index)
            .and_then(|disk| disk.read_at(offset, buf))
            .map_err(|e| self.place(e))
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.size_bytes, offset, length_max)?;
        self.disks
            .disk(&self.point, self.index)
            .and_then(|disk| disk.extent_at(offset, length_max))
            .map_err(|e| self.place(e))
    }
}
