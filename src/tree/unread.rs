//! Lists what is missing below a path of a point: unreadable volumes, and volumes that the guest's fstab
//! names but that are not joined.

use super::Tree;
use super::inode::{Ino, low};
use super::node::Point;
use super::volume::Volumes;
use crate::error::Result;
use crate::guest::fs::{FileType, VolumeState};
use crate::guest::system::{Class, Obstacle, VolumeFacts};

/// LIMIT: directories on the way up from a mount point.
const DEPTH_MAX: usize = 1000;

/// A volume that is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Where it would appear, below the point: `/files/srv/data`, `/volumes/vda/part/1`.
    pub path: String,
    /// Its name in an fstab, or else the volume's path.
    pub source: String,
    /// Why it is not shown.
    pub reason: String,
    /// Class of the reason.
    pub class: Class,
    /// Whether the requested path is this place or lies in it; otherwise this place is below that path.
    pub is_here: bool,
}

/// A path below a point, resolved as far as it exists.
struct PathReach {
    /// The deepest existing directory on it, and all directories above up to the point's own.
    up: Vec<Ino>,
    /// Whether that is the whole path.
    is_whole: bool,
    /// Whether the path ends at an existing node.
    is_there: bool,
}

fn parts(path: &[u8]) -> Vec<&[u8]> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect()
}

fn is_within(path: &[u8], above: &[u8]) -> bool {
    parts(path).starts_with(&parts(above))
}

impl Tree {
    /// Lists what is missing below a path of a point, in the order of trees and volumes. A path that leads
    /// neither to `files` nor to `volumes` needs no probe.
    ///
    /// # Errors
    /// Errors of probing the point's disks.
    pub fn unread(&self, point: &Point, path: &[u8]) -> Result<Vec<Unread>> {
        let first = parts(path).first().copied().unwrap_or_default();
        let in_files = first.is_empty() || first.starts_with(b"files");
        let in_volumes = first.is_empty() || first == b"volumes";
        let mut unread = Vec::new();
        if !in_files && !in_volumes {
            return Ok(unread);
        }
        let volumes = self.shared.scanner.volumes(point)?;
        if in_files {
            self.unread_files(point, &volumes, path, &mut unread)?;
        }
        if in_volumes {
            unread_volumes(&volumes, path, &mut unread);
        }
        Ok(unread)
    }

    fn unread_files(
        &self,
        point: &Point,
        volumes: &Volumes,
        path: &[u8],
        unread: &mut Vec<Unread>,
    ) -> Result<()> {
        let asked = self.way(point, path)?;
        for tree in &volumes.files.trees {
            for entry in &tree.unjoined {
                let is_top = entry.target == "/";
                let place = format!("/{}{}", tree.name, entry.target);
                let place = place.trim_end_matches('/').to_owned();
                let way = self.way(point, place.as_bytes())?;
                let is_below = asked.is_whole
                    && asked.up.first().is_some_and(|top| way.up.contains(top))
                    || is_within(place.as_bytes(), path);
                let is_in = way.is_whole && way.up.first().is_some_and(|at| asked.up.contains(at))
                    || is_within(path, place.as_bytes());
                // A node that exists in one of several filesystems lacks nothing of the others.
                let is_here = is_in && !(is_top && asked.is_there);
                if is_below || is_here {
                    unread.push(Unread {
                        path: place,
                        source: entry.source.clone(),
                        reason: entry.reason.clone(),
                        class: entry.class,
                        is_here,
                    });
                }
            }
        }
        Ok(())
    }

    /// Follows a path as far as it exists.
    fn way(&self, point: &Point, path: &[u8]) -> Result<PathReach> {
        let top = point.ino(low::SELF);
        let mut parts = parts(path);
        let is_there = self.resolve(top, path).is_ok();
        let mut is_whole = true;
        let mut here = loop {
            match self.directory(top, &parts.join(&b'/')) {
                Some(ino) => break ino,
                None if parts.is_empty() => break top,
                None => {
                    is_whole = false;
                    parts.pop();
                }
            }
        };
        let mut up = vec![here];
        while here != top && up.len() < DEPTH_MAX {
            here = self.parent(here)?;
            up.push(here);
        }
        Ok(PathReach {
            up,
            is_whole,
            is_there,
        })
    }

    fn directory(&self, top: Ino, path: &[u8]) -> Option<Ino> {
        let found = self.follow(top, path, true).ok()?;
        (found.attributes.file_type == FileType::Directory).then_some(found.attributes.ino)
    }
}

fn unread_volumes(volumes: &Volumes, path: &[u8], unread: &mut Vec<Unread>) {
    for node in &volumes.nodes {
        if node.state == VolumeState::Readable {
            continue;
        }
        let mut facts = VolumeFacts::from(&node.volume);
        facts.opened(&node.state);
        let Some(obstacle) = facts.obstacle else {
            continue;
        };
        let place = format!("/volumes/{}", node.volume.path);
        let is_here = is_within(path, place.as_bytes());
        let class = match obstacle {
            Obstacle::Unreadable(_) => Class::Unreadable,
            Obstacle::Other(_) => Class::NoFiles,
        };
        let is_below = is_within(place.as_bytes(), path) && class == Class::Unreadable;
        if is_here || is_below && !node.volume.is_left_over {
            unread.push(Unread {
                path: place,
                source: node.volume.path.clone(),
                reason: obstacle.reason().to_owned(),
                class,
                is_here,
            });
        }
    }
}
