//! Undelete: a forgotten restore point comes back, while the trash has what it needs.
//!
//! 1. layers of its chains that are not in `layers/` come back from the trash, the sums first; its content is proved by the sums of
//!    the whole chain;
//! 2. its state comes back;
//! 3. its directory is renamed back to `points/<point>`: *the point is there*;
//! 4. `index.json` is replaced, then the catalog.
//!
//! # Invariants
//! A crash or an error before step 3 leaves layers that nothing names: they go to the trash again. The point keeps its identity and
//! `seq`, and gets another serial, as serials are never given twice.

use std::sync::Arc;

use super::content::{PAGE_BYTES, Region};
use super::entry::{VmCell, VmEntry};
use super::garbage::Look;
use super::layer_file::LayerFile;
use super::layout::{self, POINT_FILE, VmKeys};
use super::leaves::{DEPTH_MAX, Leaves};
use super::metadata::prove_chain;
use super::owner::Owner;
use super::repository::absent_is_empty;
use super::sidecar::index::PointEntry;
use super::sidecar::point::Point;
use super::sidecar::vm::Vm;
use super::sidecar::{SIDECAR_BYTES_MAX, parse};
use super::slot::{LAYER_SUFFIX, Slot};
use super::sums::Sums;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::Key;
use crate::types::sync::Mutex;
use crate::types::{Digest, LayerId, PointId, PointName, VmId, VmName};

