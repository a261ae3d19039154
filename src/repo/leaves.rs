//! The leaves of a committed disk, by region: from the cache when they match the region hash, else from the
//! sums.
//!
//! # On-disk layout
//! `cache/leaves/<vm>/<disk>.leaves` is one sparse array of 32-byte leaves: region r at r * 256 KiB. It has no header:
//! a page is used only when its hash equals the region hash in the layer's sums.
//!
//! # Concurrency
//! Calls may come from many threads. One mutex guards the open sums of the chain; it is not held while
//! hashing.

use std::collections::HashSet;
use std::sync::Arc;

use super::content::{LEAVES_PER_REGION, PAGE_BYTES, Region, region_hash, zero_page, zero_region};
use super::layer_file::LayerFile;
use super::layout::{self, VmKeys};
use super::repository::Repository;
use super::slot::Slot;
use super::sums::LayerSums;
use crate::block::WriteAt;
use crate::chain::{Trail, settled};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::metrics::cache::{self, Cache};
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;
use crate::types::{Digest, DiskName, GuestCluster, VmId, VmName};

/// LIMIT: layers in a chain (our limit; QEMU has none).
pub const DEPTH_MAX: usize = 65_536;

/// The open sums of a chain's layers with the names of their files, top first.
type ChainSums = Vec<(String, LayerSums)>;

/// The leaves of one disk of a committed point.
pub struct Leaves {
    repository: Arc<Repository>,
    vm: VmName,
    vm_id: VmId,
    top: Slot,
    size_bytes: u64,
    regions: Vec<Digest>,
    cache: Option<Arc<dyn WriteAt>>,
    chain: Mutex<Option<Arc<ChainSums>>>,
}

impl Leaves {
    /// Opens the leaves of the disk whose layer is in slot `top`, and proves that its content is `root`.
    ///
    /// # Errors
    /// `Corrupt` when a layer or its sums are missing, or the content differs; `Io`.
    pub fn open(
        repository: &Arc<Repository>,
        vm: &VmName,
        vm_id: VmId,
        top: &Slot,
        root: Digest,
    ) -> Result<Self> {
        let delay = repository.store().look_up_delay();
        let sums = settled(delay, |trail| {
            let file = LayerFile::seek(repository, vm, vm_id, top)?;
            trail.push((top.to_string(), file.layer));
            file.seek_sums(repository, vm, vm_id, top)
        })?;
        let summary = sums.summary();
        let found = summary.content_root();
        if found != root {
            return Err(Error::corrupt(
                format!("layer {top} of {vm} has another content than was recorded"),
                root,
                found,
            ));
        }
        Ok(Self {
            repository: Arc::clone(repository),
            vm: vm.clone(),
            vm_id,
            top: top.clone(),
            size_bytes: summary.size_bytes,
            regions: summary.regions.clone(),
            cache: None,
            chain: Mutex::new(None),
        })
    }

