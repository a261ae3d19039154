//! Content: bytes, holes, and the targets of symlinks.

use std::sync::Arc;

use super::Tree;
use super::bytes::Bytes;
use super::inode::Ino;
use super::node::{GuestNode, Node};
use super::refusal::directory;
use super::snapshot::PointView;
use super::volume::Scanner;
use super::volume_node::VolumeNode;
use crate::block::run::{RunMap, RunReader};
use crate::block::{Extent, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FileType, GuestIno};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Memory of a content besides its runs, as a number of runs.
const CONTENT_RUNS: usize = 16;

/// The parts of a guest's file that only its reader can provide. The reader is looked up each time, so that
/// the limit of open filesystems holds however many files are cached.
struct Encoded {
    scanner: Arc<Scanner>,
    point: Arc<PointView>,
    volume: Arc<VolumeNode>,
    ino: GuestIno,
    size_bytes: u64,
}

impl ReadAt for Encoded {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.scanner
            .filesystem(&self.point, &self.volume.volume)?
            .read_encoded(self.ino, offset, buf)
    }
}

/// A file with its place for error messages.
struct Placed {
    reader: RunReader,
    place: String,
}

impl ReadAt for Placed {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.reader
            .read_at(offset, buf)
            .map_err(|e| e.at_path(&self.place))
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        self.reader
            .extent_at(offset, length_max)
            .map_err(|e| e.at_path(&self.place))
    }
}

impl Tree {
    /// The content of a regular file, for callers that read it whole or from many threads.
    ///
    /// # Errors
    /// `IsADirectory`, `InvalidInput` when it is not a regular file; `Stale`, `Corrupt`, `Unsupported`, `Io`.
    pub fn content(&self, ino: Ino) -> Result<Arc<dyn ReadAt>> {
        if let Some(content) = self.shared.contents.get(&ino) {
            return Ok(content);
        }
        let (content, weight): (Arc<dyn ReadAt>, usize) = match self.node(ino)? {
            Node::Info(point) | Node::VolumesJson(point) => {
                return Ok(Arc::new(Bytes(self.document(ino, &point)?)));
            }
            Node::Attached(point, at) => {
                let bytes = match self.shared.documents.get(&ino) {
                    Some(bytes) => bytes,
                    None => {
                        let facts = self.shared.disks.facts(&point);
                        let file = facts
                            .attached
                            .get(at)
                            .ok_or_else(|| Error::not_found("no such attached file"))?;
                        let bytes = self.repository.attached(&point.vm, &facts.name, file)?;
                        let bytes: Arc<[u8]> = bytes.into();
                        self.shared.documents.put(ino, bytes.clone(), bytes.len());
                        bytes
                    }
                };
                return Ok(Arc::new(Bytes(bytes)));
            }
            Node::Disk(point, at) => {
                let size = self.shared.disks.entry(&point, at)?.source_bytes;
                (self.shared.disks.lazy(&point, at, size), 1)
            }
            Node::VolumeRaw(point, volume) => {
                // Its map belongs to the scan.
                (self.shared.scanner.raw(&point, &volume.volume), 1)
            }
            // Not cached: the content may differ the next time.
            Node::Session(node) => return self.session_content(ino, &node),
            Node::Guest(node) => self.guest_content(&node)?,
            Node::Latest(_) => return Err(Error::invalid("a symbolic link has no content")),
            Node::Root
            | Node::Vm(_)
            | Node::Point(_)
            | Node::AttachedDir(_)
            | Node::DisksDir(_)
            | Node::Files(..)
            | Node::Volumes(..) => return Err(directory()),
        };
        self.shared
            .contents
            .put(ino, Arc::clone(&content), weight + CONTENT_RUNS);
        Ok(content)
    }

