//! Sealing: turns a layer draft into a committed layer with its sums.
//!
//! Only the touched regions are settled. For each, the seal drops clusters that equal the base's,
//! hashes those that are not hashed yet, and computes the region's hash and its share of the disk's
//! data. Then it writes the tables, publishes the file, and writes the sums beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::doubt::UNKNOWN;
use super::draft::LayerDraft;
use super::journal::Journal;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::qcow2::Mapping;
use crate::repo::content::{
    CLUSTER, LEAVES_PER_REGION, PAGE_BYTES, Region, content_root, data_leaves, leaf_at, leaf_of,
    region_hash, set_leaf, zero_leaf, zero_page, zero_region,
};
use crate::repo::layout::VmKeys;
use crate::repo::leaves::open_cache;
use crate::repo::sums::{Summary, SumsWriter, Touched};
use crate::store::{Key, PutMode};
use crate::task::{self, Monitor};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{Digest, DiskName, GuestCluster};

/// LIMIT: threads that hash regions at the seal.
const THREADS_MAX: usize = 8;

/// The result of settling one region.
#[derive(Debug, Clone, Copy)]
struct RegionFacts {
    hash: Digest,
    held: u32,
    /// Clusters with data now, less those of the base.
    data_delta: i64,
}

/// A settled layer, to be sealed; nothing may be written in between.
#[derive(Debug)]
pub struct SettledLayer(BTreeMap<Region, RegionFacts>);

/// The regions of which a layer holds something, ascending, with the number of clusters held in each.
type HeldRegions = Vec<(Region, u32)>;

/// A published layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedLayer {
    /// Content of the disk as of this layer.
    pub content_root: Digest,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Bytes of the disk that are not zero, in whole clusters.
    pub data_bytes: u64,
    /// Bytes of the clusters that the layer holds.
    pub changed_bytes: u64,
    /// Size of the layer's file in bytes.
    pub file_bytes: u64,
}

