//! The volumes of a point: scanned once when `volumes/` is first read, named, numbered, opened.
//!
//! # Invariants
//! - Damage is a state of one volume, and does not affect the others.
//! - The number of a volume (8 bits of its inodes) is its position, as long as everything before it is
//!   readable. Otherwise it has no number, and the table numbers its inodes. So a number never refers to
//!   another volume.

mod scanner;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::files::{Files, Top};
use super::inode::{self, Ino, low};
use super::location::GuestLocation;
use super::snapshot::PointView;
use super::volume_node::VolumeNode;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FsInfo, GuestIno, VolumeState};
use crate::guest::volume::{Origin, Scan, Volume};
pub(super) use scanner::Scanner;

/// The highest number of a volume; greater ones belong to the instances of file trees.
const NUMBER_MAX: u8 = 127;

/// The result of opening a volume.
struct Probed {
    state: VolumeState,
    info: Option<FsInfo>,
    /// Whether another attempt may have another result.
    passing: bool,
}

impl Default for Probed {
    fn default() -> Self {
        Self {
            state: VolumeState::NoFilesystem,
            info: None,
            passing: true,
        }
    }
}

/// Kind of a name below `volumes/`.
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
    /// Paths of the tree's own directories and raw files by the lower bits of their inodes, and the reverse map.
    by_low: HashMap<u32, String>,
    low_of: HashMap<String, u32>,
    /// The guests' own trees.
    pub(super) files: Files,
    /// Remarks for people.
    pub(super) notes: Vec<String>,
    /// Whether every disk was readable.
    pub(super) complete: bool,
    at: Instant,
    /// Number of scans so far, this one included; a complete one is not repeated.
    failures: u32,
}

impl Volumes {
    /// The volumes of a scan, each with the result of opening it.
    fn new(point: &PointView, scan: Scan, opened: Vec<Probed>, failures: u32) -> Self {
        let mut volumes = Self {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            by_low: HashMap::new(),
            low_of: HashMap::new(),
            files: Files::default(),
            notes: scan.notes,
            complete: scan.complete && opened.iter().all(|probed| !probed.passing),
            at: Instant::now(),
            failures,
        };
        for disk in &point.entry.disks {
            let name = disk.name.as_str().to_owned();
            volumes.names.insert(name, Name::Directory);
        }
        for (position, (volume, probed)) in scan.volumes.into_iter().zip(opened).enumerate() {
            volumes.add(volume, position < scan.settled, probed);
        }
        volumes.number_names();
        volumes
    }

    fn add(&mut self, volume: Volume, is_settled: bool, probed: Probed) {
        let number = u8::try_from(self.nodes.len() + 1)
            .ok()
            .filter(|n| *n <= NUMBER_MAX && is_settled);
        let node = Arc::new(VolumeNode {
            number,
            volume,
            state: probed.state,
            info: probed.info,
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
        // The whole disk is in `disks/` already, and an unassembled volume has no content to show.
        let is_disk = matches!(node.volume.origin, Origin::Disk(_));
        if !is_disk && node.volume.map.size_bytes() > 0 {
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

    /// The node at a path below `volumes/`.
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

    /// The volume with that number.
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

    /// The instance of `files/` at that position.
    pub(super) fn instance(&self, at: usize) -> Result<GuestLocation> {
        self.files
            .instance(at)
            .map(|instance| GuestLocation::Files(at, Arc::clone(instance)))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Stale,
                    "this part of the tree is not there any more",
                )
            })
    }

    /// The directory shown at the root of an instance: itself, or the mount on it.
    pub(super) fn top(&self, at: usize) -> Result<(usize, GuestIno)> {
        match self.instance(at)? {
            GuestLocation::Files(_, instance) => Ok(self.files.shown(at, instance.root)),
            GuestLocation::Volume(_) => Err(Error::invalid("no instance")),
        }
    }

    /// The position of the tree whose top is this directory.
    pub(super) fn is_top(&self, at: usize, ino: GuestIno) -> Option<u32> {
        let tree = self.files.instance(at)?.tree;
        match self.files.trees.get(tree)?.top {
            Top::Instance(top) if self.top(top).ok()? == (at, ino) => u32::try_from(tree).ok(),
            _ => None,
        }
    }

    /// The directories of a tree whose top is a directory of the tree itself.
    pub(super) fn several(&self, position: usize) -> &[(String, usize)] {
        match self.files.trees.get(position).map(|tree| &tree.top) {
            Some(Top::Several(children)) => children,
            _ => &[],
        }
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
