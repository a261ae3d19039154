//! A handmade guest for tests: a source of files that can be hostile.

use std::collections::HashMap;
use std::sync::Arc;

use super::files::Source;
use crate::block::{MemoryDisk, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FileType, Time, Xattr};
use crate::tree::{Attributes, Ino};

/// What an inode is.
pub(super) enum Body {
    /// A directory with its entries.
    Directory(Vec<(Vec<u8>, u64)>),
    /// A regular file.
    File(Arc<dyn ReadAt>),
    /// A symlink with its target.
    Link(Vec<u8>),
    /// Anything else.
    Other(FileType),
}

/// An action that runs when a directory is listed.
pub(super) type Event = Box<dyn Fn() + Send + Sync>;

struct Node {
    body: Body,
    attributes: Attributes,
    xattrs: Vec<Xattr>,
    listed: Option<Event>,
}

/// The guest: inode 1 is the root. All inodes have the attributes of a model, but for what is theirs.
pub(super) struct Fake {
    model: Attributes,
    nodes: HashMap<u64, Node>,
}

impl Default for Fake {
    fn default() -> Self {
        let time = Time {
            seconds: 1_000_000,
            nanoseconds: 5,
        };
        Self::of(Attributes {
            ino: Ino(0),
            file_type: FileType::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size_bytes: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            rdev: Some((1, 3)),
        })
    }
}

impl Fake {
    pub(super) fn of(model: Attributes) -> Self {
        Self {
            model,
            nodes: HashMap::new(),
        }
    }

    pub(super) fn with(mut self, ino: u64, body: Body) -> Self {
        let (file_type, size_bytes) = match &body {
            Body::Directory(_) => (FileType::Directory, 0),
            Body::File(file) => (FileType::Regular, file.size_bytes()),
            Body::Link(_) => (FileType::Symlink, 0),
            Body::Other(file_type) => (*file_type, 0),
        };
        let attributes = Attributes {
            file_type,
            size_bytes,
            ..self.model.clone().with_ino(Ino(ino))
        };
        let node = Node {
            body,
            attributes,
            xattrs: Vec::new(),
            listed: None,
        };
        self.nodes.insert(ino, node);
        self
    }

    pub(super) fn dir(self, ino: u64, entries: &[(&[u8], u64)]) -> Self {
        let entries = entries.iter().map(|(name, ino)| (name.to_vec(), *ino));
        let body = Body::Directory(entries.collect());
        self.with(ino, body)
    }

    pub(super) fn file(self, ino: u64, bytes: &[u8]) -> Self {
        let disk = MemoryDisk::from_bytes(bytes);
        self.with(ino, Body::File(Arc::new(disk)))
    }

    pub(super) fn link(self, ino: u64, target: &[u8]) -> Self {
        self.with(ino, Body::Link(target.to_vec()))
    }

    /// Changes the attributes of an inode that is there.
    pub(super) fn set(mut self, ino: u64, change: impl FnOnce(&mut Attributes)) -> Self {
        change(&mut self.node_mut(ino).attributes);
        self
    }

    /// Gives an inode extended attributes of 20 bytes each.
    pub(super) fn xattrs(mut self, ino: u64, names: &[&str]) -> Self {
        let each = names.iter().map(|name| Xattr {
            name: name.as_bytes().to_vec(),
            value: vec![1; 20],
        });
        self.node_mut(ino).xattrs = each.collect();
        self
    }

    /// Gives every inode these extended attributes.
    pub(super) fn all_xattrs(mut self, xattrs: &[Xattr]) -> Self {
        for node in self.nodes.values_mut() {
            node.xattrs = xattrs.to_vec();
        }
        self
    }

    /// Runs an action each time that a directory is listed.
    pub(super) fn when_listed(mut self, ino: u64, event: Event) -> Self {
        self.node_mut(ino).listed = Some(event);
        self
    }

    fn node_mut(&mut self, ino: u64) -> &mut Node {
        self.nodes.get_mut(&ino).unwrap()
    }

    fn node(&self, ino: Ino) -> Result<&Node> {
        self.nodes
            .get(&ino.0)
            .ok_or_else(|| Error::corrupt("an inode", "one", "none"))
    }
}

impl Source for Fake {
    fn attributes(&self, ino: Ino) -> Result<Attributes> {
        Ok(self.node(ino)?.attributes.clone())
    }

    fn entries(&self, ino: Ino) -> Result<Vec<(Vec<u8>, Ino)>> {
        let node = self.node(ino)?;
        if let Some(listed) = &node.listed {
            listed();
        }
        match &node.body {
            Body::Directory(entries) => Ok(entries
                .iter()
                .map(|(name, ino)| (name.clone(), Ino(*ino)))
                .collect()),
            _ => Err(Error::new(ErrorKind::NotADirectory, "no directory")),
        }
    }

    fn link_target(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.node(ino)?.body {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(Error::invalid("no symlink")),
        }
    }

    fn xattrs(&self, ino: Ino) -> Result<Arc<[Xattr]>> {
        Ok(self.node(ino)?.xattrs.clone().into())
    }

    fn content(&self, ino: Ino) -> Result<Arc<dyn ReadAt>> {
        match &self.node(ino)?.body {
            Body::File(file) => Ok(Arc::clone(file)),
            _ => Err(Error::invalid("no file")),
        }
    }
}
