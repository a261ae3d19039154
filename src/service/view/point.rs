//! Restore points in answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::order::Ranked;
use super::page::{Page, Slice};
use super::{View, missing_right};
use crate::access::Right;
use crate::block::ReadAt;
use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::lineage::Lineage;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::PointEntry;
use crate::tree::{Ino, PointView};
use crate::types::width::usize_from_u64;
use crate::types::{DiskName, PointId, PointName, RepositoryId, VmName};

/// A restore point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PointAnswer {
    /// Its name.
    pub name: PointName,
    /// Its identity: the same in every copy.
    pub point_id: PointId,
    /// Its place in the VM's order; it only grows.
    pub seq: u64,
    /// `full`, `incremental` or `differential`.
    pub kind: String,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The point that it was compared with.
    pub parent: Option<PointName>,
    /// Its disks.
    pub disks: Vec<PointDiskAnswer>,
    /// Bytes of its disks.
    pub size_bytes: u64,
    /// Bytes that differed from the parent.
    pub changed_bytes: u64,
    /// Bytes that its own layers take; `null` when one is missing.
    pub stored_bytes: Option<u64>,
    /// Its attached files.
    pub attached: Vec<AttachedAnswer>,
    /// Labels for people.
    pub tags: BTreeMap<String, String>,
    /// Whether somebody keeps it by hand.
    pub kept: bool,
    /// Its copies at other repositories.
    pub copies: Vec<CopyAnswer>,
    /// `sound`, `damaged`, or `null` when it was not verified.
    pub check: Option<String>,
    /// Since when that result is known.
    pub checked_at: Option<Timestamp>,
}

/// A disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointDiskAnswer {
    /// Its name.
    pub name: DiskName,
    /// Bytes of the disk as NBD exports it.
    pub size_bytes: u64,
    /// Bytes of the source: what a download has.
    pub source_bytes: u64,
    /// Bytes that are not zero.
    pub data_bytes: u64,
    /// Bytes that differed from the parent.
    pub changed_bytes: u64,
    /// Layers of its chain, down to the last full one.
    pub depth: Option<u32>,
}

/// A file that was attached to a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachedAnswer {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A copy of a restore point at another repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyAnswer {
    /// The other repository.
    pub repository_id: RepositoryId,
    /// Its name here, where the register has it.
    pub repository: Option<String>,
    /// When it was copied.
    pub at: Timestamp,
    /// When the other repository last confirmed it.
    pub verified_at: Option<Timestamp>,
    /// Since when the other repository has it no more.
    pub gone_at: Option<Timestamp>,
}

impl PointAnswer {
    pub(super) fn of(ranked: &Ranked, repository: &Repository, names: &Names) -> Result<Self> {
        let stored_bytes = ranked.stored_bytes(repository)?;
        Ok(Self::of_entry(&ranked.point.entry, stored_bytes, names))
    }

    fn of_entry(entry: &PointEntry, stored_bytes: Option<u64>, names: &Names) -> Self {
        let disks = entry.disks.iter().map(|disk| PointDiskAnswer {
            name: disk.name.clone(),
            size_bytes: disk.size_bytes,
            source_bytes: disk.source_bytes,
            data_bytes: disk.data_bytes,
            changed_bytes: disk.changed_bytes,
            depth: disk.depth,
        });
        let attached = entry.attached.iter().map(|file| AttachedAnswer {
            name: file.name.clone(),
            size_bytes: file.size_bytes,
        });
        let copies = entry.copies.iter().map(|copy| CopyAnswer {
            repository_id: copy.repository_id,
            repository: names.of(copy.repository_id),
            at: copy.at,
            verified_at: copy.verified_at,
            gone_at: copy.gone_at,
        });
        Self {
            name: entry.name.clone(),
            point_id: entry.point_id,
            seq: entry.seq,
            kind: entry.kind.as_str().to_owned(),
            captured_at: entry.captured_at,
            committed_at: entry.committed_at,
            parent: entry.parent.as_ref().map(|parent| parent.name.clone()),
            size_bytes: entry.disks.iter().map(|disk| disk.source_bytes).sum(),
            changed_bytes: entry.disks.iter().map(|disk| disk.changed_bytes).sum(),
            disks: disks.collect(),
            stored_bytes,
            attached: attached.collect(),
            tags: entry.tags.clone(),
            kept: entry.kept,
            copies: copies.collect(),
            check: entry.check.map(|check| check.as_str().to_owned()),
            checked_at: entry.checked_at,
        }
    }
}

