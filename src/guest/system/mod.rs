//! The guest's own tree: which volumes a guest's system mounts where, as a plan.
//!
//! A system is a filesystem that looks like the root of one; its `/etc/fstab` says what else belongs to its tree. The plan names places
//! (volume and inode) only: whoever shows the tree walks it by them.
//!
//! # Invariants
//! - Nothing in a guest leads outside of it: symlinks are followed within the joined tree, a bounded number of times.
//! - What cannot be joined and would be missed is listed with its reason; nothing is guessed.
//! - The same volumes give the same plan.

mod array;
mod boot;
mod filesystem;
mod fstab;
mod gpt;
mod hardware;
mod join;
mod kind;
mod label;
mod os_release;
mod ostree;
mod plan;
mod root;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod unit;

pub use fstab::{Entry, parse as parse_fstab};
pub use os_release::{OsRelease, parse as parse_os_release};
pub use plan::{left_out, plan_files, plan_systems};

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fs::{GuestFs, GuestIno, VolumeState};
use super::volume::{Alias, Known, Origin, Volume};
use crate::block::run::Target;
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
    /// Its content by its magic: `ext`, `xfs`, `swap`.
    pub format: Option<String>,
    /// Serial number of its disk, as far as it is known.
    pub serial: Option<String>,
    /// The numbers of all disks that it lies on.
    pub disks: Vec<usize>,
    /// Whether it is a snapshot of another volume, so that it has that one's label and UUID.
    pub is_snapshot: bool,
    /// What else names it.
    pub alias: Alias,
    /// Whether it may have a filesystem to open.
    pub may_open: bool,
    /// Why no filesystem can be opened on it; also of one that may be, when opening it has failed already.
    pub obstacle: Option<Obstacle>,
}

/// Why there is no filesystem to read on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Something is there, or a part of it is, and it cannot be read.
    Unreadable(String),
    /// Nothing of files is there: it is swap, or a part of another volume.
    Other(String),
}

impl Obstacle {
    /// The reason for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Unreadable(reason) | Self::Other(reason) => reason,
        }
    }
}

/// What an unsupported volume is, as a sentence; formats are known by their names alone.
fn unsupported(what: &str, format: Option<&str>) -> String {
    match what {
        "crypto_LUKS" => "it is encrypted (LUKS)".to_owned(),
        "ntfs" => "Windows; NTFS is not read yet".to_owned(),
        _ if Some(what) == format => format!("{what} is not read"),
        _ => what.to_owned(),
    }
}

/// What a scan knows against opening a volume.
fn obstacle(volume: &Volume) -> Option<Obstacle> {
    let format = volume.content.as_ref().map(|content| content.format);
    let other = |reason: &str| Some(Obstacle::Other(reason.to_owned()));
    match &volume.known {
        Known::Filesystem => None,
        Known::NoFilesystem if format == Some("swap") => other("it is swap space"),
        Known::NoFilesystem if format == Some("jbd") => {
            other("it is the journal of another filesystem")
        }
        Known::NoFilesystem => other("nothing on it is known"),
        Known::Partitioned => other("it has a partition table"),
        Known::Member(of) => other(&format!("it is a part of {of}")),
        Known::Unsupported(what) => Some(Obstacle::Unreadable(unsupported(what, format))),
        Known::Damaged(what) => Some(Obstacle::Unreadable(what.clone())),
    }
}

impl VolumeFacts {
    /// Takes over what opening the volume has answered.
    pub fn opened(&mut self, state: &VolumeState) {
        let reason = match state {
            VolumeState::Readable | VolumeState::NoFilesystem => return,
            VolumeState::Unsupported(what) => unsupported(what, self.format.as_deref()),
            VolumeState::Damaged(what) => what.clone(),
        };
        self.obstacle.get_or_insert(Obstacle::Unreadable(reason));
    }
}

/// The disks that a volume lies on.
fn disks(volume: &Volume) -> Vec<usize> {
    let runs = volume.map.runs().iter();
    let disks: BTreeSet<usize> = runs
        .filter_map(|run| match run.target {
            Target::Source { source, .. } => Some(source),
            _ => None,
        })
        .collect();
    disks.into_iter().collect()
}

impl From<&Volume> for VolumeFacts {
    fn from(volume: &Volume) -> Self {
        let content = volume.content.as_ref();
        Self {
            format: content.map(|content| content.format.to_owned()),
            obstacle: obstacle(volume),
            serial: None,
            disks: disks(volume),
            // So says LVM's own rule for udev, which has links to the other volume rather than to its snapshot.
            is_snapshot: volume.type_name.as_deref() == Some("LVM snapshot"),
            alias: volume.alias.clone(),
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
pub struct FileLocation {
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
    pub over: FileLocation,
    /// The directory that is shown there.
    pub root: FileLocation,
}

/// What became of something that is not in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It is on the point's disks, and cannot be read or joined.
    Unreadable,
    /// It is not on the point's disks.
    Missing,
    /// Likewise, and the system starts without it (`nofail`).
    MissingNofail,
    /// It is on another machine, or a program of the guest shows it.
    Elsewhere,
    /// It is not mounted at boot.
    NotAutomatic,
    /// There are no files: swap, or nothing that is known.
    NoFiles,
}

impl Class {
    /// Its name in `volumes.json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
            Self::MissingNofail => "missing_nofail",
            Self::Elsewhere => "elsewhere",
            Self::NotAutomatic => "not_automatic",
            Self::NoFiles => "no_files",
        }
    }

    /// Whether files that belong to the tree are not there because of it.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::Unreadable | Self::Missing)
    }
}

/// An entry of an fstab that is not in the tree; without a system, a volume that is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unjoined {
    /// What would be mounted.
    pub source: String,
    /// Where.
    pub target: String,
    /// Why it is not.
    pub reason: String,
    /// What that means.
    pub class: Class,
}

/// Why an entry cannot be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    class: Class,
    reason: String,
    /// No volume is what the entry names: it may be in one that cannot be read.
    is_absent: bool,
}

impl Refusal {
    fn new(class: Class, reason: impl Into<String>) -> Self {
        Self {
            class,
            reason: reason.into(),
            is_absent: false,
        }
    }

    /// There is no such volume.
    fn absent() -> Self {
        Self {
            is_absent: true,
            ..Self::new(Class::Missing, "there is no such volume")
        }
    }
}

/// Bytes of a guest for people.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A guest's system and its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// A name for a directory, unique among the systems of a point.
    pub label: String,
    /// What the system calls itself: `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
    /// Its root directory.
    pub root: FileLocation,
    /// What is mounted in it, parents before children.
    pub mounts: Vec<MountAt>,
    /// What is not, and would be missed.
    pub unjoined: Vec<Unjoined>,
    /// Remarks for people: what was inferred, and what was passed over.
    pub notes: Vec<String>,
}

/// What `files/` of a point is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// Systems; the first is the default one.
    Systems(Vec<System>),
    /// No system, and one filesystem, whose root this is.
    One(FileLocation),
    /// No system, and several filesystems, each with a name for its directory.
    Several(Vec<(String, FileLocation)>),
    /// No filesystem that can be read.
    Nothing,
}