impl Owner {
    /// Brings a forgotten point back; if its VM was removed, the VM, too.
    ///
    /// # Errors
    /// `NotFound` when the trash does not have the point, or a layer that it needs; `AlreadyExists` when another point or session has
    /// the name; `Corrupt` when what the trash has is not what was committed; `Locked` during a hold; `Stale` (the lock); `NoSpace`,
    /// `Io`.
    pub fn undelete(&self, vm: &VmName, name: &PointName) -> Result<PointEntry> {
        let _change = self.holds.enter()?;
        self.verify_lock()?;
        let entry = match self.vm(vm) {
            Err(e) if e.kind() == ErrorKind::NotFound => self.undelete_vm(vm, e)?,
            other => other?,
        };
        let mut entry = entry.lock();
        let vm = &entry.vm.name.clone();
        let sessions = self.repository().session_names(vm)?;
        if entry.index.point(name).is_some() || sessions.iter().any(|other| other.same_as(name)) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{vm} has a restore point or session {name}"),
            ));
        }
        let (place, point) = self.forgotten(entry.vm.vm_id, vm, name)?;
        for disk in &point.disks {
            self.bring_back(&entry, &disk.layer, disk.content_root)
                .map_err(|e| e.at_path(disk.layer.layer_file()))?;
        }
        let keys = VmKeys::new(vm)?;
        let store = self.repository().store();
        let state = self.trashed(entry.vm.vm_id, |rest| {
            rest == format!("{}.json", point.point_id)
        })?;
        if let Some(state) = state.first() {
            match self.with_room(|| store.rename(state, &keys.state(point.point_id)?)) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.with_room(|| store.rename(&place, &keys.point(name)?))?;
        tracing::info!(vm = %vm, point = %name, "a restore point came back from the trash");
        self.list_again(&mut entry)?;
        let found = entry.index.point(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("{vm}@{name} has gone again")))
    }

    /// Lists what is in `points/`, with serials for new points.
    fn list_again(&self, entry: &mut VmEntry) -> Result<()> {
        let mut index = self
            .repository()
            .reconcile(&entry.vm.name, entry.index.clone())?;
        for point in index.points.iter_mut().filter(|point| point.serial == 0) {
            point.serial = self.next_serial()?;
            index.serial_high = index.serial_high.max(point.serial);
        }
        entry.index = index;
        let vm = entry.vm.name.clone();
        if let Err(e) = Look::at(self.repository(), &vm, &mut entry.index, None) {
            tracing::warn!(vm = %vm, error = %e.report(), "the depth of chains is recorded when the repository is next opened");
        }
        self.write_index(entry)
    }

    /// What the trash has of a VM whose name, without time and VM, is wanted; the newest first.
    fn trashed(&self, vm: VmId, wanted: impl Fn(&str) -> bool) -> Result<Vec<Key>> {
        let prefix = layout::trash()?;
        let of_vm = format!("{vm}.");
        let entries = absent_is_empty(self.repository().store().list(&prefix))?;
        let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        let is_wanted = |name: &&String| {
            let rest = name.split_once('.').map(|(_, rest)| rest);
            rest.and_then(|rest| rest.strip_prefix(of_vm.as_str()))
                .is_some_and(&wanted)
        };
        let wanted = names.iter().rev().filter(is_wanted);
        wanted.map(|name| prefix.join(name)).collect()
    }

    /// The newest forgotten point with this name.
    fn forgotten(&self, vm_id: VmId, vm: &VmName, name: &PointName) -> Result<(Key, Point)> {
        let store = self.repository().store();
        for place in self.trashed(vm_id, |rest| rest.parse::<PointId>().is_ok())? {
            let bytes = match store.get(&place.join(POINT_FILE)?, SIDECAR_BYTES_MAX) {
                Ok(bytes) => bytes,
                // It is being deleted, or is no point.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let point = parse::<Point>(&bytes).at_path(place.as_str())?;
            if point.name.same_as(name) && point.vm_id == vm_id {
                return Ok((place, point));
            }
        }
        Err(
            Error::not_found(format!("the trash does not have {vm}@{name}"))
                .advise("forgotten points stay there for an hour; list them with: restorefs trash"),
        )
    }

    /// Brings the layers of a chain back that are not there, and proves its content.
    fn bring_back(&self, entry: &VmEntry, top: &Slot, root: Digest) -> Result<()> {
        let (repository, vm, vm_id) = (self.repository(), &entry.vm.name, entry.vm.vm_id);
        let mut next = Some(top.clone());
        for _ in 0..DEPTH_MAX {
            let Some(slot) = next.take() else { break };
            next = match LayerFile::open(repository, vm, &slot) {
                Ok(file) => file.below,
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    let wanted = (slot == *top).then_some(root);
                    self.bring_layer_back(vm, vm_id, &slot, wanted)?
                }
                Err(e) => return Err(e),
            };
        }
        prove_chain(repository, vm, vm_id, top)?;
        let leaves = Leaves::open(repository, vm, vm_id, top, root)?;
        let mut page = vec![0; PAGE_BYTES];
        for (region, _) in (0..).map(Region).zip(leaves.regions()) {
            leaves.load_page(region, &mut page)?;
        }
        Ok(())
    }

    /// Brings back the newest layer of a slot, that with this content where it is known; returns the slot below.
    fn bring_layer_back(
        &self,
        vm: &VmName,
        vm_id: VmId,
        slot: &Slot,
        wanted: Option<Digest>,
    ) -> Result<Option<Slot>> {
        let (repository, keys) = (self.repository(), VmKeys::new(vm)?);
        let store = repository.store();
        let id_of = |rest: &str| {
            let rest = rest.strip_suffix(LAYER_SUFFIX)?;
            let id = rest.strip_prefix(slot.as_str())?.strip_prefix('.')?;
            id.parse::<LayerId>().ok()
        };
        for place in self.trashed(vm_id, |rest| id_of(rest).is_some())? {
            let file = LayerFile::of(store.open(&place)?, slot)?;
            let is_sums = |rest: &str| rest == slot.sums_file(file.layer);
            let here = keys.sums(slot, file.layer)?;
            let in_trash = self.trashed(vm_id, is_sums)?.into_iter().next();
            let sums = match &in_trash {
                Some(sums) => store.open(sums)?,
                None => match store.open(&here) {
                    Err(e) if e.kind() == ErrorKind::NotFound => continue,
                    other => other?,
                },
            };
            let found = Sums::open(sums)?.summary().content_root();
            if wanted.is_some_and(|wanted| wanted != found) {
                continue;
            }
            if let Some(sums) = in_trash {
                self.with_room(|| store.rename(&sums, &here))?;
            }
            self.with_room(|| store.rename(&place, &keys.layer(slot)?))?;
            return Ok(file.below);
        }
        Err(Error::not_found(format!(
            "the trash does not have the layer {slot} any more, which the point needs"
        )))
    }

    /// Brings a VM back that was removed.
    fn undelete_vm(&self, vm: &VmName, absent: Error) -> Result<Arc<Mutex<VmEntry>>> {
        let store = self.repository().store();
        let prefix = layout::trash()?;
        let entries = absent_is_empty(store.list(&prefix))?;
        let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        names.sort();
        for name in names.iter().rev() {
            let id = name.split_once('.').map(|(_, rest)| rest);
            let Some(vm_id) = id.and_then(|id| id.parse::<VmId>().ok()) else {
                continue;
            };
            let place = prefix.join(name)?;
            let bytes = match store.get(&place.join("vm.json")?, SIDECAR_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let sidecar = parse::<Vm>(&bytes).at_path(place.as_str())?;
            if sidecar.vm_id != vm_id || sidecar.name.folded() != vm.folded() {
                continue;
            }
            let keys = VmKeys::new(&sidecar.name)?;
            self.with_room(|| store.rename(&place, keys.root()))?;
            tracing::info!(vm = %sidecar.name, "a VM came back from the trash");
            let index =
                self.repository()
                    .stored_index(&sidecar.name)
                    .or_else(|e| match e.kind() {
                        ErrorKind::NotFound | ErrorKind::Corrupt => {
                            Ok(super::Repository::empty_index(&sidecar))
                        }
                        _ => Err(e),
                    })?;
            let mut entry = VmEntry {
                vm: sidecar,
                index,
                gone: false,
            };
            self.list_again(&mut entry)?;
            let name = entry.vm.name.clone();
            let cell = Arc::new(VmCell::looked_at(entry));
            self.table().insert(name.folded(), cell);
            return self.vm(&name);
        }
        Err(absent)
    }
}
