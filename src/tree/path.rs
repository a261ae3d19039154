//! Textual paths below a point: `/volumes/vda/part/1/etc/passwd`.
//!
//! # Invariants
//! - A symlink of a guest is followed only within its own filesystem, as in a chroot: an absolute target
//!   begins at the volume's root, and `..` stops there.
//! - The last component is never followed: a caller that restores a symlink gets the symlink.
//! - `..` in the path itself is refused.

use super::inode::Ino;
use super::node::Node;
use super::{Found, Tree};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::fs::FileType;

/// LIMIT: symlinks followed in one path (Linux: 40).
const LINKS_MAX: u32 = 40;

/// A position: the nodes from the root, above which `..` does not lead, down to this node.
struct Trail {
    /// Names that lead from the start to the root.
    above: Vec<Vec<u8>>,
    root: Found,
    /// Each node below the root with its name.
    below: Vec<(Vec<u8>, Found)>,
}

impl Tree {
    /// Resolves a path below `start`; an empty one is `start` itself.
    ///
    /// # Errors
    /// `NotFound` and `NotADirectory` naming the part of the path; `InvalidInput` for `..`; `LimitExceeded`
    /// for a loop of symlinks; errors of the guest's reader.
    pub fn resolve(&self, start: Ino, path: &[u8]) -> Result<Found> {
        self.follow(start, path, false)
    }

    /// The names on the way from `start` to the node that [`Tree::resolve`] finds. None of them but the last is a symlink.
    ///
    /// # Errors
    /// As [`Tree::resolve`].
    pub fn real_names(&self, start: Ino, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.trail(start, path, false).map(Trail::into_names)
    }

    /// As [`Tree::resolve`], but follows a symlink at the end if `to_end`.
    pub(super) fn follow(&self, start: Ino, path: &[u8], to_end: bool) -> Result<Found> {
        let trail = self.trail(start, path, to_end)?;
        Ok(trail.here().clone())
    }

    fn trail(&self, start: Ino, path: &[u8], to_end: bool) -> Result<Trail> {
        let mut parts = components(path)?;
        parts.reverse();
        let mut trail = Trail {
            above: Vec::new(),
            root: self.attributes(start)?,
            below: Vec::new(),
        };
        let mut links = 0;
        let shown = String::from_utf8_lossy(path).into_owned();
        while let Some(part) = parts.pop() {
            if part == b".." {
                // Such components come only from a symlink's target.
                trail.below.pop();
                continue;
            }
            let here = trail.here().attributes.ino;
            let found = self
                .lookup(here, &part)
                .map_err(|e| self.advised(named(e, &shown, &part), here, &shown))?;
            let is_link = found.attributes.file_type == FileType::Symlink;
            if !is_link || parts.is_empty() && !to_end {
                // The path enters another filesystem: from now on `..` stops at its root.
                match self.realm(found.attributes.ino) == self.realm(here) {
                    true => trail.below.push((part, found)),
                    false => trail.enter(part, found),
                }
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Error::new(
                    ErrorKind::LimitExceeded,
                    format!("more than {LINKS_MAX} symlinks were met"),
                )
                .at_path(&shown));
            }
            let target = self.guest_target(found.attributes.ino)?;
            if target.first() == Some(&b'/') {
                trail.below.clear();
            }
            parts.extend(
                target
                    .split(|b| *b == b'/')
                    .filter(|part| !part.is_empty() && *part != b".")
                    .rev()
                    .map(<[u8]>::to_vec),
            );
        }
        Ok(trail)
    }
}

impl Tree {
    /// Adds advice when the guest has the missing path: users often omit `/files`.
    fn advised(&self, error: Error, here: Ino, path: &str) -> Error {
        let is_missing = error.kind() == ErrorKind::NotFound;
        match self.node(here) {
            Ok(Node::Point(point)) if is_missing => {
                let guest = format!("/files/{}", path.trim_start_matches('/'));
                let start = self
                    .point_child(&point, "files")
                    .map(|files| files.attributes.ino);
                let is_there = start.and_then(|ino| self.resolve(ino, path.as_bytes()));
                match is_there {
                    Ok(_) => error.advise(format!("the guest has it at {guest}")),
                    Err(_) => error.advise(
                        "a restore point has /info.json, /attached, /disks, /volumes.json, /volumes and /files (the guest's own tree)",
                    ),
                }
            }
            _ => error,
        }
    }
}

impl Trail {
    fn here(&self) -> &Found {
        self.below.last().map_or(&self.root, |(_, found)| found)
    }

    /// Goes down to a node above which `..` does not lead.
    fn enter(&mut self, name: Vec<u8>, root: Found) {
        let passed = self.below.drain(..).map(|(name, _)| name);
        self.above.extend(passed);
        self.above.push(name);
        self.root = root;
    }

    fn into_names(self) -> Vec<Vec<u8>> {
        let mut names = self.above;
        names.extend(self.below.into_iter().map(|(name, _)| name));
        names
    }
}

fn components(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let parts: Vec<Vec<u8>> = path
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect();
    if parts.iter().any(|part| part == b"..") {
        return Err(
            Error::invalid("a path in a restore point cannot have \"..\"")
                .at_path(String::from_utf8_lossy(path).into_owned()),
        );
    }
    Ok(parts)
}

fn named(error: Error, path: &str, part: &[u8]) -> Error {
    let what = String::from_utf8_lossy(part);
    match error.kind() {
        ErrorKind::NotFound => {
            Error::not_found(format!("there is no \"{}\"", what.escape_debug())).at_path(path)
        }
        ErrorKind::NotADirectory => Error::new(
            ErrorKind::NotADirectory,
            format!("what holds \"{}\" is no directory", what.escape_debug()),
        )
        .at_path(path),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::components;

    #[test]
    fn paths_do_not_climb() {
        assert_eq!(components(b"/a//b/./c/").unwrap(), [b"a", b"b", b"c"]);
        assert!(components(b"").unwrap().is_empty());
        assert!(components(b"a/../b").is_err());
    }
}
