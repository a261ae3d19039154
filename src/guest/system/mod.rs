//! The guest's own tree: which volumes a guest's system mounts where, as a plan.
//!
//! A system is a filesystem that looks like the root of one; its `/etc/fstab` names the other parts of its
//! tree. The plan consists only of places (volume and inode): the code that shows the tree follows them.
//!
//! # Invariants
//! - Nothing in a guest leads outside of it: symlinks are followed within the joined tree, and their number
//!   is bounded.
//! - A filesystem that cannot be joined is listed with the reason, if its files would be missed; nothing is
//!   guessed.
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
mod lookup;
mod os_release;
mod ostree;
mod plan;
mod root;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod unit;

pub use fstab::parse as parse_fstab;
pub use os_release::parse as parse_os_release;
pub use plan::{left_out, plan_files};

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fs::{GuestFs, GuestIno, VolumeState};
use super::volume::{Alias, Known, Origin, Volume};
use crate::block::run::Target;
use crate::error::Result;

/// Facts about a volume by which an fstab may refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its path below `volumes/`.
    pub path: String,
    /// Its origin.
    pub origin: Origin,
    /// Label of its filesystem.
    pub label: Option<String>,
    /// UUID of its filesystem.
    pub uuid: Option<String>,
    /// Name of its partition.
    pub part_label: Option<String>,
    /// UUID of its partition.
    pub part_uuid: Option<String>,
    /// Its format according to its magic number: `ext`, `xfs`, `swap`.
    pub format: Option<String>,
    /// Serial number of its disk, if known.
    pub serial: Option<String>,
    /// The numbers of all its disks.
    pub disks: Vec<usize>,
    /// Whether it is a snapshot of another volume, and so has that volume's label and UUID.
    pub is_snapshot: bool,
    /// Its further names.
    pub alias: Alias,
    /// Whether it may have a filesystem to open.
    pub may_open: bool,
    /// Why no filesystem can be opened on it, from the scan or from a failed attempt.
    pub obstacle: Option<Obstacle>,
}

/// Why a volume has no readable filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It contains data, or a part of them, that cannot be read.
    Unreadable(String),
    /// It contains no files: it is swap, or a part of another volume.
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

/// Describes an unsupported volume in a sentence; a format has only a name.
fn unsupported(what: &str, format: Option<&str>) -> String {
    match what {
        "crypto_LUKS" => "it is encrypted (LUKS)".to_owned(),
        "ntfs" => "Windows; NTFS is not read yet".to_owned(),
        _ if Some(what) == format => format!("{what} is not read"),
        _ => what.to_owned(),
    }
}

/// The obstacle to opening a volume that a scan has found.
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
    /// Records the result of opening the volume.
    pub fn opened(&mut self, state: &VolumeState) {
        let reason = match state {
            VolumeState::Readable | VolumeState::NoFilesystem => return,
            VolumeState::Unsupported(what) => unsupported(what, self.format.as_deref()),
            VolumeState::Damaged(what) => what.clone(),
        };
        self.obstacle.get_or_insert(Obstacle::Unreadable(reason));
    }
}

/// The disks of a volume.
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
            // LVM's udev rule makes links to the origin rather than to its snapshot.
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
    /// Inode in that volume.
    pub ino: GuestIno,
}

/// A mount: a directory of the joined tree that shows another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountAt {
    /// Its path in the joined tree, absolute, without symlinks.
    pub path: Vec<u8>,
    /// The covered directory, wherever it appears in the tree (as with rbind, also in a directory that is
    /// shown twice). Of several mounts over one place the last one is shown; the root of a mount may be
    /// covered itself.
    pub over: FileLocation,
    /// The directory that it shows.
    pub root: FileLocation,
}

/// Why something is not in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It is on the point's disks, but unreadable, or it cannot be joined.
    Unreadable,
    /// It is not on the point's disks.
    Missing,
    /// It is not on the point's disks, and the system starts without it (`nofail`).
    MissingNofail,
    /// It is on another machine, or a program in the guest provides it.
    Elsewhere,
    /// It is not mounted at boot.
    NotAutomatic,
    /// It has no files: swap, or unknown content.
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

    /// Whether the tree lacks files because of it.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::Unreadable | Self::Missing)
    }
}

/// An entry of an fstab that is not in the tree; without a system, such a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unjoined {
    /// The source.
    pub source: String,
    /// The mount point.
    pub target: String,
    /// The reason, for people.
    pub reason: String,
    /// Class of the reason.
    pub class: Class,
}

/// Why an entry cannot be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    class: Class,
    reason: String,
    /// No volume matches the entry: it may be inside an unreadable one.
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

    /// No volume matches.
    fn absent() -> Self {
        Self {
            is_absent: true,
            ..Self::new(Class::Missing, "there is no such volume")
        }
    }
}

/// A guest's bytes in printable form.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A guest's system and its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// A name for a directory, unique among the systems of a point.
    pub label: String,
    /// The system's own name: `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
    /// Its root directory.
    pub root: FileLocation,
    /// Its mounts, parents before children.
    pub mounts: Vec<MountAt>,
    /// Entries that are not mounted and would be missed.
    pub unjoined: Vec<Unjoined>,
    /// Remarks for people: inferred and skipped entries.
    pub notes: Vec<String>,
}

/// The content of a point's `files/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// Systems; the first is the default one.
    Systems(Vec<System>),
    /// No system, and one filesystem, with its root.
    One(FileLocation),
    /// No system, and several filesystems, each with a directory name.
    Several(Vec<(String, FileLocation)>),
    /// No readable filesystem.
    Nothing,
}
