//! The parent of a session's disk: its leaves to compare with, its content to complete from.

use std::sync::{Arc, OnceLock};

use crate::block::ReadAt;
use crate::chain::{Disk, Pool};
use crate::error::Result;
use crate::point::{ChainSource, prove};
use crate::repo::Repository;
use crate::repo::content::{CLUSTER_BYTES, PAGE_BYTES, Region, zero_leaf};
use crate::repo::leaves::Leaves;
use crate::repo::sidecar::session::ParentDisk;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;
use crate::types::{Digest, DiskName, GuestCluster, PointName};

/// The parent's disk, open.
pub(super) struct Parent {
    pub(super) leaves: Leaves,
    /// The chain, opened when something must be read: comparing reads no parent.
    disk: OnceLock<Disk>,
    open: Box<dyn Fn() -> Result<Disk> + Send + Sync>,
    /// The leaves of the region that was asked for last: writers come region by region.
    page: Mutex<Option<(Region, Arc<[u8]>)>>,
    size_bytes: u64,
    place: String,
    data_bytes: u64,
}

impl Parent {
    pub(super) fn open(
        repository: &Arc<Repository>,
        pool: &Arc<Pool>,
        source: &Arc<ChainSource>,
        name: &DiskName,
        parent: &ParentDisk,
        point: Option<&PointName>,
    ) -> Result<Self> {
        let leaves = Leaves::open(repository, source.vm(), &parent.layer, parent.content_root)?
            .with_cache(name)?;
        let (source, pool, slot) = (Arc::clone(source), Arc::clone(pool), parent.layer.clone());
        let place = point.map_or_else(
            || parent.layer.to_string(),
            |p| format!("{}@{p} disk {name}", source.vm()),
        );
        Ok(Self {
            leaves,
            disk: OnceLock::new(),
            page: Mutex::default(),
            open: Box::new(move || source.open_disk(&pool, &slot)),
            size_bytes: parent.size_bytes,
            place,
            data_bytes: parent.data_bytes,
        })
    }

    pub(super) const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn disk(&self) -> Result<&Disk> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let opened = (self.open)()?;
        Ok(self.disk.get_or_init(|| opened))
    }

    pub(super) const fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The leaves of a region.
    pub(super) fn page(&self, region: Region) -> Result<Arc<[u8]>> {
        let kept = self.page.lock().clone();
        if let Some((of, page)) = kept
            && of == region
        {
            return Ok(page);
        }
        let mut page = vec![0; PAGE_BYTES];
        self.leaves.load_page(region, &mut page)?;
        let page: Arc<[u8]> = page.into();
        *self.page.lock() = Some((region, Arc::clone(&page)));
        Ok(page)
    }

    /// Bytes of the parent, zeroes past its end; not checked against the leaves.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let present = usize_from_u64(self.size_bytes().saturating_sub(offset)).min(buf.len());
        let (inside, outside) = buf.split_at_mut(present);
        outside.fill(0);
        if inside.is_empty() {
            Ok(())
        } else {
            self.disk()?.read_at(offset, inside)
        }
    }

    /// Extent of the parent; a hole past its end.
    pub(super) fn extent(&self, offset: u64, length_max: u64) -> Result<crate::block::Extent> {
        let size = self.size_bytes();
        if offset >= size {
            return Ok(crate::block::Extent {
                kind: crate::block::ExtentKind::Hole,
                length_bytes: length_max,
            });
        }
        self.disk()?
            .extent_at(offset, length_max.min(size - offset))
    }

    /// Depth of the parent's bytes, counted from the session's layer; what lies past its end counts as its top layer's.
    pub(super) fn depth(&self, offset: u64, length_max: u64) -> Result<(u32, u64)> {
        let size = self.size_bytes();
        if offset >= size {
            return Ok((2, length_max));
        }
        let (depth, length) = self
            .disk()?
            .depth_at(offset, length_max.min(size - offset))?;
        let depth = if depth == 0 {
            0
        } else {
            depth.saturating_add(1)
        };
        Ok((depth, length))
    }

    /// One whole cluster of the parent, proved against its leaf: rot must not get a valid sum.
    pub(super) fn read_proved(
        &self,
        cluster: GuestCluster,
        stated: &Digest,
        buf: &mut [u8],
    ) -> Result<()> {
        let offset = cluster.0.saturating_mul(CLUSTER_BYTES);
        if *stated == zero_leaf() {
            buf.fill(0);
            return Ok(());
        }
        self.read(offset, buf)?;
        let words = || {
            let end = offset.saturating_add(CLUSTER_BYTES);
            format!(
                "a cluster of the parent, {} bytes {offset} to {end}, is damaged and nothing can be completed from it",
                self.place
            )
        };
        prove(cluster, buf, stated, words)
            .map_err(|e| e.advise("write the whole cluster, or back the disk up with --full"))
    }
}
