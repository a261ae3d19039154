//! The volumes of a point: scanned once when `volumes/` is entered, named, numbered, opened.
//!
//! # Invariants
//! - Damage is a state of one volume, and never stops the others.
//! - The number of a volume (8 bits of its inodes) is its position as long as everything before it could be read; otherwise it has
//!   none, and its inodes come from the table. So a number never means another volume.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attribute::TreeOptions;
use super::cache::Flights;
use super::disk::Disks;
use super::inode::{self, Ino, low};
use super::snapshot::PointView;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FsInfo, GuestFs, VolumeState};
use crate::guest::volume::{Volume, scan_point};
use crate::guest::worker::{Limits, Readers};
use crate::types::PointId;
use crate::types::width::usize_from_u64;

/// LIMIT: points whose volumes are remembered.
const SCANS_KEPT: NonZeroUsize = NonZeroUsize::new(128).unwrap();
/// A scan that met a disk that could not be read is repeated after this long.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// The highest number that packs.
const NUMBER_MAX: u8 = 254;

/// A volume of a point.
pub(super) struct VolumeNode {
    /// Its number in inodes; `None`: its inodes come from the table.
    pub(super) number: Option<u8>,
    /// What the scan found.
    pub(super) volume: Volume,
    /// How far its filesystem could be opened.
    pub(super) state: VolumeState,
    /// What the filesystem says of itself, when it could be.
    pub(super) info: Option<FsInfo>,
}

/// What a name below `volumes/` is.
#[derive(Clone)]
pub(super) enum Name {
    /// A directory of the tree itself.
    Directory,
    /// The raw bytes of a volume.
    Raw(Arc<VolumeNode>),
    /// The root of a guest's filesystem.
    Root(Arc<VolumeNode>),
}

/// The volumes of a point.
pub(super) struct Volumes {
    /// In the order of disks and partitions.
    pub(super) nodes: Vec<Arc<VolumeNode>>,
    /// All paths below `volumes/`.
    names: BTreeMap<String, Name>,
    /// Paths of the tree's own directories and raw files by the lower bits of their inodes, and back.
    by_low: HashMap<u32, String>,
    low_of: HashMap<String, u32>,
    /// Remarks for people.
    pub(super) notes: Vec<String>,
    /// Whether every disk could be scanned.
    pub(super) complete: bool,
    at: Instant,
}

impl Volumes {
    fn scan(disks: &Arc<Disks>, point: &Arc<PointView>) -> Self {
        let sources = disks.all(point);
        let mut volumes = Self {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            by_low: HashMap::new(),
            low_of: HashMap::new(),
            notes: Vec::new(),
            complete: true,
            at: Instant::now(),
        };
        let names = point.entry.disks.iter().map(|disk| disk.name.as_str());
        for name in names.clone() {
            volumes.names.insert(name.to_owned(), Name::Directory);
        }
        let named: Vec<_> = names
            .map(str::to_owned)
            .zip(sources.iter().cloned())
            .collect();
        let scan = scan_point(&named);
        volumes.notes = scan.notes;
        volumes.complete = scan.complete;
        for (position, volume) in scan.volumes.into_iter().enumerate() {
            volumes.add(volume, position < scan.settled, &sources);
        }
        volumes.number_names();
        volumes
    }

