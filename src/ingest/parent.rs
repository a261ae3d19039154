//! The parent of a session's disk: its leaves to compare with, its content to complete from.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::block::{ReadAt, WriteAt};
use crate::chain::{Disk, FlatStore, LayerSource, Pool};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::content::{CLUSTER, PAGE_BYTES, Region, zero_leaf};
use crate::repo::leaves::Leaves;
use crate::repo::sidecar::session::ParentDisk;
use crate::repo::{Repository, Slot, layout};
use crate::types::width::usize_from_u64;
use crate::types::{Digest, DiskName, GuestCluster, LayerId, PointName, VmId, VmName};

/// Gives the chains of one VM their layers, and a place for flattened maps.
pub struct ChainSource {
    repository: Arc<Repository>,
    vm: VmName,
    id: VmId,
    /// Whether flattened maps may be written.
    writable: bool,
}

impl ChainSource {
    /// The layers of a VM; `writable` if this process owns the repository.
    #[must_use]
    pub fn new(repository: &Arc<Repository>, vm: &VmName, id: VmId, writable: bool) -> Arc<Self> {
        Arc::new(Self {
            repository: Arc::clone(repository),
            vm: vm.clone(),
            id,
            writable,
        })
    }

    /// Opens the disk whose top layer is in `slot`.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn open_disk(self: &Arc<Self>, pool: &Arc<Pool>, slot: &Slot) -> Result<Disk> {
        let source: Arc<dyn LayerSource> = Arc::<Self>::clone(self);
        let flat: Arc<dyn FlatStore> = Arc::<Self>::clone(self);
        Disk::open(pool, source, slot.as_str(), Some(flat))
    }
}

impl LayerSource for ChainSource {
    fn open_layer(&self, slot: &str) -> Result<Arc<dyn ReadAt>> {
        self.repository.open_layer(&self.vm, &Slot::parse(slot)?)
    }
    fn scope(&self) -> u128 {
        u128::from_be_bytes(self.id.to_bytes())
    }
}

impl FlatStore for ChainSource {
    fn open_flat(&self, top: LayerId) -> Result<Option<Arc<dyn WriteAt>>> {
        if !self.writable {
            return Ok(None);
        }
        let key = layout::flat_map(top)?;
        let stage = self.repository.stage();
        match stage.open(&key) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if let Some(prefix) = key.parent() {
                    stage.make_prefix(&prefix)?;
                }
                stage.create(&key).map(Some)
            }
            other => other.map(Some),
        }
    }
}

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
        let leaves = Leaves::open(repository, &source.vm, &parent.layer, parent.content_root)?
            .with_cache(name)?;
        let (source, pool, slot) = (Arc::clone(source), Arc::clone(pool), parent.layer.clone());
        let place = point.map_or_else(
            || parent.layer.to_string(),
            |p| format!("{}@{p} disk {name}", source.vm),
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
        let kept = self
            .page
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((of, page)) = kept
            && of == region
        {
            return Ok(page);
        }
        let mut page = vec![0; PAGE_BYTES];
        self.leaves.load_page(region, &mut page)?;
        let page: Arc<[u8]> = page.into();
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((region, Arc::clone(&page)));
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
        let offset = CLUSTER
            .guest_offset(cluster)
            .map_or(u64::MAX, |offset| offset.0);
        if *stated == zero_leaf() {
            buf.fill(0);
            return Ok(());
        }
        self.read(offset, buf)?;
        let found = Digest::of(buf);
        if found != *stated {
            let end = offset + CLUSTER.size_bytes();
            return Err(Error::corrupt(
                format!("a cluster of the parent, {} bytes {offset} to {end}, is damaged and nothing can be completed from it", self.place),
                stated,
                found,
            )
            .at_offset(offset)
            .advise("write the whole cluster, or back the disk up with --full"));
        }
        Ok(())
    }
}
