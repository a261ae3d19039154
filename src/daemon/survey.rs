//! Meta contexts of disks: `qemu:allocation-depth`, and what has changed since an earlier point of the same VM.
//!
//! # Why
//! What changed is told from hashes of content and not from layers: a cluster that went away and came back has not changed, a disk that
//! was stored in full has changed only where it differs, and a merge of layers changes nothing. Regions (512 MiB) with
//! one hash are skipped, so that only the leaves of regions that differ are read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::chain::Disk;
use crate::error::Result;
use crate::ingest::DiskWriter;
use crate::nbd::server::{Stretch, Survey, Surveyor};
use crate::repo::content::{
    CLUSTER, LEAVES_PER_REGION, PAGE_BYTES, REGION_BYTES, Region, leaf_at, zero_page, zero_region,
};
use crate::repo::leaves::Leaves;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::PointParent;
use crate::repo::{Repository, Slot};
use crate::tree::{Tree, VmView};
use crate::types::width::usize_from_u64;
use crate::types::{Digest, PointName, VmName};

const DEPTH: &str = "qemu:allocation-depth";
const CHANGED_SINCE: &str = "x-restorefs:changed-since:";

/// Bit 0: the range may differ from what it was.
const CHANGED: u32 = 1;

/// LIMIT: earlier points that are named to who lists all contexts, nearest first; any other can be asked for by its name.
const LISTED_MAX: usize = 256;

/// LIMIT: regions whose comparison one context keeps, 1 KiB each.
const REGIONS_MAX: usize = 4096;

const CLUSTER_BYTES: u64 = CLUSTER.size_bytes();

/// Which clusters of a region differ, a bit for each.
type Map = Arc<[u8; LEAVES_PER_REGION / 8]>;

/// Leaves that some connection has open.
#[derive(Default)]
pub(super) struct Shelf(Mutex<HashMap<(String, Digest), Weak<Leaves>>>);

impl Shelf {
    fn open(
        &self,
        repository: &Arc<Repository>,
        vm: &VmName,
        slot: &Slot,
        root: Digest,
    ) -> Result<Arc<Leaves>> {
        let key = (vm.folded(), root);
        let shelf = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaves) = shelf().get(&key).and_then(Weak::upgrade) {
            return Ok(leaves);
        }
        let leaves = Arc::new(Leaves::open(repository, vm, slot, root)?);
        let mut shelf = shelf();
        shelf.retain(|_, leaves| leaves.strong_count() > 0);
        shelf.insert(key, Arc::downgrade(&leaves));
        Ok(leaves)
    }
}

/// The disk that is asked about.
#[derive(Clone)]
pub(super) enum Subject {
    /// Of a point.
    Point {
        /// Its chain.
        disk: Arc<Disk>,
        /// Slot of its layer.
        slot: Slot,
        /// Its content.
        root: Digest,
    },
    /// Of an open session.
    Session(Arc<DiskWriter>),
}

/// The meta contexts of one disk.
pub(super) struct DiskSurveyor {
    /// Knows which points there are.
    pub(super) tree: Arc<Tree>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) vm: VmName,
    /// Stable key of the disk.
    pub(super) key: String,
    /// The point that its point or session was compared with.
    pub(super) parent: Option<PointParent>,
    pub(super) subject: Subject,
}

impl DiskSurveyor {
    /// Points from the parent on, nearest first.
    fn ancestors<'a>(&self, vm: &'a VmView) -> Vec<&'a PointEntry> {
        let entries = vm.points.iter().map(|point| &point.entry);
        let by_id: HashMap<_, _> = entries.map(|entry| (entry.point_id, entry)).collect();
        let mut all: Vec<&PointEntry> = Vec::new();
        let mut next = self.parent.as_ref();
        // A loop in an index would have more steps than points.
        while let Some(point) = next.and_then(|parent| by_id.get(&parent.point_id))
            && all.len() < vm.points.len()
        {
            all.push(point);
            next = point.parent.as_ref();
        }
        all
    }

    /// Slot and content of our disk in an earlier point.
    fn earlier(&self, point: &PointEntry) -> Result<Option<(Slot, Digest)>> {
        let sidecar = self.tree.repository().point(&self.vm, point)?;
        let disk = sidecar.disks.iter().find(|disk| disk.key == self.key);
        Ok(disk.map(|disk| (disk.layer.clone(), disk.content_root)))
    }

    fn content(&self) -> Result<Content> {
        let open = |slot: &Slot, root| {
            self.shelf
                .open(self.tree.repository(), &self.vm, slot, root)
        };
        Ok(match &self.subject {
            Subject::Point { slot, root, .. } => Content {
                leaves: Some(open(slot, *root)?),
                held: None,
            },
            Subject::Session(disk) => {
                let parent = disk.meta().parent.as_ref();
                Content {
                    leaves: parent
                        .map(|parent| open(&parent.layer, parent.content_root))
                        .transpose()?,
                    held: Some(Arc::clone(disk)),
                }
            }
        })
    }
}

