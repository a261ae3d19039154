//! Sealing a disk: from a session's layer to a committed one, with its sums.
//!
//! Only the regions that were touched are looked at: what equals the parent is dropped, what was resumed is rehashed,
//! the region's hash and its share of the disk's data are taken. Then the tables are written, the file is renamed,
//! and the sums are written beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::{DiskWriter, UNKNOWN};
use super::record::Record;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::qcow2::Mapping;
use crate::repo::Repository;
use crate::repo::content::{
    CLUSTER, LEAVES_PER_REGION, PAGE_BYTES, Region, content_root, data_leaves, leaf_at, leaf_of,
    region_hash, set_leaf, zero_page, zero_region,
};
use crate::repo::layout::VmKeys;
use crate::repo::leaves::open_cache;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::point::PointDisk;
use crate::repo::sums::{Summary, SumsWriter, Touched};
use crate::store::PutMode;
use crate::task::{self, Monitor};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, GuestCluster, VmName};

/// LIMIT: threads that hash regions at the seal.
const THREADS_MAX: usize = 8;

/// What the seal finds out about one region.
#[derive(Debug, Clone, Copy)]
struct RegionFacts {
    hash: Digest,
    held: u32,
    /// Clusters with data now, less those that the parent has.
    data_delta: i64,
}

impl DiskWriter {
    /// Refuses a disk that is smaller than its parent.
    pub(super) fn check_size(&self) -> Result<()> {
        match &self.parent {
            Some(parent) if self.size_bytes() < parent.size_bytes() => {
                Err(Error::invalid(format!(
                    "disk {} is smaller than its parent ({} < {} bytes)",
                    self.meta.name,
                    self.size_bytes(),
                    parent.size_bytes()
                ))
                .advise(format!(
                    "declare that a new disk begins: --full {}",
                    self.meta.name
                )))
            }
            _ => Ok(()),
        }
    }

    /// Seals the disk. The caller holds the gate alone and has flushed.
    pub(super) fn seal(
        &self,
        repository: &Repository,
        vm: &VmName,
        change_id: Option<String>,
    ) -> Result<PointDisk> {
        let size_bytes = self.size_bytes();
        self.check_size()?;
        if size_bytes != self.writer.size_bytes() {
            self.writer.set_size(size_bytes)?;
        }
        let facts = self.settle_regions()?;
        // What was dropped is punched by the seal: a resume must not find it named in the log.
        self.flush_gated()?;
        let sealed = self.writer.seal().at_path(self.meta.layer.open_file())?;

        let keys = VmKeys::new(vm)?;
        let mut regions: Vec<Digest> = self
            .parent
            .as_ref()
            .map(|p| p.leaves.regions().to_vec())
            .unwrap_or_default();
        regions.resize(usize_from_u64(Region::count(size_bytes)), zero_region());
        for (region, fact) in &facts {
            if let Some(place) = regions.get_mut(usize_from_u64(region.0)) {
                *place = fact.hash;
            }
        }
        let root = content_root(size_bytes, &regions);
        let held: Vec<(Region, u32)> = facts
            .iter()
            .filter(|(_, f)| f.held > 0)
            .map(|(r, f)| (*r, f.held))
            .collect();
        let summary = Summary {
            layer_id: self.meta.layer_id,
            size_bytes,
            layer_bytes: sealed.file_bytes,
            regions,
            metadata: sealed.metadata,
        };
        let stage = repository.stage();
        stage.publish(
            &keys.open_layer(&self.meta.layer)?,
            &keys.layer(&self.meta.layer)?,
            PutMode::Create,
        )?;
        self.write_sums(repository, &keys, &summary, &held)?;

        let parent_clusters = self
            .parent
            .as_ref()
            .map_or(0, |p| p.data_bytes().div_ceil(CLUSTER.size_bytes()));
        let delta: i64 = facts.values().map(|f| f.data_delta).sum();
        let clusters = parent_clusters.saturating_add_signed(delta);
        let changed: u64 = held.iter().map(|(_, n)| u64::from(*n)).sum();
        Ok(PointDisk {
            name: self.meta.name.clone(),
            key: self.meta.key.clone(),
            layer: self.meta.layer.clone(),
            kind: self.meta.kind,
            full_reason: self.meta.full_reason.clone(),
            size_bytes,
            source_bytes: self.source_bytes(),
            data_bytes: clusters * CLUSTER.size_bytes(),
            changed_bytes: changed * CLUSTER.size_bytes(),
            content_root: root,
            parent_content_root: self.meta.parent.as_ref().map(|p| p.content_root),
            change_id,
            unknown: Unknown::new(),
        })
    }

