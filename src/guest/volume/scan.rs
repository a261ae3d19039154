//! The scan of a point: first the disks, then rounds of assembling the devices found on them.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;

use super::device::{DEPTH_MAX, ScannedDevice};
use super::half::Half;
use super::inventory::Inventory;
use super::name::Names;
use super::{Alias, Known, Origin, Scan, Volume, btrfs, reader};
use crate::block::ReadAt;
use crate::block::run::RunMap;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::lvm;
use crate::guest::md;
use crate::guest::partition::{self, Kind, Partition, Table, TableKind};
use crate::guest::probe::{Class, Content, probe};
use crate::guest::remark::Remarks;

/// LIMIT: volumes of a point (our limit).
const VOLUMES_MAX: usize = 1000;

/// A scan in progress.
pub(super) struct Scanner<'a> {
    pub(super) sources: &'a [Arc<dyn ReadAt>],
    pub(super) names: Names,
    pub(super) volumes: Vec<Volume>,
    pub(super) notes: Remarks,
    pub(super) inventory: Inventory,
    /// Devices of md arrays that are not assembled yet.
    pub(super) halves: Vec<Half>,
    /// Number of volumes at the first read error.
    settled: Option<usize>,
    /// Whether the limit of volumes is reached.
    pub(super) is_full: bool,
}

/// Finds the volumes of a point's disks; each disk comes with its name.
///
/// Never fails: a damaged table yields one volume, `NAME/raw`, with the damage; an unreadable disk is noted,
/// and the scan is then incomplete.
#[must_use]
pub fn scan_point(disks: &[(String, Arc<dyn ReadAt>)]) -> Scan {
    let sources: Vec<Arc<dyn ReadAt>> = disks.iter().map(|(_, disk)| Arc::clone(disk)).collect();
    let mut scanner = Scanner {
        sources: &sources,
        names: Names::default(),
        volumes: Vec::new(),
        notes: Remarks::default(),
        inventory: Inventory::default(),
        halves: Vec::new(),
        settled: None,
        is_full: false,
    };
    for (number, (name, disk)) in disks.iter().enumerate() {
        scanner.names.directory(name);
        if let Err(error) = scanner.disk(name, number, disk) {
            scanner.could_not(name, &error);
        }
    }
    scanner.arrays();
    scanner.logical_volumes();
    btrfs::join(&mut scanner.volumes, &sources, &mut scanner.notes);
    Scan {
        settled: scanner.settled.unwrap_or(scanner.volumes.len()),
        complete: scanner.settled.is_none(),
        volumes: scanner.volumes,
        notes: scanner.notes.into_vec(),
    }
}

