//! `files/`: the guests' own trees, joined from the volumes of a point.
//!
//! # Invariants
//! - Each mount of a plan is an *instance* with its own inodes, even when two mounts show one volume: a
//!   directory is at one place only, and a volume mounted within itself is not a loop.
//! - The number of an instance (8 bits of its inodes, above those of volumes) is its position, as long as all
//!   volumes are readable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::volume_node::VolumeNode;
use crate::guest::fs::GuestIno;
use crate::guest::system::{
    FileLocation, Files as Plan, MountAt, System as PlannedSystem, Unjoined,
};

/// First number of an instance in inodes; smaller ones are volumes'.
const NUMBER_FIRST: u8 = 128;
/// LIMIT: instances with a number.
const NUMBER_COUNT: usize = 127;
/// The name of the default system's tree.
pub(super) const NAME: &str = "files";

/// A filesystem, or a part of one, at one place in one tree.
pub(super) struct Instance {
    /// Its number in inodes; `None` when the table numbers its inodes.
    pub(super) number: Option<u8>,
    pub(super) volume: Arc<VolumeNode>,
    /// The directory of the filesystem that it shows.
    pub(super) root: GuestIno,
    /// The directory that it covers, and the instance of that directory; `None` at the top of a tree.
    pub(super) over: Option<(usize, GuestIno)>,
    /// Position of the tree.
    pub(super) tree: usize,
    /// Path in the tree, absolute.
    path: Vec<u8>,
}

/// The top of a tree.
pub(super) enum Top {
    /// A guest's directory.
    Instance(usize),
    /// A directory of the tree itself, with one entry for each filesystem.
    Several(Vec<(String, usize)>),
}

/// A tree: `files`, or `files@<label>`.
pub(super) struct FileTree {
    pub(super) name: String,
    pub(super) top: Top,
    /// The system's own name.
    system: Option<String>,
    pub(super) unjoined: Vec<Unjoined>,
    /// Remarks for people.
    notes: Vec<String>,
}

/// The trees of a point; the first is `files`.
#[derive(Default)]
pub(super) struct Files {
    pub(super) trees: Vec<FileTree>,
    instances: Vec<Arc<Instance>>,
    covers: HashMap<(usize, GuestIno), usize>,
}

impl Files {
    /// The trees of a plan over these volumes; instances get numbers only when `complete`.
    pub(super) fn new(
        plan: Plan,
        left_out: Vec<Unjoined>,
        volumes: &[Arc<VolumeNode>],
        complete: bool,
    ) -> Self {
        let mut files = Self::default();
        let add = |files: &mut Self, place: FileLocation, path: String| {
            files.add(place, None, path.into_bytes(), 0, volumes, complete)
        };
        match plan {
            Plan::Nothing => {
                let top = Top::Several(Vec::new());
                files.tree(NAME.to_owned(), top, None, left_out);
            }
            Plan::One(place) => {
                if let Some(top) = add(&mut files, place, "/".to_owned()) {
                    files.tree(NAME.to_owned(), Top::Instance(top), None, left_out);
                }
            }
            Plan::Several(places) => {
                let children = places
                    .into_iter()
                    .filter_map(|(name, place)| {
                        let at = add(&mut files, place, format!("/{name}"))?;
                        Some((name, at))
                    })
                    .collect();
                files.tree(NAME.to_owned(), Top::Several(children), None, left_out);
            }
            Plan::Systems(systems) => {
                for system in systems {
                    files.system(system, volumes, complete);
                }
            }
        }
        files
    }

    fn tree(&mut self, name: String, top: Top, system: Option<String>, unjoined: Vec<Unjoined>) {
        self.trees.push(FileTree {
            name,
            top,
            system,
            unjoined,
            notes: Vec::new(),
        });
    }

    fn system(&mut self, system: PlannedSystem, volumes: &[Arc<VolumeNode>], complete: bool) {
        let tree = self.trees.len();
        let name = match tree {
            0 => NAME.to_owned(),
            _ => format!("{NAME}@{}", system.label),
        };
        let Some(top) = self.add(system.root, None, b"/".to_vec(), tree, volumes, complete) else {
            return;
        };
        for mount in system.mounts {
            let MountAt { path, over, root } = mount;
            let parent = self.instance_above(tree, &path, volumes, over.volume);
            let Some(parent) = parent else { continue };
            let at = self.add(
                root,
                Some((parent, over.ino)),
                path,
                tree,
                volumes,
                complete,
            );
            if let Some(at) = at {
                self.covers.insert((parent, over.ino), at);
            }
        }
        self.tree(name, Top::Instance(top), system.name, system.unjoined);
        if let Some(tree) = self.trees.last_mut() {
            tree.notes = system.notes;
        }
    }

