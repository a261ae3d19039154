//! Files that are put back whole from a copy.

use std::sync::Arc;

use super::donor::Place;
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::merge::check_room;
use crate::jobs::verify::LayerFaults;
use crate::repo::layer_file::LayerFile;
use crate::repo::layout::VmKeys;
use crate::repo::put_back::{PutBack, attached_place};
use crate::repo::sidecar::index::PointEntry;
use crate::repo::sidecar::point::Attached;
use crate::repo::sums::Sums;
use crate::repo::{Repository, Slot};
use crate::store::{HeldFile, Key, PutMode, Stage, copy_object};
use crate::task::{Monitor, Pace};
use crate::types::{Digest, VmName};

/// LIMIT: bytes of a `point.json`.
const SIDECAR_BYTES_MAX: u64 = 16 << 20;

/// A layer from another place, proved and durable in the workspace.
pub(super) struct Fetched {
    pub(super) what: PutBack,
    keys: VmKeys,
    slot: Slot,
    /// As long as this is held, nobody takes the file for garbage.
    held: Option<Box<dyn HeldFile>>,
}

impl Fetched {
    /// Copies the layer in a slot, with its sums, and proves every byte of it.
    ///
    /// # Errors
    /// `NotFound` when the place has no such layer; `Corrupt` when it is damaged there, too; `NoSpace`, `Io`; `Cancelled`. Nothing is
    /// left then.
    pub(super) fn layer(
        repository: &Repository,
        vm: &VmName,
        slot: &Slot,
        place: &Place,
        (pace, low_water_bytes): (&Pace, u64),
        monitor: &Monitor,
    ) -> Result<Self> {
        let theirs = LayerFile::open(&place.repository, &place.vm, slot)?;
        let their_keys = VmKeys::new(&place.vm)?;
        let their_sums = place
            .repository
            .store()
            .open(&their_keys.sums(slot, theirs.layer)?)?;
        let (stage, keys) = (repository.stage(), VmKeys::new(vm)?);
        let layer = theirs.layer;
        let bytes = theirs
            .file
            .size_bytes()
            .saturating_add(their_sums.size_bytes());
        check_room(repository, bytes, low_water_bytes)?;
        let mut fetched = Self {
            what: PutBack::Layer {
                vm: vm.clone(),
                slot: slot.clone(),
                layer,
            },
            keys,
            slot: slot.clone(),
            held: None,
        };
        stage.make_prefix(&fetched.keys.layers()?)?;
        let copy = || -> Result<()> {
            let (build, sums) = (
                fetched.keys.build(slot, layer)?,
                fetched.keys.open_sums(slot, layer)?,
            );
            for (from, to) in [(theirs.file, build.clone()), (their_sums, sums.clone())] {
                let file = create_anew(stage.as_ref(), &to)?;
                if fetched.held.is_none() {
                    fetched.held = stage.hold_file(&to)?;
                }
                copy_object(from.as_ref(), file.as_ref(), &mut |bytes| {
                    monitor.check()?;
                    pace.wait_for(bytes, monitor)
                })?;
                file.flush()?;
            }
            let sums: Arc<dyn ReadAt> = stage.open(&sums)?;
            let sums = Sums::open(sums)?;
            let file = LayerFile::of(stage.open(&build)?, slot)?;
            file.prove_header_with(vm, slot, &sums)?;
            let faults = LayerFaults::of(vm, slot, &file, &sums, pace, monitor)?;
            match faults.is_sound() {
                true => Ok(()),
                false => Err(Error::corrupt(
                    format!("the layer {slot} is damaged in {}, too", place.label),
                    "what was committed",
                    faults.structure.join("; "),
                )),
            }
        };
        match copy() {
            Ok(()) => Ok(fetched),
            Err(e) => {
                fetched.discard(repository);
                Err(e)
            }
        }
    }

    /// Removes what was copied.
    pub(super) fn discard(&self, repository: &Repository) {
        let PutBack::Layer { layer, .. } = self.what else {
            return;
        };
        let keys = [
            self.keys.build(&self.slot, layer),
            self.keys.open_sums(&self.slot, layer),
        ];
        for key in keys.into_iter().flatten() {
            match repository.stage().delete(&key) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    tracing::warn!(error = %e.report(), "a copied layer is left over until the repository is next opened");
                }
                _ => {}
            }
        }
    }
}

/// Creates a file, in place of one that a killed repair has left.
fn create_anew(stage: &dyn Stage, key: &Key) -> Result<Arc<dyn WriteAt>> {
    match stage.create(key) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let held = stage.hold_file(key)?;
            if held.is_none() {
                let what = "another process is putting the same layer back";
                return Err(Error::new(ErrorKind::Busy, what).at_path(key.as_str()));
            }
            stage.delete(key)?;
            stage.create(key)
        }
        other => other,
    }
}

/// The committed sidecar of a point, from a place that has it.
pub(super) fn sidecar(vm: &VmName, entry: &PointEntry, places: &[Place]) -> Result<PutBack> {
    for place in places {
        let Ok(index) = place.repository.index(&place.vm) else {
            continue;
        };
        let mut points = index.points.iter();
        let Some(theirs) = points.find(|point| point.point_id == entry.point_id) else {
            continue;
        };
        let key = VmKeys::new(&place.vm)?.point_file(&theirs.name)?;
        let store: &Arc<_> = place.repository.store();
        let Ok(bytes) = store.get(&key, SIDECAR_BYTES_MAX) else {
            continue;
        };
        if Digest::of(&bytes) == entry.point_blake3
            && let Ok(text) = String::from_utf8(bytes)
        {
            return Ok(PutBack::Sidecar {
                vm: vm.clone(),
                point: entry.name.clone(),
                text,
            });
        }
    }
    Err(Error::not_found(format!(
        "no copy has the sidecar of {vm}@{} as it was committed",
        entry.name
    )))
    .at_path(VmKeys::new(vm)?.point_file(&entry.name)?.as_str())
}

/// The committed bytes of an attached file, from a place that has them; durable in the workspace.
pub(super) fn attached(
    repository: &Repository,
    vm: &VmName,
    entry: &PointEntry,
    stated: &Attached,
    places: &[Place],
) -> Result<PutBack> {
    for place in places {
        let Ok(index) = place.repository.index(&place.vm) else {
            continue;
        };
        let mut points = index.points.iter();
        let theirs = points.find(|point| point.point_id == entry.point_id);
        let bytes = theirs.map(|theirs| place.repository.attached(&place.vm, &theirs.name, stated));
        if let Some(Ok(bytes)) = bytes {
            let key = attached_place(&stated.blake3)?;
            if let Some(prefix) = key.parent() {
                repository.stage().make_prefix(&prefix)?;
            }
            repository.stage().put(&key, &bytes, PutMode::Replace)?;
            return Ok(PutBack::Attached {
                vm: vm.clone(),
                point: entry.name.clone(),
                name: stated.name.clone(),
            });
        }
    }
    Err(Error::not_found(format!(
        "no copy has the attached file {} of {vm}@{} as it was committed",
        stated.name, entry.name
    )))
}