impl Scanner<'_> {
    /// Records a read error, after which volumes may have other positions in another scan. Damaged or
    /// unsupported data do not count: they were read.
    pub(super) fn unread(&mut self, path: &str, error: &Error) {
        use ErrorKind::{Corrupt, LimitExceeded, NotFound, Unsupported};
        if !matches!(
            error.kind(),
            Corrupt | Unsupported | LimitExceeded | NotFound
        ) {
            self.could_not(path, error);
        }
    }

    fn could_not(&mut self, path: &str, error: &Error) {
        self.settled.get_or_insert(self.volumes.len());
        let report = error.report();
        self.notes
            .push(format!("{path} could not be read: {report}"));
    }

    fn disk(&mut self, name: &str, number: usize, disk: &Arc<dyn ReadAt>) -> Result<()> {
        let device = ScannedDevice {
            path: format!("{name}/raw"),
            origin: Origin::Disk(number),
            map: Arc::new(RunMap::linear(number, 0, disk.size_bytes())),
            depth: 0,
            type_name: None,
            part_label: None,
            part_uuid: None,
            alias: Alias::default(),
            damage: None,
            sector_bytes: None,
            is_left_over: false,
        };
        let table = partition::scan(disk, 0);
        let is_table = !matches!(&table, Ok(table) if table.kind == TableKind::None);
        // A table within a mirror of whole disks whose superblock is at their end; a superblock at the start
        // would hide the table.
        if is_table
            && let Some(superblock) = md::load(disk)
                .unwrap_or(None)
                .filter(|found| found.is_certain && found.data.0 == 0)
        {
            self.member(&device, superblock);
            return Ok(());
        }
        match table {
            Ok(mut table) => {
                let backup = table.backup.take();
                if table.kind == TableKind::None {
                    self.look(device.clone());
                } else {
                    self.table(&device, &format!("{name}/part"), name, table);
                }
                if let Some(backup) = backup {
                    self.left_over(device, name, *backup);
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.notes.push(format!("{name}: {}", error.report()));
                self.add(device, None, Known::Damaged(error.report()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Scans the partitions of a GPT of which only the backup at the end of a disk exists.
    fn left_over(&mut self, device: ScannedDevice, name: &str, table: Table) {
        self.notes.push(format!(
            "{name}: a sound copy of a GPT lies at the end of the disk, and no GPT at its start; its partitions are in {name}/backup-gpt, and no \
             part of files/"
        ));
        let device = ScannedDevice {
            is_left_over: true,
            ..device
        };
        self.table(&device, &format!("{name}/backup-gpt"), name, table);
    }

    /// Adds a volume; beyond the limit, it notes that once.
    pub(super) fn add(&mut self, device: ScannedDevice, content: Option<Content>, known: Known) {
        if self.volumes.len() >= VOLUMES_MAX {
            if !self.is_full {
                let path = &device.path;
                let note =
                    format!("more than {VOLUMES_MAX} volumes; {path} and what follows is left out");
                self.notes.push(note);
            }
            self.is_full = true;
            return;
        }
        let path = self.names.volume(&device.path);
        if path != device.path {
            let wanted = &device.path;
            self.notes.push(format!(
                "{path}: the path {wanted} is taken by another volume"
            ));
        }
        self.volumes.push(Volume {
            path,
            origin: device.origin,
            map: device.map,
            members: Vec::new(),
            type_name: device.type_name,
            part_label: device.part_label,
            part_uuid: device.part_uuid,
            alias: device.alias,
            sector_bytes: device.sector_bytes,
            is_left_over: device.is_left_over,
            content,
            known,
            damage: device.damage,
        });
    }

    /// Scans all partitions of a table; their names are below `dir`.
    fn table(&mut self, device: &ScannedDevice, dir: &str, place: &str, table: Table) {
        for note in &table.notes {
            self.notes.push(format!("{place}: {note}"));
        }
        let dir = self.names.directory(dir);
        for part in table.partitions {
            let map = part
                .map
                .compose(|_, at, length| Ok(device.map.run_at(at, length)));
            self.partition(device, table.sector_bytes, &dir, part, map);
        }
    }

    fn partition(
        &mut self,
        below: &ScannedDevice,
        sector_bytes: u64,
        dir: &str,
        part: Partition,
        map: Result<RunMap<usize>>,
    ) {
        // The kernel gives no name to a partition that it does not see.
        let disk = match below.origin {
            Origin::Disk(number) if !below.is_left_over => Some(number),
            _ => None,
        };
        let (map, broken) = match map {
            Ok(map) => (map, None),
            Err(error) => (RunMap::linear(0, 0, 0), Some(error.report())),
        };
        let device = ScannedDevice {
            path: format!("{dir}/{}", part.number),
            origin: Origin::Partition {
                disk,
                number: part.number,
            },
            map: Arc::new(map),
            depth: below.depth.saturating_add(1),
            alias: Alias {
                device_id: None,
                gpt_type: Some(part.type_id.clone()),
                is_automatic: part.is_automatic,
            },
            type_name: Some(part.type_name.map_or(part.type_id, str::to_owned)),
            part_label: part.label,
            part_uuid: part.uuid,
            damage: part.damage.or(broken),
            sector_bytes: Some(sector_bytes),
            is_left_over: below.is_left_over,
        };
        match part.kind {
            Kind::Candidate | Kind::Swap => self.look(device),
            Kind::Extended | Kind::Reserved => self.add(device, None, Known::NoFilesystem),
        }
    }

    /// Scans the content of a device.
    pub(super) fn look(&mut self, device: ScannedDevice) {
        if self.is_full {
            return;
        }
        let reader = reader(&device.map, self.sources);
        let content = match probe(&reader) {
            Ok(content) => content,
            Err(error) => {
                self.unread(&device.path, &error);
                return self.add(device, None, Known::Damaged(error.report()));
            }
        };
        // A device that Linux does not see is not part of an array.
        match (!device.is_left_over).then(|| md::load(&reader)) {
            Some(Ok(Some(superblock))) => return self.member(&device, superblock),
            Some(Err(error)) => {
                self.unread(&device.path, &error);
                return self.add(device, None, Known::Damaged(error.report()));
            }
            Some(Ok(None)) | None => {}
        }
        let may_be_physical = content.as_ref().is_none_or(|c| c.format == "LVM2_member");
        if may_be_physical && self.physical(&device, &reader) {
            return;
        }
        // On a partition, a filesystem hides a table, whose signature is also that of a boot sector; the disk
        // of a nested guest begins with its table.
        let may_have_table = match device.origin {
            Origin::Disk(_) => false,
            Origin::Partition { .. } => content.is_none(),
            Origin::Logical { .. } | Origin::Array { .. } => true,
        };
        if may_have_table && self.nested_table(&device, &reader) {
            return;
        }
        let known = match (known(content.as_ref()), &device.damage) {
            (Known::Filesystem, _) => Known::Filesystem,
            (_, Some(damage)) => Known::Damaged(damage.clone()),
            (known, None) => known,
        };
        self.add(device, content, known);
    }

    /// Scans a partition table within a volume; returns whether there was one.
    fn nested_table(&mut self, device: &ScannedDevice, reader: &Arc<dyn ReadAt>) -> bool {
        let table = match partition::scan(reader, 0) {
            Ok(table) => table,
            // Inside a volume, bytes that look like a damaged table may be anything.
            Err(_) => return false,
        };
        // A boot sector whose partitions lie outside the volume is not a table either.
        if table.kind == TableKind::None || table.partitions.iter().all(|p| p.damage.is_some()) {
            return false;
        }
        self.add(device.clone(), None, Known::Partitioned);
        let Some(path) = self.volumes.last().map(|volume| volume.path.clone()) else {
            return true;
        };
        if device.depth >= DEPTH_MAX {
            self.notes.push(format!(
                "{path}: volumes are nested deeper than {DEPTH_MAX}; its partitions are left out"
            ));
        } else {
            self.table(device, &format!("{path}.part"), &path, table);
        }
        true
    }

    /// Adds an LVM physical volume; returns whether the device is one.
    fn physical(&mut self, device: &ScannedDevice, reader: &Arc<dyn ReadAt>) -> bool {
        let (known, uuid) = match lvm::load_label(reader) {
            Ok(None) => return false,
            Ok(Some(label)) => {
                let found = self.volumes.len();
                self.inventory
                    .add(found, device, &label, reader, &mut self.notes);
                (Known::Member("LVM".to_owned()), Some(label.id))
            }
            Err(error) => {
                self.unread(&device.path, &error);
                (Known::Damaged(error.report()), None)
            }
        };
        let content = Content {
            format: "LVM2_member",
            class: Class::Container,
            label: None,
            uuid,
        };
        self.add(device.clone(), Some(content), known);
        true
    }
}

/// The knowledge about a volume from its magic number.
fn known(content: Option<&Content>) -> Known {
    let Some(content) = content else {
        return Known::NoFilesystem;
    };
    match (content.class, content.format) {
        (Class::Filesystem, _) => Known::Filesystem,
        (Class::Swap | Class::Journal, _) => Known::NoFilesystem,
        (Class::Container, "linux_raid_member") => {
            Known::Unsupported("an md array, which is not assembled".to_owned())
        }
        (Class::Container, format) => Known::Unsupported(format.to_owned()),
    }
}
