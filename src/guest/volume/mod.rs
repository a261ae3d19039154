//! The volumes of a point, found on its disks by structure alone.
//!
//! [`scan_point`] examines all disks of a point together: partitions, whole disks, LVM volumes across disks,
//! and volumes nested in those. It reads tables, labels and magic numbers, and opens no filesystem;
//! [`Volume::open`] does so later, on demand.
//!
//! # Invariants
//! - A volume is a run map directly over the point's disks: reading it involves no other volume.
//! - The same disks give the same volumes in the same order, with the same paths.
//! - Damage is a state of one volume, and does not affect the others.

mod array;
mod btrfs;
mod device;
mod half;
mod inventory;
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

/// Knowledge about a volume from the structure of the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It has the magic of a filesystem, or is the first device of one; a reader may open it.
    Filesystem,
    /// It has no files to show: swap, an extended partition, or unknown content.
    NoFilesystem,
    /// It has a partition table; its partitions are volumes below `<path>.part/`.
    Partitioned,
    /// It is a part of another volume, named here for people: "LVM group vg0", "btrfs of vda/part/2".
    Member(String),
    /// It, or a part of it, uses a feature, named here, that is not supported.
    Unsupported(String),
    /// It is damaged or incomplete: place and cause.
    Damaged(String),
}

/// Origin of a volume, as needed for a guest's device names.
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

/// Further names by which a guest may refer to a volume, besides its place and content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    /// For a logical volume, the identifiers of its group and its own; for an array, its UUID. Letters and
    /// digits only.
    pub device_id: Option<String>,
    /// Type of a GPT partition, as a GUID.
    pub gpt_type: Option<String>,
    /// Whether the guest may mount that partition by its type alone.
    pub is_automatic: bool,
}

/// One volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its path below `volumes/`, unique: `vda/part/1`, `vda/raw`, `lvm/vg0/root`, `lvm/vg0/disk1.part/1`,
    /// `md/root`.
    pub path: String,
    /// Its origin.
    pub origin: Origin,
    /// Its further names.
    pub alias: Alias,
    /// Location of its bytes; sources are the numbers of the point's disks.
    pub map: Arc<RunMap<usize>>,
    /// Locations of the further devices of its filesystem (btrfs), in the order of their numbers.
    pub members: Vec<Arc<RunMap<usize>>>,
    /// Type of the partition (its name, else its id) or of the logical volume.
    pub type_name: Option<String>,
    /// Name of the partition in its table.
    pub part_label: Option<String>,
    /// UUID of the partition.
    pub part_uuid: Option<String>,
    /// Sector size in bytes of the table that contains it.
    pub sector_bytes: Option<u64>,
    /// Whether only a backup partition table at the end of the disk lists it: it can be read, but is not a
    /// part of the guest's tree.
    pub is_left_over: bool,
    /// Its content according to its magic number.
    pub content: Option<Content>,
    /// Knowledge about it.
    pub known: Known,
    /// A fault of its place; a filesystem may still be readable in the rest.
    pub damage: Option<String>,
}

/// The result of scanning a point.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The volumes: those of each disk in order, then the assembled ones.
    pub volumes: Vec<Volume>,
    /// Remarks for people.
    pub notes: Vec<String>,
    /// Whether everything was readable; otherwise another scan may find more.
    pub complete: bool,
    /// Number of leading volumes that have the same position in every complete scan.
    pub settled: usize,
}

impl Volume {
    /// The volume's bytes; `sources` are all disks, in the order of their numbers.
    #[must_use]
    pub fn reader(&self, sources: &[Arc<dyn ReadAt>]) -> Arc<dyn ReadAt> {
        reader(&self.map, sources)
    }

    /// All devices of its filesystem, itself first.
    #[must_use]
    pub fn devices(&self, sources: &[Arc<dyn ReadAt>]) -> Vec<Arc<dyn ReadAt>> {
        std::iter::once(&self.map)
            .chain(&self.members)
            .map(|map| reader(map, sources))
            .collect()
    }

    /// Its state. `open` opens its filesystem; it is called only if there may be one.
    #[must_use]
    pub fn state(&self, open: impl FnOnce() -> VolumeState) -> VolumeState {
        match &self.known {
            Known::Filesystem => match (open(), &self.damage) {
                (VolumeState::Readable, _) => VolumeState::Readable,
                // If a filesystem opens in the rest, it is shown; otherwise the fault of the place is the
                // better answer.
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

    /// Opens its filesystem in this process, or explains why there is none to read. Never fails: damage is a
    /// state.
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