    /// The instance of that volume that contains a path of the tree: the one with the longest path above it.
    fn instance_above(
        &self,
        tree: usize,
        path: &[u8],
        volumes: &[Arc<VolumeNode>],
        volume: usize,
    ) -> Option<usize> {
        let volume = volumes.get(volume)?;
        let is_above = |instance: &Instance| {
            let above = instance.path.strip_suffix(b"/").unwrap_or(&instance.path);
            path.strip_prefix(above)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.instances
            .iter()
            .enumerate()
            .filter(|(_, instance)| {
                instance.tree == tree && Arc::ptr_eq(&instance.volume, volume) && is_above(instance)
            })
            // At one path the last instance covers the others.
            .max_by_key(|(at, instance)| (instance.path.len(), *at))
            .map(|(at, _)| at)
    }

    fn add(
        &mut self,
        place: FileLocation,
        over: Option<(usize, GuestIno)>,
        path: Vec<u8>,
        tree: usize,
        volumes: &[Arc<VolumeNode>],
        complete: bool,
    ) -> Option<usize> {
        let at = self.instances.len();
        let number = u8::try_from(at)
            .ok()
            .filter(|_| complete && at < NUMBER_COUNT)
            .map(|at| NUMBER_FIRST + at);
        self.instances.push(Arc::new(Instance {
            number,
            volume: Arc::clone(volumes.get(place.volume)?),
            root: place.ino,
            over,
            tree,
            path,
        }));
        Some(at)
    }

    /// The places below a point at which a volume is shown: the path, the directory there, and those of its directories that other
    /// mounts cover.
    pub(super) fn places_of(
        &self,
        volume: &Arc<VolumeNode>,
    ) -> Vec<(Vec<u8>, GuestIno, HashSet<GuestIno>)> {
        let of_volume = self.instances.iter().enumerate();
        let of_volume = of_volume.filter(|(_, instance)| Arc::ptr_eq(&instance.volume, volume));
        let places = of_volume.map(|(at, instance)| {
            let tree = self.trees.get(instance.tree);
            let name = tree.map_or(NAME, |tree| tree.name.as_str());
            let mut path = format!("/{name}").into_bytes();
            path.extend_from_slice(instance.path.strip_suffix(b"/").unwrap_or(&instance.path));
            let covered = self.covers.keys();
            let covered = covered.filter(|(over, _)| *over == at);
            (path, instance.root, covered.map(|(_, ino)| *ino).collect())
        });
        places.collect()
    }

    /// Whether the volume number in an inode is that of an instance.
    pub(super) const fn is_number(number: u8) -> bool {
        number >= NUMBER_FIRST
    }

    /// The instance at that position.
    pub(super) fn instance(&self, at: usize) -> Option<&Arc<Instance>> {
        self.instances.get(at)
    }

    /// The position of the instance with that number.
    pub(super) fn numbered(&self, number: u8) -> Option<usize> {
        self.instances
            .iter()
            .position(|instance| instance.number == Some(number))
    }

    /// The directory shown at a directory of an instance: itself, or the root of the mount on it.
    pub(super) fn shown(&self, instance: usize, ino: GuestIno) -> (usize, GuestIno) {
        let mut here = (instance, ino);
        // Mounts may be stacked. Each is used once, so this ends.
        for _ in 0..=self.covers.len() {
            let Some((at, mounted)) = self
                .covers
                .get(&here)
                .and_then(|at| Some((*at, self.instances.get(*at)?)))
            else {
                break;
            };
            here = (at, mounted.root);
        }
        here
    }

    /// Describes the trees for `volumes.json`; `attributes` gives those of their tops.
    pub(super) fn describe(&self, attributes: impl Fn(usize) -> Option<Value>) -> Value {
        let trees = self.trees.iter().enumerate();
        trees
            .map(|(at, tree)| self.describe_tree(at, tree, &attributes(at)))
            .collect()
    }

    fn describe_tree(&self, at: usize, tree: &FileTree, attributes: &Option<Value>) -> Value {
        let of_tree = self.instances.iter().filter(|instance| instance.tree == at);
        let mounts: Vec<Value> = of_tree
            .map(|instance| json!({"path": String::from_utf8_lossy(&instance.path), "volume": instance.volume.volume.path}))
            .collect();
        let unjoined: Vec<Value> = tree
            .unjoined
            .iter()
            .map(|entry| json!({"source": entry.source, "target": entry.target, "reason": entry.reason, "class": entry.class.as_str()}))
            .collect();
        json!({
            "name": tree.name,
            "system": tree.system,
            "mounts": mounts,
            "unjoined": unjoined,
            "notes": tree.notes,
            "attributes": attributes,
        })
    }
}