    /// Uses the cached array of the disk with this name, and creates it when it is missing. Only the owner
    /// calls this.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn with_cache(mut self, disk: &DiskName) -> Result<Self> {
        self.cache = Some(open_cache(&self.repository, &self.vm, disk)?);
        Ok(self)
    }

    /// Virtual size of the disk in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Hash of each region.
    #[must_use]
    pub fn regions(&self) -> &[Digest] {
        &self.regions
    }

    /// Hash of one region; past the end, the hash of zeroes.
    #[must_use]
    pub fn region(&self, region: Region) -> Digest {
        usize::try_from(region.0)
            .ok()
            .and_then(|ix| self.regions.get(ix))
            .copied()
            .unwrap_or_else(zero_region)
    }

    /// The cached array, for a caller that updates it for a new point.
    #[must_use]
    pub fn cache(&self) -> Option<&Arc<dyn WriteAt>> {
        self.cache.as_ref()
    }

    /// Fills `page` (256 KiB) with the leaves of a region, and proves it against the region's hash.
    ///
    /// # Errors
    /// `Corrupt` when the sums of the chain do not yield the region's hash; `Io`.
    pub fn load_page(&self, region: Region, page: &mut [u8]) -> Result<()> {
        let stated = self.region(region);
        if stated == zero_region() {
            page.copy_from_slice(zero_page());
            return Ok(());
        }
        let at = region.0 * u64_from_usize(PAGE_BYTES);
        if let Some(cache) = &self.cache
            && cache.size_bytes() >= at + u64_from_usize(PAGE_BYTES)
            && cache.read_at(at, page).is_ok()
            && region_hash(page) == stated
        {
            cache::note(Cache::Leaves, true);
            return Ok(());
        }
        if self.cache.is_some() {
            cache::note(Cache::Leaves, false);
        }
        self.rebuild_page(region, page)?;
        let found = region_hash(page);
        if found != stated {
            return Err(Error::corrupt(
                format!(
                    "the sums of {} do not give the hash of region {}",
                    self.top, region.0
                ),
                stated,
                found,
            )
            .advise("restore the .sums files from a copy of the repository"));
        }
        if let Some(cache) = &self.cache
            && let Err(e) = cache.write_at(at, page)
        {
            tracing::warn!(vm = %self.vm, error = %e.report(), "the cache of leaves could not be written");
        }
        Ok(())
    }

    /// The leaf of one cluster: from the cached page without proof where there is one, else proved.
    ///
    /// # Errors
    /// As [`Leaves::load_page`].
    pub fn load_leaf(&self, cluster: GuestCluster) -> Result<Digest> {
        let mut page = vec![0; PAGE_BYTES];
        self.load_page(Region::of(cluster), &mut page)?;
        Ok(super::content::leaf_at(
            &page,
            super::content::leaf_index(cluster),
        ))
    }

    fn rebuild_page(&self, region: Region, page: &mut [u8]) -> Result<()> {
        page.copy_from_slice(zero_page());
        let mut wanted = vec![true; LEAVES_PER_REGION];
        for (file, sums) in self.chain()?.iter() {
            let Some(touched) = sums.load_region(region).at_path(file)? else {
                continue;
            };
            touched.spread(page, |index| {
                wanted.get_mut(index).is_some_and(std::mem::take)
            });
        }
        Ok(())
    }

    /// The open sums of all layers, top first.
    fn chain(&self) -> Result<Arc<ChainSums>> {
        let mut chain = self.chain.lock();
        if let Some(chain) = &*chain {
            return Ok(Arc::clone(chain));
        }
        let delay = self.repository.store().look_up_delay();
        let all = settled(delay, |trail| self.walk(trail))?;
        let all = Arc::new(all);
        *chain = Some(Arc::clone(&all));
        Ok(all)
    }

    fn walk(&self, trail: &mut Trail) -> Result<ChainSums> {
        let mut all = Vec::new();
        let mut next = Some(self.top.clone());
        let mut seen = HashSet::new();
        while let Some(slot) = next {
            if !seen.insert(slot.clone()) || all.len() >= DEPTH_MAX {
                return Err(Error::corrupt(
                    "the backing chain is a loop",
                    "a chain that ends",
                    &slot,
                )
                .at_path(slot.layer_file()));
            }
            let file = LayerFile::seek(&self.repository, &self.vm, self.vm_id, &slot)?;
            trail.push((slot.to_string(), file.layer));
            let mut sums = file.seek_sums(&self.repository, &self.vm, self.vm_id, &slot)?;
            sums.forget_regions();
            let path = VmKeys::new(&self.vm)?.sums(&slot, file.layer)?;
            all.push((path.as_str().to_owned(), sums));
            next = file.below;
        }
        Ok(all)
    }
}

/// Opens the cached array of a disk, and creates it when it is missing.
///
/// # Errors
/// `NoSpace`, `Io`.
pub fn open_cache(
    repository: &Repository,
    vm: &VmName,
    disk: &DiskName,
) -> Result<Arc<dyn WriteAt>> {
    let key = layout::leaves(vm, disk)?;
    let stage = repository.stage();
    match stage.open(&key) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if let Some(parent) = key.parent() {
                stage.make_prefix(&parent)?;
            }
            stage.create(&key)
        }
        other => other,
    }
}
