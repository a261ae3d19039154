//! The parent of a session's disk: the content to read and to complete clusters from. Written
//! clusters are compared with the layer's base instead.

use std::sync::{Arc, OnceLock};

use crate::block::ReadAt;
use crate::chain::{Disk, Pool};
use crate::error::Result;
use crate::layer::Base;
use crate::point::{ChainSource, prove};
use crate::repo::content::{CLUSTER_BYTES, zero_leaf};
use crate::repo::sidecar::session::ParentDisk;
use crate::types::width::usize_from_u64;
use crate::types::{Digest, DiskName, GuestCluster, PointName};

/// The parent's disk.
pub(in crate::ingest) struct Parent {
    /// The chain, opened at the first read.
    disk: OnceLock<Disk>,
    open: Box<dyn Fn() -> Result<Disk> + Send + Sync>,
    size_bytes: u64,
    place: String,
}

impl Parent {
    /// Opens the parent, and its leaves as the base of the layer.
    pub(in crate::ingest) fn open(
        pool: &Arc<Pool>,
        source: &Arc<ChainSource>,
        name: &DiskName,
        parent: &ParentDisk,
        point: Option<&PointName>,
    ) -> Result<(Self, Base)> {
        let leaves = source
            .open_leaves(&parent.layer, parent.content_root)?
            .with_cache(name)?;
        let (source, pool, slot) = (Arc::clone(source), Arc::clone(pool), parent.layer.clone());
        let place = point.map_or_else(
            || parent.layer.to_string(),
            |p| format!("{}@{p} disk {name}", source.vm()),
        );
        let this = Self {
            disk: OnceLock::new(),
            open: Box::new(move || source.open_disk(&pool, &slot)),
            size_bytes: parent.size_bytes,
            place,
        };
        Ok((this, Base::new(leaves, parent.data_bytes)))
    }

    pub(in crate::ingest) const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn disk(&self) -> Result<&Disk> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let opened = (self.open)()?;
        Ok(self.disk.get_or_init(|| opened))
    }

    /// Reads bytes of the parent, zeroes past its end; does not check them against the leaves.
    pub(in crate::ingest) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let present = usize_from_u64(self.size_bytes().saturating_sub(offset)).min(buf.len());
        let (inside, outside) = buf.split_at_mut(present);
        outside.fill(0);
        if inside.is_empty() {
            Ok(())
        } else {
            self.disk()?.read_at(offset, inside)
        }
    }

    /// The extent of the parent at `offset`; a hole past its end.
    pub(in crate::ingest) fn extent(
        &self,
        offset: u64,
        length_max: u64,
    ) -> Result<crate::block::Extent> {
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

    /// The depth of the parent's bytes, counted from the session's layer; bytes past the parent's
    /// end count as those of its top layer.
    pub(in crate::ingest) fn depth(&self, offset: u64, length_max: u64) -> Result<(u32, u64)> {
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

    /// Reads one whole cluster of the parent and checks it against its leaf: damaged bytes must not
    /// get a valid sum.
    pub(in crate::ingest) fn read_proved(
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
        let describe = || {
            let end = offset.saturating_add(CLUSTER_BYTES);
            format!(
                "a cluster of the parent, {} bytes {offset} to {end}, is damaged and nothing can be completed from it",
                self.place
            )
        };
        prove(cluster, buf, stated, describe)
            .map_err(|e| e.advise("write the whole cluster, or back the disk up with --full"))
    }
}
