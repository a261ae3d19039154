//! The guest's own tree: which volumes a guest's system mounts where, as a plan.
//!
//! A system is a filesystem that looks like the root of one; its `/etc/fstab` says what else belongs to its tree. The plan names places
//! (volume and inode) only: whoever shows the tree walks it by them.
//!
//! # Invariants
//! - Nothing in a guest leads outside of it: symlinks are followed within the joined tree, a bounded number of times.
//! - What cannot be joined and would be missed is listed with its reason; nothing is guessed.
//! - The same volumes give the same plan.

mod filesystem;
mod fstab;
mod os_release;
mod plan;
mod source;
#[cfg(test)]
mod tests;
mod tree;

pub use fstab::{Entry, parse as parse_fstab};
pub use os_release::{OsRelease, parse as parse_os_release};
pub use plan::{plan_files, plan_systems};

use std::sync::Arc;

use super::fs::{GuestFs, GuestIno};
use super::volume::{Known, Origin, Volume};
use crate::error::Result;

/// What is asked of a volume to find it by what an fstab calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its path below `volumes/`.
    pub path: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Label of its filesystem.
    pub label: Option<String>,
    /// UUID of its filesystem.
    pub uuid: Option<String>,
    /// Name of its partition.
    pub part_label: Option<String>,
    /// UUID of its partition.
    pub part_uuid: Option<String>,
    /// Whether it may have a filesystem to open.
    pub may_open: bool,
}

impl From<&Volume> for VolumeFacts {
    fn from(volume: &Volume) -> Self {
        let content = volume.content.as_ref();
        Self {
            path: volume.path.clone(),
            origin: volume.origin.clone(),
            label: content.and_then(|content| content.label.clone()),
            uuid: content.and_then(|content| content.uuid.clone()),
            part_label: volume.part_label.clone(),
            part_uuid: volume.part_uuid.clone(),
            may_open: volume.known == Known::Filesystem,
        }
    }
}

/// Opens the filesystem of the volume at this position.
pub type Open<'a> = &'a dyn Fn(usize) -> Result<Arc<dyn GuestFs>>;

/// A file or directory of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Position of the volume.
    pub volume: usize,
    /// Inode there.
    pub ino: GuestIno,
}

/// A directory of the joined tree that shows another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountAt {
    /// Its path in the joined tree, absolute, without symlinks.
    pub path: Vec<u8>,
    /// The directory that is covered: wherever it shows in the tree (as with rbind, also in a directory that is shown twice). Of
    /// several mounts over one place the last counts, and what is mounted may be covered itself.
    pub over: Place,
    /// The directory that is shown there.
    pub root: Place,
}

/// An entry of an fstab that is not in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unjoined {
    /// What would be mounted.
    pub source: String,
    /// Where.
    pub target: String,
    /// Why it is not.
    pub reason: String,
}

/// A guest's system and its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// A name for a directory, unique among the systems of a point.
    pub label: String,
    /// What the system calls itself: `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
    /// Its root directory.
    pub root: Place,
    /// What is mounted in it, parents before children.
    pub mounts: Vec<MountAt>,
    /// What is not, and would be missed.
    pub unjoined: Vec<Unjoined>,
}

/// What `files/` of a point is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// Systems; the first is the default one.
    Systems(Vec<System>),
    /// No system, and one filesystem, whose root this is.
    One(Place),
    /// No system, and several filesystems, each with a name for its directory.
    Several(Vec<(String, Place)>),
    /// No filesystem that can be read.
    Nothing,
}
