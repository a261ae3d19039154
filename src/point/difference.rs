//! The difference of two contents of a disk, computed from leaves: no data is read.
//!
//! # Why
//! Hashes of content decide what changed, not layers. A cluster that was overwritten and then restored has
//! not changed, a disk that was stored in full has changed only where it differs, and a merge of layers
//! changes nothing. Regions (512 MiB) with equal hashes are skipped, so that only the leaves of differing
//! regions are read.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::error::Result;
use crate::repo::content::{
    CLUSTER_BYTES, LEAVES_PER_REGION, PAGE_BYTES, REGION_BYTES, Region, leaf_at, zero_page,
    zero_region,
};
use crate::repo::leaves::Leaves;
use crate::repo::{Repository, Slot};
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;
use crate::types::{Digest, VmId, VmName};

/// LIMIT: compared regions that one difference keeps, 1 KiB each.
const REGIONS_MAX: usize = 4096;

/// Which clusters of a region differ, one bit each.
type Map = Arc<[u8; LEAVES_PER_REGION / 8]>;

/// Leaves that are open, by their content, so that each is opened once.
#[derive(Default)]
pub struct OpenLeaves(Mutex<HashMap<(String, Digest), Weak<Leaves>>>);

impl OpenLeaves {
    /// The leaves of the layer in `slot` of a VM, whose content root is `root`.
    ///
    /// # Errors
    /// `Corrupt`, `NotFound`, `Io`.
    pub fn open(
        &self,
        repository: &Arc<Repository>,
        vm: &VmName,
        vm_id: VmId,
        slot: &Slot,
        root: Digest,
    ) -> Result<Arc<Leaves>> {
        let key = (vm.folded(), root);
        let all = || self.0.lock();
        if let Some(leaves) = all().get(&key).and_then(Weak::upgrade) {
            return Ok(leaves);
        }
        let leaves = Arc::new(Leaves::open(repository, vm, vm_id, slot, root)?);
        let mut all = all();
        all.retain(|_, leaves| leaves.strong_count() > 0);
        all.insert(key, Arc::downgrade(&leaves));
        Ok(leaves)
    }
}

/// The present content of a disk compared with an earlier one.
pub struct Difference {
    /// `None` stands for zeroes.
    now: Option<Arc<Leaves>>,
    since: Arc<Leaves>,
    maps: Mutex<HashMap<u64, Map>>,
    last: Mutex<Option<(Region, Arc<Vec<u8>>)>>,
}

impl Difference {
    /// Compares `now` (`None` for zeroes) with `since`. It reads nothing yet.
    #[must_use]
    pub fn new(now: Option<Arc<Leaves>>, since: Arc<Leaves>) -> Self {
        Self {
            now,
            since,
            maps: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// Size in bytes of the earlier content.
    #[must_use]
    pub fn since_bytes(&self) -> u64 {
        self.since.size_bytes()
    }

    /// The earlier page of leaves of a region. The page of the region requested last is kept.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn earlier(&self, region: Region) -> Result<Arc<Vec<u8>>> {
        let last = || self.last.lock();
        if let Some((known, page)) = &*last()
            && *known == region
        {
            return Ok(Arc::clone(page));
        }
        let mut page = vec![0; PAGE_BYTES];
        self.since.load_page(region, &mut page)?;
        let page = Arc::new(page);
        *last() = Some((region, Arc::clone(&page)));
        Ok(page)
    }

    /// Whether the content at `offset` differs, and the end of the range for which this holds: at most `end`
    /// and the end of the region.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn differs(&self, offset: u64, end: u64) -> Result<(bool, u64)> {
        let region = Region(offset / REGION_BYTES);
        let region_end = ((region.0 + 1) * REGION_BYTES).min(end);
        let Some(map) = self.map(region)? else {
            return Ok((false, region_end));
        };
        let bit = |at: u64| {
            let index = usize_from_u64((at % REGION_BYTES) / CLUSTER_BYTES);
            map.get(index / 8)
                .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
        };
        let is_changed = bit(offset);
        let mut at = offset;
        while at < region_end && bit(at) == is_changed {
            at = (at / CLUSTER_BYTES + 1) * CLUSTER_BYTES;
        }
        Ok((is_changed, at.min(region_end)))
    }

    /// Which clusters of a region differ; `None` when none does.
    fn map(&self, region: Region) -> Result<Option<Map>> {
        let now = self.now.as_ref();
        let hash = now.map_or_else(zero_region, |leaves| leaves.region(region));
        if hash == self.since.region(region) {
            return Ok(None);
        }
        let maps = || self.maps.lock();
        if let Some(map) = maps().get(&region.0) {
            return Ok(Some(Arc::clone(map)));
        }
        let (mut current, mut since) = (zero_page().to_vec(), vec![0; PAGE_BYTES]);
        if let Some(leaves) = now {
            leaves.load_page(region, &mut current)?;
        }
        self.since.load_page(region, &mut since)?;
        let mut map = [0u8; LEAVES_PER_REGION / 8];
        for index in 0..LEAVES_PER_REGION {
            if leaf_at(&current, index) != leaf_at(&since, index)
                && let Some(byte) = map.get_mut(index / 8)
            {
                *byte |= 1 << (index % 8);
            }
        }
        let map = Arc::new(map);
        let mut maps = maps();
        if maps.len() >= REGIONS_MAX {
            maps.clear();
        }
        maps.insert(region.0, Arc::clone(&map));
        Ok(Some(map))
    }
}
