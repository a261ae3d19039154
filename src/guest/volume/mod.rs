//! The volumes of a point: what lies on its disks, found by structure alone.
//!
//! [`scan_point`] looks at all disks of a point together: partitions, whole disks, LVM volumes across disks, and what lies nested in
//! those. It reads tables, labels and magic numbers and opens no filesystem; [`Volume::open`] does, later, wherever it is wanted.
//!
//! # Invariants
//! - A volume is a run map over the point's disks, composed down to them: reading one goes through no other.
//! - The same disks give the same volumes in the same order, with the same paths.
//! - Damage is a state of one volume, and never stops the others.

mod array;
mod btrfs;
mod logical;
mod name;
mod physical;
mod scan;
#[cfg(test)]
mod tests;

pub use scan::scan_point;

use std::sync::Arc;

use super::fs::{GuestFs, VolumeState};
use super::probe::{Content, open_fs};
use crate::block::ReadAt;
use crate::block::run::{RunMap, RunReader};

/// What the structure of the disks tells of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It has the magic of a filesystem, or is the first device of one; a reader may open it.
    Filesystem,
    /// Nothing that could be shown: swap, an extended partition, nothing that is known.
    NoFilesystem,
    /// It has a partition table; its partitions are volumes below `<path>.part/`.
    Partitioned,
    /// It is a part of something, named here for people: "LVM group vg0", "btrfs of vda/part/2".
    Member(String),
    /// It, or what it consists of, uses something, named here, that is not read.
    Unsupported(String),
    /// It is damaged, or a part of it is missing: place and cause.
    Damaged(String),
}

/// Where a volume comes from, as a guest's device names tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A whole disk, by its number.
    Disk(usize),
    /// A partition.
    Partition {
        /// The number of the disk; `None` when the table lies in another volume.
        disk: Option<usize>,
        /// The number of the partition.
        number: u32,
    },
    /// A logical volume.
    Logical {
        /// Its group's name, as LVM has it.
        group: String,
        /// Its name.
        name: String,
    },
    /// An md array.
    Array {
        /// Its name in its path.
        name: String,
    },
}

/// What a guest may know a volume by, beside its place and its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    /// Of a logical volume the identifiers of its group and its own, of an array its UUID: letters and digits only.
    pub device_id: Option<String>,
    /// Type of a GPT's partition, as a GUID.
    pub gpt_type: Option<String>,
    /// Whether that partition may be mounted by its type alone.
    pub is_automatic: bool,
}

/// One volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its path below `volumes/`, unique: `vda/part/1`, `vda/raw`, `lvm/vg0/root`, `lvm/vg0/disk1.part/1`,
    /// `md/root`.
    pub path: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What else names it.
    pub alias: Alias,
    /// Where its bytes are; sources are the numbers of the point's disks.
    pub map: Arc<RunMap<usize>>,
    /// Where the other devices are that its filesystem spans (btrfs), in the order of their numbers.
    pub members: Vec<Arc<RunMap<usize>>>,
    /// Type of the partition (its name, else its id) or of the logical volume.
    pub type_name: Option<String>,
    /// Name of the partition in its table.
    pub part_label: Option<String>,
    /// UUID of the partition.
    pub part_uuid: Option<String>,
    /// Bytes of the sectors that its table counts in.
    pub sector_bytes: Option<u64>,
    /// Whether only a copy of the partition table at the end of the disk knows it: it may be read, and is no part of the guest's tree.
    pub is_left_over: bool,
    /// What lies on it, as its magic says.
    pub content: Option<Content>,
    /// How far it is known.
    pub known: Known,
    /// What is wrong with its place, though a filesystem may still be readable in what is there.
    pub damage: Option<String>,
}

/// What a scan of a point found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The volumes: those of each disk in order, then those assembled.
    pub volumes: Vec<Volume>,
    /// Remarks for people.
    pub notes: Vec<String>,
    /// Whether everything could be read: if not, another scan may find more.
    pub complete: bool,
    /// How many of the first volumes are at the same position in every complete scan.
    pub settled: usize,
}

impl Volume {
    /// The volume's bytes; `sources` are all disks, in the order of their numbers.
    #[must_use]
    pub fn reader(&self, sources: &[Arc<dyn ReadAt>]) -> Arc<dyn ReadAt> {
        reader(&self.map, sources)
    }

    /// All devices that its filesystem spans, itself first.
    #[must_use]
    pub fn devices(&self, sources: &[Arc<dyn ReadAt>]) -> Vec<Arc<dyn ReadAt>> {
        std::iter::once(&self.map)
            .chain(&self.members)
            .map(|map| reader(map, sources))
            .collect()
    }

    /// How far it is known, where `open` tells what became of opening its filesystem; it is called only if there may be one.
    #[must_use]
    pub fn state(&self, open: impl FnOnce() -> VolumeState) -> VolumeState {
        match &self.known {
            Known::Filesystem => match (open(), &self.damage) {
                (VolumeState::Readable, _) => VolumeState::Readable,
                // A filesystem that opens in what is there is shown; otherwise the cut is the better answer.
                (_, Some(damage)) => VolumeState::Damaged(damage.clone()),
                (state, None) => state,
            },
            Known::NoFilesystem | Known::Partitioned | Known::Member(_) => {
                VolumeState::NoFilesystem
            }
            Known::Unsupported(what) => VolumeState::Unsupported(what.clone()),
            Known::Damaged(what) => VolumeState::Damaged(what.clone()),
        }
    }

    /// Opens the filesystem on it in this process, or says why there is none to read. Never fails: damage is a state.
    #[must_use]
    pub fn open(&self, sources: &[Arc<dyn ReadAt>]) -> (VolumeState, Option<Box<dyn GuestFs>>) {
        let mut found = None;
        let state = self.state(|| {
            let (state, fs) = open_fs(&self.devices(sources));
            found = fs;
            state
        });
        (state, found)
    }
}

fn reader(map: &Arc<RunMap<usize>>, sources: &[Arc<dyn ReadAt>]) -> Arc<dyn ReadAt> {
    Arc::new(RunReader::new(Arc::clone(map), sources.to_vec(), None))
}
