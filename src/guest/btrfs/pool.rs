//! The devices of a filesystem, the map of their chunks, and the trees read through both.
//!
//! # Invariants
//! - A tree block is used only if its checksum, address, filesystem and generation are right; otherwise
//!   another copy is tried.
//! - A device that is missing, or belongs to another filesystem, is never replaced by another device.
//! - The trees are those of the last commit: the log of later fsyncs is not read.
//!
//! # Why
//! The crate opens no pool with a missing device and no filesystem with a log, and reads data more often than
//! necessary. Its lower parts are public and are used here: superblock, chunk map, tree walker and item
//! parsers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fs_btrfs::btree::{Tree, TreeBlock};
use fs_btrfs::chunk::{self, ChunkMap, DiskKey};
use fs_btrfs::superblock::Superblock;
use fs_core::BlockRead;

use super::failure::{guard, translate};
use super::superblock;
use crate::block::{ReadAt, Weighted};
use crate::error::{Error, Result};
use crate::guest::cache::PageCache;
use crate::guest::device::VolumeBytes;
use crate::types::width::{usize_from_u32, usize_from_u64};

/// LIMIT: bytes of the volume cached per open filesystem, over all devices; and of tree nodes.
const CACHE_BYTES: u64 = 16 << 20;
const NODE_BYTES_KEPT: usize = 16 << 20;
/// LIMIT: devices of one filesystem (our limit).
const DEVICES_MAX: usize = 1024;
/// Number of commits by which a device may lag behind the newest one when devices were captured one after
/// another.
const BEHIND_MAX: u64 = 1;

/// The devices of a filesystem.
pub(super) struct Pool {
    devices: BTreeMap<u64, VolumeBytes>,
    /// Devices that have missed commits: their data may be old, and are read only where there is no other
    /// copy.
    stale: BTreeSet<u64>,
    /// The number of the first given device.
    pub(super) first: u64,
    pub(super) superblock: Superblock,
    pub(super) map: ChunkMap,
    nodes: Weighted<u64, TreeBlock>,
    /// Remarks for people.
    pub(super) notes: Vec<String>,
}

impl Pool {
    /// Opens the filesystem on the first device, with the other devices that belong to it.
    pub(super) fn open(given: &[Arc<dyn ReadAt>]) -> Result<Self> {
        let count = u64::try_from(given.len().max(1)).unwrap_or(u64::MAX);
        let mut devices = BTreeMap::new();
        let mut chosen: Option<(u64, Superblock)> = None;
        let mut notes = Vec::new();
        let mut generations = Vec::new();
        for volume in given.iter().take(DEVICES_MAX) {
            let cached = PageCache::new(Arc::clone(volume), CACHE_BYTES / count);
            let device = VolumeBytes(Arc::new(cached));
            let superblock = match (superblock::load(&device), &chosen) {
                (Ok((superblock, note)), _) => {
                    notes.extend(note);
                    superblock
                }
                (Err(error), None) => return Err(error),
                (Err(error), Some(_)) => {
                    notes.push(format!("a device was left out: {}", error.report()));
                    continue;
                }
            };
            let id = superblock.dev_item.devid;
            let generation = superblock.generation;
            match &mut chosen {
                None => chosen = Some((id, superblock)),
                Some((_, first)) if first.fsid != superblock.fsid => {
                    notes.push(format!("device {id} belongs to another filesystem"));
                    continue;
                }
                // A device that missed the last commits has an older superblock.
                Some((_, first)) if superblock.generation > first.generation => *first = superblock,
                Some(_) => {}
            }
            generations.push((id, generation));
            if devices.insert(id, device).is_some() {
                return Err(Error::corrupt(
                    "the number of a device",
                    "one for each",
                    format!("{id} twice"),
                ));
            }
        }
        let (first, superblock) = chosen.ok_or_else(|| Error::invalid("no device"))?;
        if superblock.is_metadump() {
            return Err(Error::unsupported(
                "a dump of metadata only (btrfs-image): no file's content is there",
            ));
        }
        if superblock.has_dirty_log() {
            notes.push(
                "the state of the last commit is shown: what the guest has synced since is in a log that is not read"
                    .to_owned(),
            );
        }
        let mut stale = BTreeSet::new();
        for (id, generation) in generations {
            if generation < superblock.generation {
                notes.push(format!("device {id} has missed the last commits"));
            }
            if generation.saturating_add(BEHIND_MAX) < superblock.generation {
                stale.insert(id);
            }
        }
        let found = u64::try_from(devices.len()).unwrap_or(u64::MAX);
        if found < superblock.num_devices {
            notes.push(format!(
                "{} of {} devices are missing",
                superblock.num_devices - found,
                superblock.num_devices
            ));
        }
        let mut pool = Self {
            devices,
            stale,
            first,
            map: ChunkMap::new(),
            superblock,
            nodes: Weighted::new(NODE_BYTES_KEPT),
            notes,
        };
        pool.map = guard(|| pool.load_map())?;
        Ok(pool)
    }

