//! What harm does to a point: the volumes, directories and files that depend on harmed bytes.
//!
//! # Why
//! The location of a file's bytes is known without reading them, so a guest of any size is looked through at the speed of its
//! tables. Only what its reader must decode (`Encoded`: compressed files, btrfs) is read.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::Tree;
use super::files::Files;
use super::harm::Harm;
use super::node::Point;
use super::volume_node::VolumeNode;
use crate::block::run::{RunMap, Target};
use crate::error::Result;
use crate::guest::fs::{Attributes, FileType, GuestFs, GuestIno, VolumeState};
use crate::task::Monitor;
use crate::types::PointId;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: nested directories; a damaged filesystem may claim more.
const DEPTH_MAX: usize = 400;
/// Bytes of a file that are decoded at once.
const DECODED_BYTES: u64 = 1 << 20;

/// What is harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HarmedKind {
    /// A regular file, a symbolic link, or another inode.
    File,
    /// A directory: what is in it is not known, or not completely.
    Directory,
    /// A volume without files, or whose files cannot be listed.
    Volume,
}

/// Something that depends on harmed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harmed {
    /// Its path below the point: `/files/etc/passwd`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: HarmedKind,
    /// Byte offset of the first harmed byte in it, where that is known.
    pub offset: Option<u64>,
    /// What else there is to say.
    pub note: Option<String>,
}

/// Receives what is harmed, one after the other.
type See<'a> = &'a mut dyn FnMut(Harmed) -> Result<()>;

impl Tree {
    /// Passes everything of a point that depends on harmed bytes to `see`. A tree that was made with the same harm in its options tells
    /// of harmed directories and inodes, too; another one shows what a harmed filesystem still leads to. With `volumes`, only those
    /// are looked at. Returns the volumes whose filesystems cannot be opened because of the harm.
    ///
    /// # Errors
    /// Errors of reading the disks that are no harm; of `see`; `Cancelled`.
    pub fn harmed(
        &self,
        point: &Point,
        harm: &Harm,
        volumes: Option<&HashSet<String>>,
        monitor: &Monitor,
        see: See<'_>,
    ) -> Result<HashSet<String>> {
        let all = self.shared.scanner.volumes(point)?;
        let mut closed = HashSet::new();
        for node in &all.nodes {
            let path = &node.volume.path;
            if volumes.is_some_and(|volumes| !volumes.contains(path)) || !is_hit(point, harm, node)
            {
                continue;
            }
            if node.state == VolumeState::Readable {
                let fs = self.shared.scanner.filesystem(point, &node.volume)?;
                let mut search = Search {
                    point: point.entry.point_id,
                    harm,
                    node,
                    fs: &*fs,
                    monitor,
                    entered: HashSet::new(),
                    seen: HashSet::new(),
                    is_covered: false,
                };
                search.all(&all.files, see)?;
                continue;
            }
            if volumes.is_some() {
                // It was told.
                continue;
            }
            let mut harmed = Harmed {
                path: format!("/volumes/{path}").into_bytes(),
                kind: HarmedKind::Volume,
                offset: first_in_map(point.entry.point_id, harm, &node.volume.map),
                note: node.volume.type_name.clone(),
            };
            if let VolumeState::Damaged(why) = &node.state {
                closed.insert(path.clone());
                harmed.note = Some(why.clone());
            }
            see(harmed)?;
        }
        Ok(closed)
    }
}

/// Whether a volume has harmed bytes.
fn is_hit(point: &Point, harm: &Harm, node: &VolumeNode) -> bool {
    let maps = std::iter::once(&node.volume.map).chain(&node.volume.members);
    let point = point.entry.point_id;
    maps.into_iter()
        .any(|map| first_in_map(point, harm, map).is_some())
}

fn first_in_map(point: PointId, harm: &Harm, map: &RunMap<usize>) -> Option<u64> {
    map.runs().iter().find_map(|run| match run.target {
        Target::Source { source, offset } => harm
            .first_in(point, source, offset, run.length_bytes)
            .map(|at| run.start + (at - offset)),
        _ => None,
    })
}

/// The search of one filesystem.
struct Search<'a> {
    point: PointId,
    harm: &'a Harm,
    node: &'a Arc<VolumeNode>,
    fs: &'a dyn GuestFs,
    monitor: &'a Monitor,
    /// Directories that were entered.
    entered: HashSet<GuestIno>,
    /// Files with several names that were looked at.
    seen: HashSet<GuestIno>,
    /// Whether directories were left out because something is mounted over them.
    is_covered: bool,
}

