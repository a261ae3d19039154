//! Rewrites symlinks of a guest's tree so that they lead where they would in the guest: `-o symlinks=rebase`.
//!
//! # Invariants
//! A shown target never leads out of the guest's tree. An absolute target, or one that goes up, is resolved
//! here as in a chroot, and shown as the path from the link's own directory to the result, through names that
//! are not symlinks. A target that only goes down is shown verbatim.
//!
//! # Why
//! The kernel resolves a target from the mount's place in the host: `/etc/resolv.conf` would be the host's,
//! and so would `../../../../../../etc/resolv.conf`. Counting the `..` of a target does not suffice, because
//! a guest's target may go down through a symlink that leads up.

use super::Tree;
use super::inode::{Ino, low};
use super::location::GuestLocation;
use super::node::GuestNode;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::FileType;

/// LIMIT: symlinks followed for one target (Linux: 40).
const LINKS_MAX: u32 = 40;
/// LIMIT: directories between the top and a link.
const DEPTH_MAX: usize = 4096;

/// A position during resolution.
struct LinkPosition {
    /// Directories from the top to the present one.
    dirs: Vec<Ino>,
    /// Names of the directories that were entered by name; the link's own directories have none.
    names: Vec<Vec<u8>>,
    /// Number of leading `dirs`, including the top, that are the link's own.
    own: usize,
    /// Names of missing components; nothing below them is looked up.
    missing: Vec<Vec<u8>>,
}

impl LinkPosition {
    fn up(&mut self) {
        if self.missing.pop().is_some() || self.dirs.len() <= 1 {
            return;
        }
        self.dirs.pop();
        if self.names.pop().is_none() {
            self.own = self.dirs.len();
        }
    }

    fn top(&mut self) {
        self.dirs.truncate(1);
        self.names.clear();
        self.missing.clear();
        self.own = 1;
    }

    fn text(self, depth: usize) -> Vec<u8> {
        let ups = std::iter::repeat_n(b"..".to_vec(), depth + 1 - self.own.min(depth + 1));
        let parts: Vec<Vec<u8>> = ups.chain(self.names).chain(self.missing).collect();
        if parts.is_empty() {
            return b".".to_vec();
        }
        parts.join(&b'/')
    }
}

impl Tree {
    /// The filesystem boundary for `..` in a textual path: the volume of a node, `None` below `files/`.
    pub(super) fn realm(&self, ino: Ino) -> Option<u8> {
        let is_top = ino.volume() == 0 && ino.low() & !low::INDEX_MASK == low::FILES;
        let is_far = ino.is_from_table()
            && self
                .shared
                .table
                .get(ino)
                .is_some_and(|far| far.instance().is_some());
        if is_top
            || is_far
            || (!ino.is_from_table() && super::files::Files::is_number(ino.volume()))
        {
            return None;
        }
        Some(ino.volume())
    }

    /// The shown target of a symlink of a guest's tree.
    pub(super) fn rebased(&self, ino: Ino, node: &GuestNode, target: Vec<u8>) -> Result<Vec<u8>> {
        let goes_down = target.first() != Some(&b'/')
            && !target.split(|b| *b == b'/').any(|part| part == b"..");
        if !matches!(node.place, GuestLocation::Files(..)) || goes_down {
            return Ok(target);
        }
        if node.fs.attributes(node.ino)?.nlink > 1 {
            // One inode appears at several places: a target that is right at one would lead out at another.
            return Err(Error::unsupported(
                "a symlink with several names cannot be shown rebased",
            ));
        }
        let mut dirs = vec![self.parent(ino)?];
        while let Some(last) = dirs.last()
            && last.low() & !low::INDEX_MASK != low::FILES
        {
            if dirs.len() > DEPTH_MAX {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    "the link is too deep in the tree",
                ));
            }
            dirs.push(self.parent(*last)?);
        }
        dirs.reverse();
        let depth = dirs.len() - 1;
        let way = LinkPosition {
            own: dirs.len(),
            dirs,
            names: Vec::new(),
            missing: Vec::new(),
        };
        self.walk(way, &target).map(|way| way.text(depth))
    }

    fn walk(&self, mut way: LinkPosition, target: &[u8]) -> Result<LinkPosition> {
        let mut links = 0;
        let mut parts = Vec::new();
        let push = |way: &mut LinkPosition, parts: &mut Vec<Vec<u8>>, target: &[u8]| {
            if target.first() == Some(&b'/') {
                way.top();
            }
            parts.extend(
                target
                    .split(|b| *b == b'/')
                    .filter(|part| !part.is_empty() && *part != b".")
                    .rev()
                    .map(<[u8]>::to_vec),
            );
        };
        push(&mut way, &mut parts, target);
        while let Some(part) = parts.pop() {
            if part == b".." {
                way.up();
                continue;
            }
            let here = *way.dirs.last().ok_or_else(|| Error::invalid("no top"))?;
            let found = match way.missing.is_empty() {
                true => self.lookup(here, &part).ok(),
                false => None,
            };
            match found.map(|found| found.attributes) {
                Some(found) if found.file_type == FileType::Directory => {
                    way.dirs.push(found.ino);
                    way.names.push(part);
                }
                // The last component is shown by name: if it is a symlink, the kernel reads its shown target
                // next.
                Some(found) if found.file_type == FileType::Symlink && !parts.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::new(ErrorKind::LimitExceeded, "too many symlinks"));
                    }
                    push(&mut way, &mut parts, &self.guest_target(found.ino)?);
                }
                _ => way.missing.push(part),
            }
        }
        Ok(way)
    }
}