    /// The whole chunk map, starting from the part in the superblock.
    fn load_map(&self) -> Result<ChunkMap> {
        let sb = &self.superblock;
        let bootstrap = ChunkMap::bootstrap(sb).map_err(translate)?;
        let mut found = Vec::new();
        self.with_map(&bootstrap, |tree| {
            tree.read_child(sb.chunk_root, sb.chunk_root_generation)?;
            tree.for_each(sb.chunk_root, &mut |key: &DiskKey, data: &[u8]| {
                found.extend(chunk::chunk_from_item(key, data, sb.sectorsize)?);
                Ok(true)
            })
        })?;
        let mut map = bootstrap;
        for chunk in found {
            if map.chunk_for(chunk.logical) != Some(&chunk) {
                map.insert(chunk).map_err(translate)?;
            }
        }
        Ok(map)
    }

    /// The copy to try as the `nth`: copies on devices that have missed commits come last.
    fn nth_copy(&self, map: &ChunkMap, logical: u64, nth: usize) -> fs_btrfs::Result<usize> {
        if self.stale.is_empty() {
            return Ok(nth);
        }
        let is_stale = |copy: &usize| {
            let mapping = map.map_mirror(logical, *copy);
            mapping.is_ok_and(|mapping| self.stale.contains(&mapping.devid))
        };
        let (old, current): (Vec<usize>, Vec<usize>) =
            (0..map.mirrors_at(logical)?).partition(is_stale);
        Ok(current.iter().chain(&old).nth(nth).copied().unwrap_or(nth))
    }

    /// Reads a logical range from one of its copies.
    fn read_copy(
        &self,
        map: &ChunkMap,
        logical: u64,
        copy: usize,
        buf: &mut [u8],
    ) -> fs_btrfs::Result<()> {
        let (mut at, mut rest) = (logical, buf);
        while !rest.is_empty() {
            let mapping = map.map_mirror(at, self.nth_copy(map, at, copy)?)?;
            let length = usize_from_u64(mapping.len).min(rest.len());
            let device = self.devices.get(&mapping.devid).ok_or_else(|| {
                fs_btrfs::Error::UnsupportedFeature(format!(
                    "device {} is missing, and there is no other copy",
                    mapping.devid
                ))
            })?;
            let Some((part, after)) = rest.split_at_mut_checked(length).filter(|_| length > 0)
            else {
                return Err(fs_btrfs::Error::UnmappedLogical(at));
            };
            device.read_at(mapping.physical, part)?;
            at = at.saturating_add(mapping.len);
            rest = after;
        }
        Ok(())
    }

    /// Reads data from copy number `copy`, unchecked.
    pub(super) fn read_data(&self, logical: u64, copy: usize, buf: &mut [u8]) -> Result<()> {
        guard(|| {
            self.read_copy(&self.map, logical, copy, buf)
                .map_err(translate)
        })
    }

    /// Number of copies of the data at a logical address.
    pub(super) fn copies(&self, logical: u64) -> Result<usize> {
        self.map.mirrors_at(logical).map_err(translate)
    }

    fn with_map<T>(
        &self,
        map: &ChunkMap,
        call: impl FnOnce(&Tree<'_>) -> fs_btrfs::Result<T>,
    ) -> Result<T> {
        let read = |logical: u64, buf: &mut [u8]| self.read_copy(map, logical, 0, buf);
        let copies = |logical: u64| map.mirrors_at(logical);
        let read_copy =
            |logical: u64, copy: usize, buf: &mut [u8]| self.read_copy(map, logical, copy, buf);
        let get = |logical: u64| self.nodes.get(&logical);
        let put = |logical: u64, block: &TreeBlock| {
            let weight = usize_from_u32(self.superblock.nodesize);
            self.nodes.put(logical, block.clone(), weight);
        };
        let tree = Tree::from_superblock(&self.superblock, &read)
            .with_redundancy(&copies, &read_copy)
            .with_cache(&get, &put);
        call(&tree).map_err(translate)
    }

    /// Runs `call` with the crate's tree walker.
    pub(super) fn with_trees<T>(
        &self,
        call: impl FnOnce(&Tree<'_>) -> fs_btrfs::Result<T>,
    ) -> Result<T> {
        guard(|| self.with_map(&self.map, call))
    }
}
