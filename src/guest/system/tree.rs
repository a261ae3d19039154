//! Paths in the joined tree: directories of volumes, with mounts over some of them.
//!
//! # Invariants
//! A walk ends and stays inside: `..` stops at the root, the number of symlinks is bounded, and absolute ones
//! begin at the root.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::{FileLocation, MountAt, Open};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::{FileType, GuestFs};
use crate::types::width::usize_from_u64;

/// LIMIT: symlinks in one walk (Linux's own).
const SYMLINKS_MAX: u32 = 40;
/// LIMIT: components of one walk, those of symlinks included.
const COMPONENTS_MAX: u32 = 2000;
/// LIMIT: bytes of a file to read here (our limit; an fstab has a few KiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// LIMIT: names of a directory to read (our limit).
const NAMES_MAX: usize = 10_000;

/// A tree, as far as it is joined.
pub(super) struct Tree<'a> {
    open: Open<'a>,
    root: FileLocation,
    /// Its mounts.
    pub(super) mounts: Vec<MountAt>,
}

/// The result of walking a path.
pub(super) struct Resolved {
    /// The directory or file; for a mount, its root.
    pub(super) place: FileLocation,
    /// Its path without symlinks.
    pub(super) path: Vec<u8>,
    pub(super) file_type: FileType,
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}

impl<'a> Tree<'a> {
    pub(super) fn new(open: Open<'a>, root: FileLocation) -> Self {
        Self {
            open,
            root,
            mounts: Vec::new(),
        }
    }

    /// Opens volumes.
    pub(super) fn open(&self) -> Open<'a> {
        self.open
    }

    pub(super) fn fs(&self, volume: usize) -> Result<Arc<dyn GuestFs>> {
        (self.open)(volume)
    }

    /// The place shown at a place: the root of the last mount over it.
    fn shown(&self, place: FileLocation) -> FileLocation {
        let mut place = place;
        // Each round follows one mount, and their number is finite.
        for _ in &self.mounts {
            match self.mounts.iter().rev().find(|mount| mount.over == place) {
                Some(mount) if mount.root != place => place = mount.root,
                _ => break,
            }
        }
        place
    }

    /// Walks a path from the root.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; `LimitExceeded` for a loop of symlinks; errors of the filesystems.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Resolved> {
        let mut stack: Vec<(Vec<u8>, FileLocation)> = Vec::new();
        let mut todo: VecDeque<Vec<u8>> = components(path).collect();
        let (mut symlinks, mut steps) = (SYMLINKS_MAX, COMPONENTS_MAX);
        let endless = || Error::new(ErrorKind::LimitExceeded, "symlinks without end");
        while let Some(name) = todo.pop_front() {
            steps = steps.checked_sub(1).ok_or_else(endless)?;
            if name == b".." {
                stack.pop();
                continue;
            }
            let here = stack.last().map_or(self.root, |(_, place)| *place);
            let fs = self.fs(here.volume)?;
            let ino = fs.lookup(here.ino, &name)?;
            if fs.attributes(ino)?.file_type == FileType::Symlink {
                symlinks = symlinks.checked_sub(1).ok_or_else(endless)?;
                let target = fs.symlink_target(ino)?;
                if target.starts_with(b"/") {
                    stack.clear();
                }
                for part in components(&target).rev() {
                    todo.push_front(part);
                }
                continue;
            }
            let place = self.shown(FileLocation {
                volume: here.volume,
                ino,
            });
            stack.push((name, place));
        }
        let place = stack.last().map_or(self.root, |(_, place)| *place);
        let file_type = self.fs(place.volume)?.attributes(place.ino)?.file_type;
        let mut path = Vec::new();
        for (name, _) in &stack {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Resolved {
            place,
            path,
            file_type,
        })
    }

    /// Whether a node of that type exists at the path.
    pub(super) fn is(&self, path: &[u8], file_type: FileType) -> bool {
        self.resolve(path)
            .is_ok_and(|found| found.file_type == file_type)
    }

    /// Whether it looks like the tree of a system.
    pub(super) fn is_system(&self) -> bool {
        self.is(b"/etc", FileType::Directory)
            && [
                &b"/etc/fstab"[..],
                b"/etc/os-release",
                b"/usr/lib/os-release",
                // On NixOS the other files are links into a store, which may be on another filesystem.
                b"/etc/NIXOS",
            ]
            .iter()
            .any(|path| self.is(path, FileType::Regular))
    }

    /// The names in a directory, sorted; their number is bounded.
    pub(super) fn names(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let list = || -> Result<Vec<Vec<u8>>> {
            let found = self.resolve(path)?;
            let entries = self.fs(found.place.volume)?.entries(found.place.ino)?;
            let names = entries.iter().take(NAMES_MAX);
            Ok(names.map(|entry| entry.name.clone()).collect())
        };
        let mut names = list().unwrap_or_default();
        names.sort_unstable();
        names
    }

    /// Whether a directory is empty or does not exist.
    pub(super) fn is_free(&self, path: &[u8]) -> bool {
        match self.resolve(path) {
            Ok(found) => self
                .fs(found.place.volume)
                .and_then(|fs| fs.entries(found.place.ino))
                .is_ok_and(|entries| entries.iter().all(|entry| entry.name == b"lost+found")),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// The content of a small file.
    ///
    /// # Errors
    /// As [`Tree::resolve`]; `InvalidInput` when it is not a file; `LimitExceeded`.
    pub(super) fn read(&self, path: &[u8]) -> Result<Vec<u8>> {
        let found = self.resolve(path)?;
        if found.file_type != FileType::Regular {
            return Err(Error::invalid("not a regular file"));
        }
        let fs = self.fs(found.place.volume)?;
        let size = fs.attributes(found.place.ino)?.size_bytes;
        if size > FILE_BYTES_MAX {
            let what = format!("the file has {size} bytes, at most {FILE_BYTES_MAX} are read");
            return Err(Error::new(ErrorKind::LimitExceeded, what));
        }
        let mut bytes = vec![0; usize_from_u64(size)];
        fs.read_encoded(found.place.ino, 0, &mut bytes)?;
        Ok(bytes)
    }
}