    /// Settles every touched region, on as many threads as there are processors.
    fn settle_regions(&self) -> Result<BTreeMap<Region, RegionFacts>> {
        self.settle_doubts()?;
        let regions: Vec<Region> = self.touched().iter().copied().collect();
        let facts = Mutex::new(BTreeMap::new());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let most = THREADS_MAX.min(regions.len());
        let mut left = regions.into_iter();
        task::on_threads(
            task::threads(Some(processors), most),
            &Monitor::default(),
            || Ok(left.next()),
            || (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]),
            |(page, parent), region| {
                let fact = self.settle_region(region, page, parent)?;
                let mut facts = facts.lock();
                facts.insert(region, fact);
                Ok(())
            },
        )?;
        Ok(facts.into_inner())
    }

    fn settle_region(
        &self,
        region: Region,
        page: &mut [u8],
        parent: &mut [u8],
    ) -> Result<RegionFacts> {
        self.load_parent_page(region, parent)?;
        self.pages.peek(region.0, |found| {
            page.copy_from_slice(found.unwrap_or_else(|| zero_page()))
        })?;
        let mut held = 0;
        let mut changed: Vec<(usize, Digest)> = Vec::new();
        let clusters = CLUSTER
            .clusters_for(self.size_bytes())
            .saturating_sub(region.first_cluster().0);
        for index in 0..LEAVES_PER_REGION.min(usize_from_u64(clusters)) {
            let cluster = GuestCluster(region.first_cluster().0 + u64_from_usize(index));
            let mapping = self.writer.get(cluster)?;
            let mut leaf = leaf_at(page, index);
            if mapping == Mapping::Unallocated {
                if leaf == UNKNOWN {
                    // A write of it failed before anything was mapped: it is the parent's.
                    leaf = leaf_at(parent, index);
                    changed.push((index, leaf));
                    set_leaf(page, index, &leaf);
                }
                continue;
            }
            if leaf == UNKNOWN {
                let mut bytes = vec![0; usize_from_u64(CLUSTER.size_bytes())];
                self.read_held(mapping, &mut bytes)?;
                leaf = leaf_of(&bytes);
                changed.push((index, leaf));
                set_leaf(page, index, &leaf);
            }
            if leaf == leaf_at(parent, index) {
                // Written, and then the parent's again: not stored.
                self.writer.set(cluster, Mapping::Unallocated)?;
                self.record(Record::Drop {
                    cluster: cluster.0,
                    count: 1,
                });
            } else {
                held += 1;
            }
        }
        if !changed.is_empty() {
            self.pages.with_page(
                region.0,
                |_| Ok(()),
                |page| {
                    changed
                        .iter()
                        .for_each(|(i, leaf)| set_leaf(page, *i, leaf))
                },
            )?;
        }
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(RegionFacts {
            hash: region_hash(page),
            held,
            data_delta: signed(data_leaves(page)) - signed(data_leaves(parent)),
        })
    }

    fn write_sums(
        &self,
        repository: &Repository,
        keys: &VmKeys,
        summary: &Summary,
        held: &[(Region, u32)],
    ) -> Result<()> {
        let stage = repository.stage();
        let key = keys.sums(&self.meta.layer, self.meta.layer_id)?;
        let making = keys.open_sums(&self.meta.layer, self.meta.layer_id)?;
        match stage.delete(&making) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut sums = SumsWriter::create(stage.create(&making)?, summary, held)?;
        let mut page = vec![0; PAGE_BYTES];
        for (region, _) in held {
            self.pages.peek(region.0, |found| {
                page.copy_from_slice(found.unwrap_or_else(|| zero_page()))
            })?;
            let first = region.first_cluster().0;
            let mut bits = vec![false; LEAVES_PER_REGION];
            for (bit, cluster) in bits.iter_mut().zip(first..) {
                let inside = cluster < CLUSTER.clusters_for(self.size_bytes());
                *bit = inside && self.writer.get(GuestCluster(cluster))? != Mapping::Unallocated;
            }
            sums.append(&Touched::pick(
                *region,
                |index| bits.get(index).copied().unwrap_or(false),
                &page,
            ))?;
        }
        sums.finish()?;
        stage.publish(&making, &key, PutMode::Create)
    }

    /// Brings the cached leaves of the disk's name to this disk's content. A failure costs time later, nothing else.
    pub(super) fn update_cache(&self, repository: &Arc<Repository>, vm: &VmName) {
        let update = || -> Result<()> {
            let cache = match self.parent.as_ref().and_then(|p| p.leaves.cache()) {
                Some(cache) => Arc::clone(cache),
                None => open_cache(repository, vm, &self.meta.name)?,
            };
            let touched: Vec<Region> = self.touched().iter().copied().collect();
            let mut page = vec![0; PAGE_BYTES];
            for region in touched {
                self.pages.peek(region.0, |found| {
                    page.copy_from_slice(found.unwrap_or_else(|| zero_page()))
                })?;
                if page != zero_page() {
                    cache.write_at(region.0 * u64_from_usize(PAGE_BYTES), &page)?;
                }
            }
            Ok(())
        };
        if let Err(e) = update() {
            tracing::warn!(vm = %vm, disk = %self.meta.name, error = %e.report(), "the cache of leaves could not be written");
        }
    }
}
