//! Nodes: what an inode number or a name stands for.

use std::sync::{Arc, PoisonError};

use super::Tree;
use super::attribute::{Attributes, Found, Look, Ttl};
use super::disk;
use super::document;
use super::inode::{self, Far, Ino, low};
use super::snapshot::{Holder, PointView, VmView};
use super::volume::{Name, VolumeNode, Volumes};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FileType, GuestFs, GuestIno};
use crate::types::width::{u64_from_usize, usize_from_u32};

/// LIMIT: directories that a search for a forgotten parent looks into.
const PARENT_SEARCH_MAX: usize = 100_000;

type Point = Arc<PointView>;

/// A guest's file, with what is needed to ask about it.
pub(super) struct GuestNode {
    pub(super) point: Point,
    pub(super) volume: Arc<VolumeNode>,
    pub(super) fs: Arc<dyn GuestFs>,
    pub(super) ino: GuestIno,
}

/// What an inode number stands for.
pub(super) enum Node {
    Root,
    Vm(Arc<VmView>),
    Latest(Point),
    Point(Point),
    Info(Point),
    VolumesJson(Point),
    AttachedDir(Point),
    Attached(Point, usize),
    DisksDir(Point),
    Disk(Point, usize),
    /// A directory at this path below `volumes/`; empty: `volumes/` itself.
    Volumes(Point, Arc<Volumes>, String),
    VolumeRaw(Point, Arc<VolumeNode>),
    Guest(GuestNode),
}

fn stale() -> Error {
    Error::new(ErrorKind::Stale, "what this handle named is gone")
}

pub(super) fn no_directory() -> Error {
    Error::new(ErrorKind::NotADirectory, "not a directory")
}

fn absent() -> Error {
    Error::not_found("no such file or directory")
}

impl Tree {
    /// What a number stands for.
    pub(super) fn node(&self, ino: Ino) -> Result<Node> {
        if ino == Ino::ROOT {
            return Ok(Node::Root);
        }
        if ino.is_from_table() {
            let far = self.table.get(ino).ok_or_else(stale)?;
            let point = self.point_of(far.serial)?;
            let volumes = self.scanner.volumes(&point)?;
            let volume = Arc::clone(volumes.at_path(&far.volume)?);
            return self.guest(point, volume, GuestIno(far.ino));
        }
        if ino.volume() != 0 {
            let point = self.point_of(ino.serial())?;
            let volumes = self.scanner.volumes(&point)?;
            let volume = Arc::clone(volumes.numbered(ino.volume())?);
            return self.guest(point, volume, GuestIno(ino.low().into()));
        }
        let snapshot = self.snapshot();
        let point = match snapshot.holder(ino.serial()).ok_or_else(stale)? {
            Holder::Vm(vm) if ino.low() == low::SELF => return Ok(Node::Vm(Arc::clone(vm))),
            Holder::Vm(_) => return Err(stale()),
            Holder::Point(point) => Arc::clone(point),
        };
        let low = ino.low();
        let position = usize_from_u32(low & low::INDEX_MASK);
        Ok(match low {
            low::SELF => Node::Point(point),
            low::LATEST => Node::Latest(point),
            low::ATTACHED => Node::AttachedDir(point),
            low::DISKS => Node::DisksDir(point),
            low::VOLUMES => self.volumes_dir(point, String::new())?,
            _ if low & !low::DOCUMENT_MASK == low::INFO => Node::Info(point),
            _ if low & !low::DOCUMENT_MASK == low::VOLUMES_JSON => Node::VolumesJson(point),
            _ => match low & !low::INDEX_MASK {
                low::ATTACHED_FILE => Node::Attached(point, position),
                low::DISK => Node::Disk(point, position),
                low::VOLUME_DIR => {
                    let volumes = self.scanner.volumes(&point)?;
                    let path = volumes.path_of(low)?.to_owned();
                    Node::Volumes(point, volumes, path)
                }
                low::VOLUME_RAW => {
                    let volumes = self.scanner.volumes(&point)?;
                    match volumes.name(volumes.path_of(low)?) {
                        Some(Name::Raw(volume)) => Node::VolumeRaw(point, Arc::clone(volume)),
                        _ => return Err(stale()),
                    }
                }
                _ => return Err(stale()),
            },
        })
    }

    fn volumes_dir(&self, point: Point, path: String) -> Result<Node> {
        let volumes = self.scanner.volumes(&point)?;
        Ok(Node::Volumes(point, volumes, path))
    }

    fn point_of(&self, serial: u32) -> Result<Point> {
        match self.snapshot().holder(serial) {
            Some(Holder::Point(point)) => Ok(Arc::clone(point)),
            _ => Err(stale()),
        }
    }

    fn guest(&self, point: Point, volume: Arc<VolumeNode>, ino: GuestIno) -> Result<Node> {
        let fs = self.scanner.filesystem(&point, &volume.volume)?;
        Ok(Node::Guest(GuestNode {
            point,
            volume,
            fs,
            ino,
        }))
    }

