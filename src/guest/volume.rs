//! The volumes of a disk: its partitions, or the disk itself, each with what lies on it.

use std::sync::Arc;

use super::fs::{FsInfo, VolumeState};
use super::partition::{self, Kind, TableKind};
use super::probe::{Content, open_fs, probe};
use crate::block::ReadAt;
use crate::block::run::{RunMap, RunReader};
use crate::error::Result;

/// One volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its path below `volumes/`: `vda/part/1`, `vda/raw`.
    pub path: String,
    /// Where its bytes are; sources are the numbers that [`scan_disk`] was given.
    pub map: RunMap<usize>,
    /// Where the other devices are that its filesystem spans (btrfs).
    pub members: Vec<RunMap<usize>>,
    /// Type of the partition: its name, else its id.
    pub type_name: Option<String>,
    /// Name of the partition in its table.
    pub part_label: Option<String>,
    /// UUID of the partition.
    pub part_uuid: Option<String>,
    /// What lies on it, as its magic says.
    pub content: Option<Content>,
    /// What the filesystem says of itself, when it could be opened.
    pub info: Option<FsInfo>,
    /// How far it is known.
    pub state: VolumeState,
}

/// What a scan of a disk found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The volumes, in the order of their numbers.
    pub volumes: Vec<Volume>,
    /// Remarks for people, about the disk as a whole.
    pub notes: Vec<String>,
}

impl Volume {
    /// The volume's bytes; `sources` are all disks, in the order of their numbers.
    #[must_use]
    pub fn reader(&self, sources: &[Arc<dyn ReadAt>]) -> Arc<dyn ReadAt> {
        Arc::new(RunReader::new(self.map.clone(), sources.to_vec(), None))
    }

    /// All devices that its filesystem spans, itself first.
    #[must_use]
    pub fn devices(&self, sources: &[Arc<dyn ReadAt>]) -> Vec<Arc<dyn ReadAt>> {
        let member = |map: &RunMap<usize>| -> Arc<dyn ReadAt> {
            Arc::new(RunReader::new(map.clone(), sources.to_vec(), None))
        };
        std::iter::once(&self.map)
            .chain(&self.members)
            .map(member)
            .collect()
    }
}

/// Finds the volumes of the disk `name`, whose number in their maps is `source`, and opens each to see its state. A
/// damaged partition table gives
/// one volume, `NAME/raw`, which says so.
///
/// # Errors
/// None from damage; `Io` when the disk cannot be read at all.
pub fn scan_disk(name: &str, source: usize, disk: &Arc<dyn ReadAt>) -> Result<Scan> {
    let whole = RunMap::linear(source, 0, disk.size_bytes());
    let table = match partition::scan(disk, source) {
        Ok(table) => table,
        Err(error) if error.kind() == crate::error::ErrorKind::Corrupt => {
            let volume = Volume {
                path: format!("{name}/raw"),
                map: whole,
                members: Vec::new(),
                type_name: None,
                part_label: None,
                part_uuid: None,
                content: None,
                info: None,
                state: VolumeState::Damaged(error.report()),
            };
            return Ok(Scan {
                notes: vec![format!("{name}: {}", error.report())],
                volumes: vec![volume],
            });
        }
        Err(error) => return Err(error),
    };
    let mut volumes = Vec::new();
    if table.kind == TableKind::None {
        volumes.push(open(format!("{name}/raw"), whole, disk, None));
    }
    for part in table.partitions {
        let mut volume = match part.kind {
            Kind::Candidate | Kind::Swap => {
                let here = part.damage.clone();
                let reader: Arc<dyn ReadAt> = Arc::new(Window {
                    disk: Arc::clone(disk),
                    start: part.start_bytes,
                    size_bytes: part.map.size_bytes(),
                });
                open(
                    format!("{name}/part/{}", part.number),
                    part.map,
                    &reader,
                    here,
                )
            }
            Kind::Extended | Kind::Reserved => Volume {
                path: format!("{name}/part/{}", part.number),
                map: part.map,
                members: Vec::new(),
                type_name: None,
                part_label: None,
                part_uuid: None,
                content: None,
                info: None,
                state: VolumeState::NoFilesystem,
            },
        };
        volume.type_name = Some(part.type_name.map_or(part.type_id, str::to_owned));
        volume.part_label = part.label;
        volume.part_uuid = part.uuid;
        volumes.push(volume);
    }
    Ok(Scan {
        volumes,
        notes: table.notes,
    })
}

/// Looks at one volume; `damage` is what its table entry has wrong.
fn open(
    path: String,
    map: RunMap<usize>,
    reader: &Arc<dyn ReadAt>,
    damage: Option<String>,
) -> Volume {
    let (state, fs) = open_fs(std::slice::from_ref(reader));
    let state = match (damage, state) {
        // A filesystem that opens in what is there is shown; otherwise the table's damage is the better answer.
        (Some(damage), state) if state != VolumeState::Readable => VolumeState::Damaged(damage),
        (_, state) => state,
    };
    Volume {
        path,
        map,
        members: Vec::new(),
        type_name: None,
        part_label: None,
        part_uuid: None,
        content: probe(reader).ok().flatten(),
        info: fs.map(|fs| fs.info().clone()),
        state,
    }
}

/// A part of a disk, read in place.
struct Window {
    disk: Arc<dyn ReadAt>,
    start: u64,
    size_bytes: u64,
}

impl ReadAt for Window {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let length = crate::types::width::u64_from_usize(buf.len());
        crate::block::check_range(self.size_bytes, offset, length)?;
        self.disk.read_at(self.start + offset, buf)
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<crate::block::Extent> {
        crate::block::check_range(self.size_bytes, offset, length_max)?;
        self.disk.extent_at(self.start + offset, length_max)
    }
}