impl Search<'_> {
    /// Looks at the filesystem where `files/` shows it, then at the rest of it below `volumes/`.
    fn all(&mut self, files: &Files, see: See<'_>) -> Result<()> {
        for (path, root, covered) in files.places_of(self.node) {
            self.below(path, root, &covered, see)?;
        }
        let path = format!("/volumes/{}", self.node.volume.path).into_bytes();
        self.below(path, self.fs.root(), &HashSet::new(), see)
    }

    /// Looks at a directory and everything below it but what is `covered`. What was looked at before is passed over; where
    /// something below it was covered then, its directories are listed again, to find that.
    fn below(
        &mut self,
        top: Vec<u8>,
        root: GuestIno,
        covered: &HashSet<GuestIno>,
        see: See<'_>,
    ) -> Result<()> {
        let is_again = self.is_covered;
        let mut left = vec![(top, root, 0)];
        let mut listed = HashSet::new();
        while let Some((path, ino, depth)) = left.pop() {
            self.monitor.check()?;
            if depth > DEPTH_MAX || !listed.insert(ino) {
                continue;
            }
            let is_known = !self.entered.insert(ino);
            if is_known && !is_again {
                continue;
            }
            let refused = self.harm.refused();
            // A reader that reads ahead may be refused what it does not need: only an error counts. A fault of the guest's own
            // filesystem is not ours to tell.
            let Ok(entries) = self.fs.entries(ino) else {
                if self.harm.refused() > refused && !is_known {
                    see(harmed(path, HarmedKind::Directory, None))?;
                }
                continue;
            };
            for entry in entries.iter() {
                let mut child = path.clone();
                if !child.ends_with(b"/") {
                    child.push(b'/');
                }
                child.extend_from_slice(&entry.name);
                let refused = self.harm.refused();
                let Ok(attributes) = self.fs.attributes(entry.ino) else {
                    if self.harm.refused() > refused && !is_known {
                        see(harmed(child, HarmedKind::File, None))?;
                    }
                    continue;
                };
                if attributes.file_type == FileType::Directory {
                    if covered.contains(&entry.ino) {
                        self.is_covered = true;
                    } else {
                        left.push((child, entry.ino, depth + 1));
                    }
                } else if !is_known
                    && (attributes.nlink < 2 || self.seen.insert(entry.ino))
                    && let Some(offset) = self.file(&attributes)?
                {
                    see(harmed(child, HarmedKind::File, offset))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a file that is no directory is harmed; with the offset of the first harmed byte, where that is known.
    fn file(&self, attributes: &Attributes) -> Result<Option<Option<u64>>> {
        let refused = self.harm.refused();
        let is_refused = || self.harm.refused() > refused;
        match attributes.file_type {
            FileType::Regular => {}
            FileType::Symlink => {
                let is_whole = self.fs.symlink_target(attributes.ino).is_ok();
                return Ok((!is_whole && is_refused()).then_some(None));
            }
            _ => return Ok(None),
        }
        let Ok(runs) = self.fs.runs(attributes.ino) else {
            return Ok(is_refused().then_some(None));
        };
        let volume = &self.node.volume.map;
        let composed = runs.compose(|(), offset, length| Ok(volume.run_at(offset, length)));
        // A file that passes its volume's end is a fault of the guest's own.
        let Ok(map) = composed else { return Ok(None) };
        if let Some(at) = first_in_map(self.point, self.harm, &map) {
            return Ok(Some(Some(at)));
        }
        for run in map.runs() {
            if !matches!(run.target, Target::Encoded) {
                continue;
            }
            let mut at = run.start;
            while at < run.end() {
                self.monitor.check()?;
                let length = (run.end() - at).min(DECODED_BYTES);
                let mut bytes = vec![0; usize_from_u64(length)];
                if self
                    .fs
                    .read_encoded(attributes.ino, at, &mut bytes)
                    .is_err()
                {
                    return Ok(is_refused().then_some(Some(at)));
                }
                at += u64_from_usize(bytes.len());
            }
        }
        Ok(None)
    }
}

const fn harmed(path: Vec<u8>, kind: HarmedKind, offset: Option<u64>) -> Harmed {
    Harmed {
        path,
        kind,
        offset,
        note: None,
    }
}