    /// The number of an inode of a guest.
    pub(super) fn guest_ino(
        &self,
        point: &PointView,
        volume: &VolumeNode,
        ino: GuestIno,
    ) -> Result<Ino> {
        match (volume.number, u32::try_from(ino.0)) {
            (Some(number), Ok(low)) => Ok(Ino::pack(point.entry.serial, number, low)),
            _ => self.table.number(Far {
                serial: point.entry.serial,
                ino: ino.0,
                volume: volume.volume.path.clone(),
            }),
        }
    }

    /// Finds a name in a directory; `.` and `..` too.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; `Stale` when `parent` is gone; what the guest's reader returns.
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
            Node::Vm(vm) => {
                let point = vm.point(text).ok_or_else(absent)?;
                self.found(point.ino(low::SELF), &Node::Point(Arc::clone(point)))
            }
            Node::Point(point) => self.point_child(point, text),
            Node::AttachedDir(point) => {
                let mut files = point.entry.attached.iter();
                let at = files.position(|f| f.name == text).ok_or_else(absent)?;
                let ino = point.ino(low::ATTACHED_FILE | inode::index_bits(at).ok_or_else(absent)?);
                self.found(ino, &Node::Attached(Arc::clone(point), at))
            }
            Node::DisksDir(point) => {
                let disk = text.strip_suffix(".raw").ok_or_else(absent)?;
                let mut disks = point.entry.disks.iter();
                let at = disks.position(|d| d.name.as_str() == disk);
                let at = at.ok_or_else(absent)?;
                let ino = point.ino(low::DISK | inode::index_bits(at).ok_or_else(absent)?);
                self.found(ino, &Node::Disk(Arc::clone(point), at))
            }
            Node::Volumes(point, volumes, path) => self.volume_child(point, volumes, path, text),
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
            // Not scanned for a look at the name only.
            "volumes" => Ok(self.own(point.ino(low::VOLUMES), Look::Directory, point)),
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
                self.own(ino, Look::Directory, point)
            }
            Name::Raw(volume) => {
                let ino = volumes.ino_of(point, &full)?;
                self.raw_found(ino, point, volume)
            }
            Name::Root(volume) => {
                let node = self.guest(Arc::clone(point), Arc::clone(volume), GuestIno(0))?;
                let Node::Guest(node) = node else {
                    return Err(absent());
                };
                let ino = self.guest_ino(point, volume, node.fs.root())?;
                self.found(
                    ino,
                    &Node::Guest(GuestNode {
                        ino: node.fs.root(),
                        ..node
                    }),
                )?
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
        let ino = self.guest_ino(&directory.point, &directory.volume, child)?;
        let attributes = directory.fs.attributes(child)?;
        if attributes.file_type == FileType::Directory {
            let mut parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
            parents.put(ino, parent);
        }
        Ok(committed(self.options.guest(ino, &attributes)))
    }

    /// Attributes of a node.
    ///
    /// # Errors
    /// `Stale` when it is gone; what the guest's reader returns.
    pub fn attributes(&self, ino: Ino) -> Result<Found> {
        if ino.volume() == 0 && ino.low() == low::VOLUMES && ino.serial() != 0 {
            let point = self.point_of(ino.serial())?;
            return Ok(self.own(ino, Look::Directory, &point));
        }
        self.found(ino, &self.node(ino)?)
    }

    fn own(&self, ino: Ino, look: Look, point: &PointView) -> Found {
        committed(self.options.own(ino, look, 0, 0, point.time()))
    }

    fn raw_found(&self, ino: Ino, point: &PointView, volume: &VolumeNode) -> Found {
        let size = volume.volume.map.size_bytes();
        // An upper bound: to count the volume's own clusters would resolve the whole chain.
        let data: u64 = point.entry.disks.iter().map(|disk| disk.data_bytes).sum();
        let blocks = data.min(size).div_ceil(512);
        committed(
            self.options
                .own(ino, Look::Disk, size, blocks, point.time()),
        )
    }

    pub(super) fn found(&self, ino: Ino, node: &Node) -> Result<Found> {
        let changing = |attributes: Attributes| Found {
            attributes,
            entry_ttl: Ttl::Changing,
            attribute_ttl: Ttl::Changing,
        };
        let own = |look, size, blocks, time| self.options.own(ino, look, size, blocks, time);
        Ok(match node {
            Node::Root => {
                let mut root = own(Look::Directory, 0, 0, self.snapshot().time());
                root.mode = 0o755;
                changing(root)
            }
            Node::Vm(vm) => changing(own(Look::VmDirectory, 0, 0, vm.time())),
            Node::Latest(point) => {
                let length = u64_from_usize(point.entry.name.as_str().len());
                let attributes = own(Look::Symlink, length, 0, point.time());
                Found {
                    attributes,
                    entry_ttl: Ttl::Changing,
                    attribute_ttl: Ttl::Committed,
                }
            }
            Node::Point(point) => Found {
                entry_ttl: Ttl::Changing,
                ..self.own(ino, Look::Directory, point)
            },
            Node::Info(point) | Node::VolumesJson(point) => {
                let length = u64_from_usize(self.document(ino, point)?.len());
                document_attributes(own(Look::File, length, length.div_ceil(512), point.time()))
            }
            Node::AttachedDir(point) | Node::DisksDir(point) | Node::Volumes(point, ..) => {
                self.own(ino, Look::Directory, point)
            }
            Node::Attached(point, at) => {
                let file = point.entry.attached.get(*at).ok_or_else(stale)?;
                let blocks = file.size_bytes.div_ceil(512);
                committed(own(Look::File, file.size_bytes, blocks, point.time()))
            }
            Node::Disk(point, at) => {
                let disk = disk::entry(point, *at).map_err(|_| stale())?;
                let blocks = disk.data_bytes.div_ceil(512);
                committed(own(Look::Disk, disk.source_bytes, blocks, point.time()))
            }
            Node::VolumeRaw(point, volume) => self.raw_found(ino, point, volume),
            Node::Guest(node) => committed(self.options.guest(ino, &node.fs.attributes(node.ino)?)),
        })
    }

    /// The present version of a document.
    fn document_found(&self, point: &Point, base: u32) -> Result<Found> {
        let bytes: Arc<[u8]> = self.make_document(point, base).into();
        let ino = point.ino(base | (inode::hash(&bytes) & low::DOCUMENT_MASK));
        let length = u64_from_usize(bytes.len());
        self.documents.put(ino, bytes.clone(), bytes.len());
        Ok(document_attributes(self.options.own(
            ino,
            Look::File,
            length,
            length.div_ceil(512),
            point.time(),
        )))
    }

    fn make_document(&self, point: &Point, base: u32) -> Vec<u8> {
        let state = self.repository.state(&point.vm, &point.entry);
        if base == low::INFO {
            document::info(point, &self.disks.point(point), &state)
        } else {
            document::volumes(self.scanner.known(point).as_deref(), &state)
        }
    }

    /// The bytes of a version of a document: kept, or made again if it is still the present one.
    pub(super) fn document(&self, ino: Ino, point: &Point) -> Result<Arc<[u8]>> {
        if let Some(bytes) = self.documents.get(&ino) {
            return Ok(bytes);
        }
        let base = ino.low() & !low::DOCUMENT_MASK;
        let bytes: Arc<[u8]> = self.make_document(point, base).into();
        if base | (inode::hash(&bytes) & low::DOCUMENT_MASK) != ino.low() {
            return Err(stale());
        }
        self.documents.put(ino, bytes.clone(), bytes.len());
        Ok(bytes)
    }

    /// The directory that holds a node; the root is its own.
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
            | Node::DisksDir(point) => Ok(point.ino(low::SELF)),
            Node::Attached(point, _) => Ok(point.ino(low::ATTACHED)),
            Node::Disk(point, _) => Ok(point.ino(low::DISKS)),
            Node::Volumes(point, _, path) if path.is_empty() => Ok(point.ino(low::SELF)),
            Node::Volumes(point, volumes, path) => of_path(&point, &volumes, &path),
            Node::VolumeRaw(point, volume) => {
                let volumes = self.scanner.volumes(&point)?;
                of_path(&point, &volumes, &volume.volume.path)
            }
            Node::Guest(node) if node.ino == node.fs.root() => {
                let volumes = self.scanner.volumes(&node.point)?;
                of_path(&node.point, &volumes, &node.volume.volume.path)
            }
            Node::Guest(node) => {
                let known = self
                    .parents
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(&ino)
                    .copied();
                match known {
                    Some(parent) => Ok(parent),
                    None => self.search_parent(&node),
                }
            }
        }
    }

    /// Looks for the directory that holds a guest's directory of which only the number is known: an NFS client's handle after a
    /// restart.
    fn search_parent(&self, node: &GuestNode) -> Result<Ino> {
        let mut queue = std::collections::VecDeque::from([node.fs.root()]);
        let mut seen = std::collections::HashSet::from([node.fs.root()]);
        let mut looked = 0;
        while let Some(directory) = queue.pop_front() {
            looked += 1;
            if looked > PARENT_SEARCH_MAX {
                break;
            }
            let Ok(entries) = node.fs.entries(directory) else {
                continue;
            };
            for entry in entries.iter() {
                if entry.ino == node.ino {
                    return self.guest_ino(&node.point, &node.volume, directory);
                }
                let is_directory = node
                    .fs
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

fn committed(attributes: Attributes) -> Found {
    Found {
        attributes,
        entry_ttl: Ttl::Committed,
        attribute_ttl: Ttl::Committed,
    }
}

fn document_attributes(attributes: Attributes) -> Found {
    Found {
        attributes,
        entry_ttl: Ttl::Nothing,
        attribute_ttl: Ttl::Nothing,
    }
}
