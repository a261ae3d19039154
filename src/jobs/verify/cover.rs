//! Cover: the clusters that the layers above a damaged one hold. Damage below them is not met.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::fault::is_loss;
use super::survey::Layer;
use crate::error::Result;
use crate::repo::content::{CLUSTER_BYTES, LEAVES_PER_REGION, Region};
use crate::repo::sums::LayerSums;
use crate::repo::{Repository, Slot};
use crate::types::VmName;
use crate::types::width::usize_from_u64;

/// LIMIT: bitmaps that are kept (1 KiB each).
const BITMAPS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// LIMIT: open sums (the tables of 1 TiB take about 100 KiB).
const SUMS_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Bitmaps of the layers of a VM.
pub(super) struct Cover<'a> {
    repository: &'a Repository,
    vm: &'a VmName,
    /// `None` for sums that cannot be read: they cover nothing, so the damage is told rather than not.
    sums: LruCache<&'a Slot, Option<LayerSums>>,
    bitmaps: LruCache<(&'a Slot, Region), Option<Vec<u8>>>,
}

/// The clusters of one region that are covered.
pub(super) struct Covered {
    pub(super) region: Region,
    /// Bit i of byte i/8 for cluster i.
    bitmap: Vec<u8>,
}

impl Covered {
    /// Whether the cluster at an offset of the disk, which lies in the region, is covered.
    pub(super) fn holds(&self, offset: u64) -> bool {
        let index = usize_from_u64(offset / CLUSTER_BYTES) % LEAVES_PER_REGION;
        let byte = self.bitmap.get(index / 8);
        byte.is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }
}

impl<'a> Cover<'a> {
    pub(super) fn new(repository: &'a Repository, vm: &'a VmName) -> Self {
        Self {
            repository,
            vm,
            sums: LruCache::new(SUMS_MAX),
            bitmaps: LruCache::new(BITMAPS_MAX),
        }
    }

    /// The clusters of a region that one of these layers holds.
    ///
    /// # Errors
    /// Errors that are no damage.
    pub(super) fn of(
        &mut self,
        region: Region,
        layers: &[(&'a Slot, &'a Layer)],
    ) -> Result<Covered> {
        let mut bitmap = vec![0; LEAVES_PER_REGION / 8];
        for (slot, layer) in layers {
            if !layer.touches(region) {
                continue;
            }
            let held = match self.bitmaps.get(&(*slot, region)) {
                Some(held) => held,
                None => {
                    let held = self.load(slot, layer, region)?;
                    self.bitmaps.get_or_insert((*slot, region), || held)
                }
            };
            for (all, one) in bitmap.iter_mut().zip(held.iter().flatten()) {
                *all |= *one;
            }
        }
        Ok(Covered { region, bitmap })
    }

    fn load(&mut self, slot: &'a Slot, layer: &Layer, region: Region) -> Result<Option<Vec<u8>>> {
        let (repository, vm) = (self.repository, self.vm);
        let sums = self.sums.try_get_or_insert(slot, || {
            match repository.find_sums(vm, slot, layer.layer) {
                Ok(mut sums) => {
                    sums.forget_regions();
                    Ok(Some(sums))
                }
                Err(e) if is_loss(&e) => Ok(None),
                Err(e) => Err(e),
            }
        })?;
        match sums.as_ref().map(|sums| sums.load_bitmap(region)) {
            None => Ok(None),
            Some(Err(e)) if is_loss(&e) => Ok(None),
            Some(loaded) => loaded,
        }
    }
}