    fn add(&mut self, volume: Volume, is_settled: bool, sources: &[Arc<dyn ReadAt>]) {
        let number = u8::try_from(self.nodes.len() + 1)
            .ok()
            .filter(|n| *n <= NUMBER_MAX && is_settled);
        let (state, fs) = volume.open(sources);
        let node = Arc::new(VolumeNode {
            number,
            volume,
            state,
            info: fs.map(|fs| fs.info().clone()),
        });
        let path = node.volume.path.clone();
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.names
                .entry(parent.to_owned())
                .or_insert(Name::Directory);
            above = parent;
        }
        if node.state == VolumeState::Readable {
            self.names
                .insert(path.clone(), Name::Root(Arc::clone(&node)));
        }
        // The whole disk is in disks/ already.
        if !path.ends_with("/raw") {
            self.names
                .insert(format!("{path}.raw"), Name::Raw(Arc::clone(&node)));
        }
        self.nodes.push(node);
    }

    fn number_names(&mut self) {
        for (path, name) in &self.names {
            let base = match name {
                Name::Directory => low::VOLUME_DIR,
                Name::Raw(_) => low::VOLUME_RAW,
                Name::Root(_) => continue,
            };
            let mut hash = inode::hash(path.as_bytes()) & low::INDEX_MASK;
            while self.by_low.contains_key(&(base | hash)) {
                hash = (hash + 1) & low::INDEX_MASK;
            }
            self.by_low.insert(base | hash, path.clone());
            self.low_of.insert(path.clone(), base | hash);
        }
    }

    /// What lies at a path below `volumes/`.
    pub(super) fn name(&self, path: &str) -> Option<&Name> {
        self.names.get(path)
    }

    /// The path of one of the tree's own nodes.
    pub(super) fn path_of(&self, low: u32) -> Result<&str> {
        self.by_low
            .get(&low)
            .map(String::as_str)
            .ok_or_else(|| Error::new(ErrorKind::Stale, "this volume is not there any more"))
    }

    /// The inode of one of the tree's own nodes.
    pub(super) fn ino_of(&self, point: &PointView, path: &str) -> Result<Ino> {
        self.low_of
            .get(path)
            .map(|low| point.ino(*low))
            .ok_or_else(|| Error::not_found("no such volume"))
    }

    /// The volume of that number.
    pub(super) fn numbered(&self, number: u8) -> Result<&Arc<VolumeNode>> {
        self.nodes
            .iter()
            .find(|node| node.number == Some(number))
            .ok_or_else(|| Error::new(ErrorKind::Stale, "this volume is not there any more"))
    }

    /// The volume at that path.
    pub(super) fn at_path(&self, path: &str) -> Result<&Arc<VolumeNode>> {
        self.nodes
            .iter()
            .find(|node| node.volume.path == path)
            .ok_or_else(|| Error::new(ErrorKind::Stale, "this volume is not there any more"))
    }

    /// Names directly below a path (empty: `volumes/` itself), sorted.
    pub(super) fn children(&self, path: &str) -> Vec<(&str, &Name)> {
        self.names
            .iter()
            .filter_map(|(full, name)| {
                let child = if path.is_empty() {
                    full.as_str()
                } else {
                    full.strip_prefix(path)?.strip_prefix('/')?
                };
                (!child.contains('/')).then_some((child, name))
            })
            .collect()
    }
}

/// Scans points and opens their filesystems.
pub(super) struct Scanner {
    disks: Arc<Disks>,
    scans: Flights<PointId, Arc<Volumes>>,
    filesystems: Flights<(PointId, String), Arc<dyn GuestFs>>,
    readers: Readers,
}

impl Scanner {
    pub(super) fn new(disks: &Arc<Disks>, options: &TreeOptions) -> Self {
        let memory = options.memory;
        let open = NonZeroUsize::new(usize_from_u64(memory.readers()));
        Self {
            disks: Arc::clone(disks),
            scans: Flights::new(SCANS_KEPT),
            filesystems: Flights::new(open.unwrap_or(NonZeroUsize::MIN)),
            readers: Readers::new(
                options.isolation.clone(),
                Limits::default(),
                usize_from_u64(memory.record_bytes()),
            ),
        }
    }

    /// The volumes of a point, scanned now if they have not been.
    pub(super) fn volumes(&self, point: &Arc<PointView>) -> Result<Arc<Volumes>> {
        self.scans.get_or(
            point.entry.point_id,
            |known| known.complete || known.at.elapsed() < RETRY_AFTER,
            || Ok(Arc::new(Volumes::scan(&self.disks, point))),
        )
    }

    /// The volumes of a point if they are known; opens nothing.
    pub(super) fn known(&self, point: &PointView) -> Option<Arc<Volumes>> {
        self.scans.peek(&point.entry.point_id)
    }

    /// The bytes of a volume.
    pub(super) fn raw(&self, point: &Arc<PointView>, volume: &Volume) -> Arc<dyn ReadAt> {
        volume.reader(&self.disks.all(point))
    }

    /// The filesystem on a volume.
    pub(super) fn filesystem(
        &self,
        point: &Arc<PointView>,
        volume: &Volume,
    ) -> Result<Arc<dyn GuestFs>> {
        let key = (point.entry.point_id, volume.path.clone());
        let place = || format!("{}@{}/volumes/{}", point.vm, point.entry.name, volume.path);
        self.filesystems.get_or(
            key,
            |_| true,
            || match self.readers.open(volume.devices(&self.disks.all(point))) {
                (VolumeState::Readable, Some(fs)) => Ok(fs),
                (VolumeState::Unsupported(what), _) => {
                    Err(Error::unsupported(what).at_path(place()))
                }
                (VolumeState::Damaged(what), _) => {
                    Err(Error::new(ErrorKind::Corrupt, what).at_path(place()))
                }
                (VolumeState::NoFilesystem | VolumeState::Readable, _) => {
                    Err(Error::not_found("there is no filesystem on this volume").at_path(place()))
                }
            },
        )
    }
}
