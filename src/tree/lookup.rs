//! Lookup: finds the node of a name in a directory.

use std::sync::Arc;

use super::Tree;
use super::attribute::{Found, NodeLook, Ttl};
use super::files;
use super::inode::{self, Ino, low};
use super::location::GuestLocation;
use super::node::{GuestNode, Node, Point};
use super::refusal::{absent, no_directory};
use super::session_node::SUFFIX;
use super::stat::committed;
use super::volume::{Name, Volumes};
use crate::error::Result;
use crate::guest::fs::{FileType, GuestIno};

impl Tree {
    /// Finds a name in a directory; also `.` and `..`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; `Stale` when `parent` is gone; errors of the guest's reader.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Found> {
        match name {
            b"." => return self.attributes(parent),
            b".." => return self.attributes(self.parent(parent)?),
            _ => {}
        }
        let node = self.node(parent)?;
        if let Node::Guest(directory) = &node {
            let child = directory.fs.lookup(directory.ino, name)?;
            return self.guest_found(directory, parent, child);
        }
        let text = std::str::from_utf8(name).map_err(|_| absent())?;
        match &node {
            Node::Root => {
                let snapshot = self.snapshot();
                let vm = snapshot.vm(text).ok_or_else(absent)?;
                self.found(vm.ino(), &Node::Vm(Arc::clone(vm)))
            }
            Node::Vm(vm) if text == "latest" => {
                let point = vm.latest().ok_or_else(absent)?;
                self.found(point.ino(low::LATEST), &Node::Latest(Arc::clone(point)))
            }
            Node::Vm(vm) if text.ends_with(SUFFIX) => {
                let session = self.session_named(vm.name.as_str(), text);
                self.session_found(&session.ok_or_else(absent)?)
            }
            Node::Session(node) => self.session_child(node, text),
            Node::Vm(vm) => {
                let point = vm.point(text).ok_or_else(absent)?;
                self.found(point.ino(low::SELF), &Node::Point(Arc::clone(point)))
            }
            Node::Point(point) => self.point_child(point, text),
            Node::AttachedDir(point) => {
                let facts = self.shared.disks.facts(point);
                let mut files = facts.attached.iter();
                let at = files.position(|f| f.name == text).ok_or_else(absent)?;
                let ino = point.ino(low::ATTACHED_FILE | inode::index_bits(at).ok_or_else(absent)?);
                self.found(ino, &Node::Attached(Arc::clone(point), at))
            }
            Node::DisksDir(point) => {
                let disk = text.strip_suffix(".raw").ok_or_else(absent)?;
                let facts = self.shared.disks.facts(point);
                let mut disks = facts.disks.iter();
                let at = disks.position(|d| d.name.as_str() == disk);
                let at = at.ok_or_else(absent)?;
                let ino = point.ino(low::DISK | inode::index_bits(at).ok_or_else(absent)?);
                self.found(ino, &Node::Disk(Arc::clone(point), at))
            }
            Node::Volumes(point, volumes, path) => self.volume_child(point, volumes, path, text),
            Node::Files(point, volumes, position) => {
                let at = volumes
                    .several(*position)
                    .iter()
                    .find(|(name, _)| name == text);
                let (_, at) = at.ok_or_else(absent)?;
                self.instance_found(point, volumes, *at)
            }
            Node::Latest(_)
            | Node::Info(_)
            | Node::VolumesJson(_)
            | Node::Attached(..)
            | Node::Disk(..)
            | Node::VolumeRaw(..)
            | Node::Guest(_) => Err(no_directory()),
        }
    }

    /// One of the names directly below a point.
    pub(super) fn point_child(&self, point: &Point, name: &str) -> Result<Found> {
        let same = Arc::clone(point);
        match name {
            "info.json" => self.document_found(point, low::INFO),
            "volumes.json" => self.document_found(point, low::VOLUMES_JSON),
            "attached" => self.found(point.ino(low::ATTACHED), &Node::AttachedDir(same)),
            "disks" => self.found(point.ino(low::DISKS), &Node::DisksDir(same)),
            // A lookup of the name alone does not scan the disks.
            "volumes" => Ok(self.own(point.ino(low::VOLUMES), NodeLook::Directory, point)),
            files::NAME => self.files_found(point, 0),
            _ if name.starts_with(files::NAME) => {
                let position = self
                    .file_trees(point)?
                    .iter()
                    .position(|known| known == name);
                self.files_found(point, position.ok_or_else(absent)?)
            }
            _ => Err(absent()),
        }
    }

    /// A name below `volumes/`.
    pub(super) fn volume_child(
        &self,
        point: &Point,
        volumes: &Arc<Volumes>,
        path: &str,
        name: &str,
    ) -> Result<Found> {
        let full = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}/{name}")
        };
        let mut found = match volumes.name(&full).ok_or_else(absent)? {
            Name::Directory => {
                let ino = volumes.ino_of(point, &full)?;
                self.own(ino, NodeLook::Directory, point)
            }
            Name::Raw(volume) => {
                let ino = volumes.ino_of(point, &full)?;
                self.raw_found(ino, point, volume)
            }
            Name::Root(volume) => {
                let fs = self.shared.scanner.filesystem(point, &volume.volume)?;
                let place = GuestLocation::Volume(Arc::clone(volume));
                let ino = self.guest_ino(point, volumes, &place, fs.root())?;
                let root = fs.attributes(fs.root())?;
                committed(self.options.guest(ino, &root))
            }
        };
        if !volumes.complete {
            found.entry_ttl = Ttl::Changing;
        }
        Ok(found)
    }

    /// A child of a guest's directory.
    pub(super) fn guest_found(
        &self,
        directory: &GuestNode,
        parent: Ino,
        child: GuestIno,
    ) -> Result<Found> {
        if let GuestLocation::Files(at, _) = directory.place {
            let (shown, root) = directory.volumes.files.shown(at, child);
            if shown != at {
                let found = self.place_found(
                    &directory.point,
                    &directory.volumes,
                    &directory.volumes.instance(shown)?,
                    root,
                )?;
                let mut parents = self.shared.parents();
                parents.put(found.attributes.ino, parent);
                return Ok(found);
            }
        }
        let ino = self.guest_ino(
            &directory.point,
            &directory.volumes,
            &directory.place,
            child,
        )?;
        let attributes = directory.fs.attributes(child)?;
        // A symlink that is shown rebased also depends on its place.
        let is_rebased = self.options.rebase && attributes.file_type == FileType::Symlink;
        if attributes.file_type == FileType::Directory || is_rebased {
            let mut parents = self.shared.parents();
            parents.put(ino, parent);
        }
        Ok(committed(self.options.guest(ino, &attributes)))
    }

    pub(super) fn place_found(
        &self,
        point: &Point,
        volumes: &Volumes,
        place: &GuestLocation,
        ino: GuestIno,
    ) -> Result<Found> {
        let fs = self
            .shared
            .scanner
            .filesystem(point, &place.volume().volume)?;
        let number = self.guest_ino(point, volumes, place, ino)?;
        let mut found = committed(self.options.guest(number, &fs.attributes(ino)?));
        if !volumes.complete {
            found.entry_ttl = Ttl::Changing;
        }
        Ok(found)
    }

    pub(super) fn instance_found(
        &self,
        point: &Point,
        volumes: &Volumes,
        at: usize,
    ) -> Result<Found> {
        let (at, ino) = volumes.top(at)?;
        self.place_found(point, volumes, &volumes.instance(at)?, ino)
    }
}