    fn guest_content(&self, node: &GuestNode) -> Result<(Arc<dyn ReadAt>, usize)> {
        let attributes = node.fs.attributes(node.ino)?;
        match attributes.file_type {
            FileType::Regular => {}
            FileType::Directory => return Err(directory()),
            FileType::Symlink
            | FileType::CharDevice
            | FileType::BlockDevice
            | FileType::Fifo
            | FileType::Socket => return Err(Error::invalid("not a regular file")),
        }
        let place = format!(
            "{}@{}/volumes/{} inode {}",
            node.point.vm,
            node.point.entry.name,
            node.place.volume().volume.path,
            node.ino.0
        );
        let runs = node.fs.runs(node.ino).map_err(|e| e.at_path(&place))?;
        // The runs of the file over the volume and of the volume over the disks are composed once and then
        // read in one step.
        let volume = &node.place.volume().volume.map;
        let map: RunMap<usize> = runs
            .compose(|(), offset, length| Ok(volume.run_at(offset, length)))
            .map_err(|e| e.at_path(&place))?;
        let weight = map.runs().len();
        let encoded = Encoded {
            scanner: Arc::clone(&self.shared.scanner),
            point: Arc::clone(&node.point),
            volume: Arc::clone(node.place.volume()),
            ino: node.ino,
            size_bytes: map.size_bytes(),
        };
        let sources = self.shared.disks.all(&node.point);
        let reader = RunReader::new(map, sources, Some(Arc::new(encoded)));
        Ok((Arc::new(Placed { reader, place }), weight))
    }

    /// Reads up to `buf.len()` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// As [`Tree::content`], and errors of reading the content.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let content = self.content(ino)?;
        let left = content.size_bytes().saturating_sub(offset);
        let length = usize_from_u64(left.min(u64_from_usize(buf.len())));
        match buf.get_mut(..length) {
            Some(part) if length > 0 => content.read_at(offset, part).map(|()| length),
            _ => Ok(0),
        }
    }

    /// Offset of the next data at or after `offset`; `None` when there is none up to the end.
    ///
    /// # Errors
    /// As [`Tree::content`]; `NoData` when `offset` is at or past the end.
    pub fn seek_data(&self, ino: Ino, offset: u64) -> Result<Option<u64>> {
        self.seek(ino, offset, false)
    }

    /// Offset of the next hole at or after `offset`; at the latest the end.
    ///
    /// # Errors
    /// As [`Tree::seek_data`].
    pub fn seek_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        let found = self.seek(ino, offset, true)?;
        match found {
            Some(at) => Ok(at),
            None => Ok(self.content(ino)?.size_bytes()),
        }
    }

    fn seek(&self, ino: Ino, offset: u64, hole: bool) -> Result<Option<u64>> {
        let content = self.content(ino)?;
        let size = content.size_bytes();
        if offset >= size {
            return Err(Error::new(
                ErrorKind::NoData,
                "this is past the end of the file",
            ));
        }
        let mut at = offset;
        while at < size {
            let extent = content.extent_at(at, size - at)?;
            if extent.kind.reads_zero() == hole {
                return Ok(Some(at));
            }
            at += extent.length_bytes;
        }
        Ok(None)
    }

    /// The target of a guest's symlink, verbatim.
    pub(super) fn guest_target(&self, ino: Ino) -> Result<Vec<u8>> {
        match self.node(ino)? {
            Node::Guest(node) => node.fs.symlink_target(node.ino),
            _ => Err(Error::invalid("not a guest's symbolic link")),
        }
    }

    /// The target of a symlink: verbatim, or rebased if the options require it.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a symlink; `Stale`, `Corrupt`, `Io`.
    pub fn link_target(&self, ino: Ino) -> Result<Vec<u8>> {
        match self.node(ino)? {
            Node::Latest(point) => Ok(point.entry.name.as_str().as_bytes().to_vec()),
            Node::Guest(node) => {
                let target = node.fs.symlink_target(node.ino)?;
                if self.options.rebase {
                    return self.rebased(ino, &node, target);
                }
                Ok(target)
            }
            Node::Root
            | Node::Vm(_)
            | Node::Point(_)
            | Node::Info(_)
            | Node::VolumesJson(_)
            | Node::AttachedDir(_)
            | Node::Attached(..)
            | Node::DisksDir(_)
            | Node::Files(..)
            | Node::Disk(..)
            | Node::Volumes(..)
            | Node::Session(_)
            | Node::VolumeRaw(..) => Err(Error::invalid("not a symbolic link")),
        }
    }
}