impl LayerDraft {
    /// Settles every touched region, on as many threads as there are processors: drops clusters
    /// that equal the base's, and hashes those that are not hashed yet. The caller then makes its
    /// journal durable; the seal punches the dropped clusters.
    ///
    /// # Errors
    /// `Corrupt` (the base's sums, a compressed cluster); `NoSpace`, `Io`. What was settled stays
    /// so.
    pub fn settle(&self, journal: &impl Journal) -> Result<SettledLayer> {
        self.settle_doubts()?;
        let regions = self.touched_regions();
        let facts = Mutex::new(BTreeMap::new());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let most = THREADS_MAX.min(regions.len());
        let mut left = regions.into_iter();
        task::on_threads(
            task::threads(Some(processors), most),
            &Monitor::default(),
            || Ok(left.next()),
            || (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]),
            |(page, base), region| {
                let fact = self.settle_region(region, page, base, journal)?;
                let mut facts = facts.lock();
                facts.insert(region, fact);
                Ok(())
            },
        )?;
        Ok(SettledLayer(facts.into_inner()))
    }

    fn settle_region(
        &self,
        region: Region,
        page: &mut [u8],
        base: &mut [u8],
        journal: &impl Journal,
    ) -> Result<RegionFacts> {
        self.load_base_page(region, base)?;
        self.pages.peek(region.0, |found| {
            page.copy_from_slice(found.unwrap_or_else(|| zero_page()))
        })?;
        let mut held = 0;
        let mut changed: Vec<(usize, Digest)> = Vec::new();
        let mut bytes = Vec::new();
        let clusters = CLUSTER
            .clusters_for(self.size_bytes())
            .saturating_sub(region.first_cluster().0);
        for index in 0..LEAVES_PER_REGION.min(usize_from_u64(clusters)) {
            let cluster = GuestCluster(region.first_cluster().0 + u64_from_usize(index));
            let mapping = self.writer.get(cluster)?;
            let mut leaf = leaf_at(page, index);
            if mapping == Mapping::Unallocated {
                if leaf == UNKNOWN {
                    // A write of the cluster failed before anything was mapped: its content is the
                    // base's.
                    leaf = leaf_at(base, index);
                    changed.push((index, leaf));
                    set_leaf(page, index, &leaf);
                }
                continue;
            }
            let is_new = leaf == UNKNOWN;
            if is_new {
                bytes.resize(usize_from_u64(CLUSTER.size_bytes()), 0);
                self.read_held(mapping, &mut bytes)?;
                leaf = leaf_of(&bytes);
                changed.push((index, leaf));
                set_leaf(page, index, &leaf);
            }
            if leaf == leaf_at(base, index) {
                // The cluster was written, and then got the base's content again: it is not stored.
                self.drop_held(cluster, journal)?;
                continue;
            }
            if is_new && leaf == zero_leaf() {
                // Zeroes were written into its parts: they take no space.
                self.set_zero(cluster, journal)?;
            }
            held += 1;
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
            data_delta: signed(data_leaves(page)) - signed(data_leaves(base)),
        })
    }

    /// Seals a settled layer: writes its tables, and publishes it and its sums. Their names are
    /// durable after [`crate::store::Stage::sync_prefix`] of `layers`.
    ///
    /// # Errors
    /// `AlreadyExists` (mode `Create`); `NoSpace`, `Io`. After an error the draft is unusable, but
    /// the layer can be resumed.
    pub fn seal(&self, settled: SettledLayer, mode: PutMode) -> Result<SealedLayer> {
        let keys = VmKeys::new(&self.vm)?;
        let (sealed, summary, held) = self.write_tables(settled)?;
        let stage = self.repository.stage();
        stage.publish(&self.file, &keys.layer(&self.slot)?, mode)?;
        let made = self.write_sums(&summary, &held)?;
        stage.publish(&made, &keys.sums(&self.slot, self.layer_id())?, mode)?;
        Ok(sealed)
    }

    /// Completes a layer that is to replace another one: settles it, and writes its tables and its sums. Both files
    /// are durable, and keep the names of files that are being written.
    ///
    /// # Errors
    /// As [`LayerDraft::settle`]; `NoSpace`, `Io`.
    pub fn build(&self) -> Result<SealedLayer> {
        let settled = self.settle(&())?;
        let (sealed, summary, held) = self.write_tables(settled)?;
        self.write_sums(&summary, &held)?;
        Ok(sealed)
    }

    /// Writes the tables of the layer's file; returns what the sums record, with the touched regions and the number
    /// of clusters that the layer holds in each.
    fn write_tables(&self, settled: SettledLayer) -> Result<(SealedLayer, Summary, HeldRegions)> {
        let SettledLayer(facts) = settled;
        let size_bytes = self.size_bytes();
        let sealed = self.writer.seal().at_path(self.slot.open_file())?;
        let mut regions: Vec<Digest> = self
            .base
            .as_ref()
            .map(|base| base.leaves().regions().to_vec())
            .unwrap_or_default();
        regions.resize(usize_from_u64(Region::count(size_bytes)), zero_region());
        for (region, fact) in &facts {
            if let Some(place) = regions.get_mut(usize_from_u64(region.0)) {
                *place = fact.hash;
            }
        }
        let root = content_root(size_bytes, &regions);
        let held: HeldRegions = facts
            .iter()
            .filter(|(_, f)| f.held > 0)
            .map(|(r, f)| (*r, f.held))
            .collect();
        let summary = Summary {
            layer_id: self.layer_id(),
            size_bytes,
            layer_bytes: sealed.file_bytes,
            regions,
            metadata: sealed.metadata,
        };
        let base_clusters = self
            .base
            .as_ref()
            .map_or(0, |base| base.data_bytes().div_ceil(CLUSTER.size_bytes()));
        let delta: i64 = facts.values().map(|f| f.data_delta).sum();
        let clusters = base_clusters.saturating_add_signed(delta);
        let changed: u64 = held.iter().map(|(_, n)| u64::from(*n)).sum();
        let sealed = SealedLayer {
            content_root: root,
            size_bytes,
            data_bytes: clusters * CLUSTER.size_bytes(),
            changed_bytes: changed * CLUSTER.size_bytes(),
            file_bytes: summary.layer_bytes,
        };
        Ok((sealed, summary, held))
    }

    /// Settles and seals a layer without a journal; removes the draft's files from the workspace.
    ///
    /// # Errors
    /// As [`LayerDraft::settle`] and [`LayerDraft::seal`].
    pub fn finish(&self, mode: PutMode) -> Result<SealedLayer> {
        let settled = self.settle(&())?;
        self.flush()?;
        let sealed = self.seal(settled, mode)?;
        if self.repository.stage().is_separate() {
            self.discard()?;
        }
        Ok(sealed)
    }

    /// Removes the layer's files from the workspace: those of an abandoned layer, or of one that
    /// was published by copy.
    ///
    /// # Errors
    /// `Io`.
    pub fn discard(&self) -> Result<()> {
        let keys = VmKeys::new(&self.vm)?;
        for key in [
            self.file.clone(),
            keys.open_sums(&self.slot, self.layer_id())?,
        ] {
            match self.repository.stage().delete(&key) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the sums; returns the key of their file, which is to be published.
    fn write_sums(&self, summary: &Summary, held: &HeldRegions) -> Result<Key> {
        let (keys, stage) = (VmKeys::new(&self.vm)?, self.repository.stage());
        let making = keys.open_sums(&self.slot, self.layer_id())?;
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
        Ok(making)
    }

    /// Updates the cached leaves of the disk's name to this disk's content. A failure only costs
    /// time later.
    pub fn update_cache(&self, disk: &DiskName) {
        let update = || -> Result<()> {
            let cache = match self.base.as_ref().and_then(|base| base.leaves().cache()) {
                Some(cache) => Arc::clone(cache),
                None => open_cache(&self.repository, &self.vm, disk)?,
            };
            let mut page = vec![0; PAGE_BYTES];
            for region in self.touched_regions() {
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
            tracing::warn!(vm = %self.vm, disk = %disk, error = %e.report(), "the cache of leaves could not be written");
        }
    }
}