/// The names of other repositories, looked up only where a point has copies.
#[derive(Default)]
pub(super) struct Names(std::cell::OnceCell<crate::repo::register::Register>);

impl Names {
    fn of(&self, id: RepositoryId) -> Option<String> {
        let register = self
            .0
            .get_or_init(|| crate::repo::register::Register::load().unwrap_or_default());
        let mut entries = register.entries().iter();
        let entry = entries.find(|entry| entry.id == id)?;
        Some(entry.name.to_string())
    }
}

impl View {
    /// The points of a VM, the newest first.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` (the cursor); `Io`.
    pub fn points(&self, vm: &VmName, slice: &Slice) -> Result<Page<PointAnswer>> {
        let vm = self.vm_for(vm, Right::Read)?;
        let order = self.shared.orders.of(&vm);
        let names = Names::default();
        let points = order.below(slice.number()?).iter().take(slice.limit + 1);
        let answers = points.map(|ranked| PointAnswer::of(ranked, self.repository(), &names));
        let answers = answers.collect::<Result<Vec<_>>>()?;
        Ok(slice.cut(answers, |point| point.seq.to_string()))
    }

    /// One point.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    pub fn point(&self, vm: &VmName, which: &Which) -> Result<PointAnswer> {
        let point = self.point_for(vm, which, Right::Read)?;
        let view = self.tree().vm(vm)?;
        let order = self.shared.orders.of(&view);
        match order.at(point.entry.seq) {
            Some(ranked) => PointAnswer::of(ranked, self.repository(), &Names::default()),
            None => self.answer(&point.entry, &point.vm),
        }
    }

    /// The answer for a point that an operation has returned.
    ///
    /// # Errors
    /// `Io`.
    pub fn answer(&self, entry: &PointEntry, vm: &VmName) -> Result<PointAnswer> {
        let stored = self.repository().stored_bytes(vm, entry)?.total();
        Ok(PointAnswer::of_entry(entry, stored, &Names::default()))
    }

    /// A document of a point as the tree has it: `info.json`, `volumes.json`.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`, `Io`.
    pub fn document(&self, vm: &VmName, which: &Which, name: &str) -> Result<Value> {
        let point = self.point_for(vm, which, Right::Read)?;
        let file = self
            .tree()
            .resolve(self.start(&point)?, name.as_bytes())?
            .attributes;
        let content = self.tree().content(file.ino)?;
        let mut bytes = vec![0; usize_from_u64(content.size_bytes())];
        content.read_at(0, &mut bytes)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::corrupt(format!("{name} cannot be read"), "JSON", e))
    }

    /// Damage of the files that a point needs, one text each; none when all is there.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when the VM's own sidecars cannot be read; `Io`.
    pub fn damage(&self, vm: &VmName, which: &Which) -> Result<Vec<String>> {
        let point = self.point_for(vm, which, Right::Read)?;
        let index = self.repository().index(&point.vm)?;
        let entry = index
            .point(&point.entry.name)
            .ok_or_else(|| Error::not_found("the restore point was forgotten"))?;
        let faults = Lineage::new(self.repository(), &point.vm, &index).damage_of(entry)?;
        Ok(faults.iter().map(Error::report).collect())
    }

    /// An attached file of a point.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied`; `Corrupt`, `Io`.
    pub fn attached(&self, vm: &VmName, which: &Which, name: &str) -> Result<Vec<u8>> {
        let read = self.read_attached(vm, which, name);
        let subject = format!("{which}/{name}");
        self.local()
            .note_result("read-attached", vm, &subject, &read);
        read
    }

    fn read_attached(&self, vm: &VmName, which: &Which, name: &str) -> Result<Vec<u8>> {
        let point = self.point_for(vm, which, Right::Read)?;
        if !self.may(Right::Restore, &point.vm) {
            return Err(missing_right(Right::Restore, &point.vm));
        }
        let mut files = point.entry.attached.iter();
        let file = files.find(|file| file.name == name).ok_or_else(|| {
            let point = &point.entry.name;
            Error::not_found(format!("{vm}@{point} has no attached file of this name"))
        })?;
        self.repository()
            .attached(&point.vm, &point.entry.name, file)
    }

    /// The node of a point's directory in the tree.
    pub(super) fn start(&self, point: &Arc<PointView>) -> Result<Ino> {
        let path = format!("{}/{}", point.vm, point.entry.name);
        Ok(self
            .tree()
            .resolve(Ino::ROOT, path.as_bytes())?
            .attributes
            .ino)
    }
}