impl Surveyor for DiskSurveyor {
    fn names(&self) -> Vec<String> {
        let mut names = vec![DEPTH.to_owned()];
        let Ok(vm) = self.tree.vm(&self.vm) else {
            return names;
        };
        let ancestors = self.ancestors(&vm).into_iter().take(LISTED_MAX);
        let with_disk = ancestors.filter(|point| matches!(self.earlier(point), Ok(Some(_))));
        names.extend(with_disk.map(|point| format!("{CHANGED_SINCE}{}", point.name)));
        names
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn Survey>>> {
        if name == DEPTH {
            return Ok(Some(Arc::new(Depth(self.subject.clone()))));
        }
        let Some(point) = name.strip_prefix(CHANGED_SINCE) else {
            return Ok(None);
        };
        let Ok(point) = PointName::new(point) else {
            return Ok(None);
        };
        // A session can be of a VM that has no points yet.
        let Ok(vm) = self.tree.vm(&self.vm) else {
            return Ok(None);
        };
        let ancestors = self.ancestors(&vm);
        let Some(point) = ancestors
            .into_iter()
            .find(|p| p.name.folded() == point.folded())
        else {
            return Ok(None);
        };
        let Some((slot, root)) = self.earlier(point)? else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Changed {
            now: self.content()?,
            since: self
                .shelf
                .open(self.tree.repository(), &self.vm, &slot, root)?,
            maps: Mutex::default(),
            last: Mutex::default(),
        })))
    }
}

/// `qemu:allocation-depth`.
struct Depth(Subject);

impl Survey for Depth {
    fn stretch_at(&self, offset: u64, length_max: u64) -> Result<Stretch> {
        let (flags, length_bytes) = match &self.0 {
            Subject::Point { disk, .. } => disk.depth_at(offset, length_max)?,
            Subject::Session(disk) => disk.depth_at(offset, length_max)?,
        };
        Ok(Stretch {
            length_bytes,
            flags,
        })
    }
}

/// A disk as it is compared: leaves, and over them what a session has written.
struct Content {
    /// `None`: zeroes.
    leaves: Option<Arc<Leaves>>,
    held: Option<Arc<DiskWriter>>,
}

impl Content {
    fn region(&self, region: Region) -> Digest {
        self.leaves
            .as_ref()
            .map_or_else(zero_region, |leaves| leaves.region(region))
    }

    fn load_page(&self, region: Region, page: &mut [u8]) -> Result<()> {
        match &self.leaves {
            Some(leaves) => leaves.load_page(region, page),
            None => {
                page.copy_from_slice(zero_page());
                Ok(())
            }
        }
    }
}

/// `x-restorefs:changed-since:<point>`.
struct Changed {
    now: Content,
    since: Arc<Leaves>,
    maps: Mutex<HashMap<u64, Map>>,
    last: Mutex<Option<(Region, Arc<Vec<u8>>)>>,
}

impl Changed {
    /// Which clusters of a region differ; `None` for none.
    fn map(&self, region: Region) -> Result<Option<Map>> {
        if self.now.region(region) == self.since.region(region) {
            return Ok(None);
        }
        let maps = || self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps().get(&region.0) {
            return Ok(Some(Arc::clone(map)));
        }
        let (mut now, mut since) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        self.now.load_page(region, &mut now)?;
        self.since.load_page(region, &mut since)?;
        let mut map = [0u8; LEAVES_PER_REGION / 8];
        for index in 0..LEAVES_PER_REGION {
            if leaf_at(&now, index) != leaf_at(&since, index)
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

    /// The leaves that a region had; those of the last region that was asked for are kept.
    fn earlier(&self, region: Region) -> Result<Arc<Vec<u8>>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Whether committed content at `offset` differs, and up to where that holds, at most `end`.
    fn differs(&self, offset: u64, end: u64) -> Result<(bool, u64)> {
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
}

impl Survey for Changed {
    fn stretch_at(&self, offset: u64, length_max: u64) -> Result<Stretch> {
        let said = |is_changed, end: u64| {
            Ok(Stretch {
                length_bytes: end - offset,
                flags: if is_changed { CHANGED } else { 0 },
            })
        };
        let size = self.since.size_bytes();
        let end = offset.saturating_add(length_max);
        // What was not there has changed, whatever it is.
        if offset >= size {
            return said(true, end);
        }
        let end = end.min(size);
        if let Some(disk) = &self.now.held {
            let earlier = self.earlier(Region(offset / REGION_BYTES))?;
            if let Some((is_changed, end)) = disk.difference_at(offset, end, &earlier)? {
                return said(is_changed, end);
            }
        }
        let (is_changed, end) = self.differs(offset, end)?;
        said(is_changed, end)
    }
}
