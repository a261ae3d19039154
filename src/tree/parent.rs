//! Finds the directory that contains a node.

use std::sync::Arc;

use super::Tree;
use super::files::Top;
use super::inode::{Ino, low};
use super::location::GuestLocation;
use super::node::{GuestNode, Node};
use super::refusal::stale;
use super::snapshot::PointView;
use super::volume::Volumes;
use crate::error::Result;
use crate::guest::fs::FileType;

/// LIMIT: directories that a search for an unknown parent reads.
const PARENT_SEARCH_MAX: usize = 100_000;

impl Tree {
    /// The directory that contains a node; the root's is the root.
    ///
    /// # Errors
    /// `Stale` when it is gone, or when a guest's directory cannot be found again.
    pub fn parent(&self, ino: Ino) -> Result<Ino> {
        let of_path = |point: &PointView, volumes: &Volumes, path: &str| match path.rsplit_once('/')
        {
            None => Ok(point.ino(low::VOLUMES)),
            Some((above, _)) => volumes.ino_of(point, above),
        };
        match self.node(ino)? {
            Node::Root | Node::Vm(_) => Ok(Ino::ROOT),
            Node::Latest(point) | Node::Point(point) => self
                .snapshot()
                .vm(point.vm.as_str())
                .map(|vm| vm.ino())
                .ok_or_else(stale),
            Node::Info(point)
            | Node::VolumesJson(point)
            | Node::AttachedDir(point)
            | Node::Files(point, ..)
            | Node::DisksDir(point) => Ok(point.ino(low::SELF)),
            Node::Attached(point, _) => Ok(point.ino(low::ATTACHED)),
            Node::Disk(point, _) => Ok(point.ino(low::DISKS)),
            Node::Volumes(point, _, path) if path.is_empty() => Ok(point.ino(low::SELF)),
            Node::Volumes(point, volumes, path) => of_path(&point, &volumes, &path),
            Node::VolumeRaw(point, volume) => {
                let volumes = self.shared.scanner.volumes(&point)?;
                of_path(&point, &volumes, &volume.volume.path)
            }
            Node::Session(node) => self.session_parent(&node),
            Node::Guest(node) => self.guest_parent(ino, &node),
        }
    }

    fn guest_parent(&self, ino: Ino, node: &GuestNode) -> Result<Ino> {
        let is_root = node.ino == node.place.root(&*node.fs);
        match &node.place {
            GuestLocation::Volume(volume) if is_root => match volume.volume.path.rsplit_once('/') {
                None => Ok(node.point.ino(low::VOLUMES)),
                Some((above, _)) => node.volumes.ino_of(&node.point, above),
            },
            GuestLocation::Files(_, instance) if is_root && instance.over.is_none() => {
                let position = u32::try_from(instance.tree).map_err(|_| stale())?;
                match node
                    .volumes
                    .files
                    .trees
                    .get(instance.tree)
                    .map(|tree| &tree.top)
                {
                    Some(Top::Several(_)) => Ok(node.point.ino(low::FILES | position)),
                    _ => Ok(node.point.ino(low::SELF)),
                }
            }
            _ => {
                let mut parents = self.shared.parents();
                let known = parents.get(&ino).copied();
                drop(parents);
                match known {
                    Some(parent) => Ok(parent),
                    None => self.search_parent(node),
                }
            }
        }
    }

    /// Searches for the directory that contains a guest's directory of which only the number is known (an NFS
    /// client's handle after a restart).
    fn search_parent(&self, node: &GuestNode) -> Result<Ino> {
        // The parent of a mounted root is that of the directory that it covers.
        let (place, fs, wanted) = match &node.place {
            GuestLocation::Files(_, instance) if node.ino == instance.root => {
                let (at, covered) = instance.over.ok_or_else(stale)?;
                let place = node.volumes.instance(at)?;
                let fs = self
                    .shared
                    .scanner
                    .filesystem(&node.point, &place.volume().volume)?;
                (place, fs, covered)
            }
            place => (place.clone(), Arc::clone(&node.fs), node.ino),
        };
        let root = place.root(&*fs);
        let mut queue = std::collections::VecDeque::from([root]);
        let mut seen = std::collections::HashSet::from([root]);
        let mut looked = 0;
        while let Some(directory) = queue.pop_front() {
            looked += 1;
            if looked > PARENT_SEARCH_MAX {
                break;
            }
            let Ok(entries) = fs.entries(directory) else {
                continue;
            };
            for entry in entries.iter() {
                if entry.ino == wanted {
                    return self.guest_ino(&node.point, &node.volumes, &place, directory);
                }
                let is_directory = fs
                    .attributes(entry.ino)
                    .is_ok_and(|a| a.file_type == FileType::Directory);
                if is_directory && seen.insert(entry.ino) {
                    queue.push_back(entry.ino);
                }
            }
        }
        Err(stale())
    }
}
