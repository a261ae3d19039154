//! Results of verifying: kept for each layer and its regions, and in short for each point.
//!
//! # Invariants
//! - Results belong to a layer id. A layer that is replaced has none, and its old ones are removed with its sums.
//! - Where the index repeats a state wrongly, keeping a verdict on the point mends that.
//! - `state/<point_id>.json` is the truth of a point's damage and is written first; `index.json` repeats it. That a point is sound, and
//!   since when, stands in the index alone: the results of its layers give it again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layer_file::LayerFile;
use super::layout::VmKeys;
use super::owner::Owner;
use super::repository::Repository;
use super::sidecar::checks::Checks;
use super::sidecar::encode;
use super::sidecar::index::CheckResult;
use super::sidecar::state::Damage;
use super::slot::Slot;
use crate::error::{ErrorKind, Result};
use crate::store::PutMode;
use crate::types::{LayerId, PointId, VmName};

/// What is known of a point after a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The point.
    pub point_id: PointId,
    /// Of a point without damage, when the part was verified that waits for longest; `None` while a part was never verified.
    pub sound_since: Option<Timestamp>,
    /// Its damage.
    pub damage: Option<Damage>,
}

impl Verdict {
    /// What the index says of it.
    fn in_short(&self) -> (Option<CheckResult>, Option<Timestamp>) {
        match (&self.damage, self.sound_since) {
            (Some(damage), _) => (Some(CheckResult::Damaged), Some(damage.found_at)),
            (None, Some(since)) => (Some(CheckResult::Sound), Some(since)),
            (None, None) => (None, None),
        }
    }
}

/// Results that are to be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckNotes {
    /// Results of layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Checks>,
    /// Verdicts on points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Verdict>,
}

impl Repository {
    /// What is known of a layer; nothing when it was never verified, or when its results cannot be read: it is verified again then.
    ///
    /// # Errors
    /// `Io`.
    pub fn checks(&self, vm: &VmName, slot: &Slot, layer: LayerId) -> Result<Checks> {
        let none = || Checks::none(slot.clone(), layer);
        match self.load::<Checks>(&VmKeys::new(vm)?.checks(slot, layer)?) {
            Ok(checks) if checks.slot == *slot && checks.layer_id == layer => Ok(checks),
            Ok(_) => Ok(none()),
            Err(e) => match e.kind() {
                ErrorKind::NotFound => Ok(none()),
                ErrorKind::Corrupt | ErrorKind::Unsupported => {
                    tracing::warn!(vm = %vm, slot = %slot, error = %e.report(), "the results of verifying a layer cannot be read; it counts as never verified");
                    Ok(none())
                }
                _ => Err(e),
            },
        }
    }
}

impl Owner {
    /// Keeps results of verifying. Those of layers and points that are not there any more are left out.
    ///
    /// # Errors
    /// `NotFound` (the VM); `Stale` (the lock); `NoSpace`, `Io`. What was kept before stays.
    pub fn note_checks(&self, vm: &VmName, notes: &CheckNotes) -> Result<()> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let vm = &entry.vm.name.clone();
        self.verify_lock()?;
        let (keys, store) = (VmKeys::new(vm)?, self.repository().store());
        for new in &notes.layers {
            let layer = LayerFile::open(self.repository(), vm, &new.slot).map(|file| file.layer);
            // Where the header cannot be read, the results say so.
            if layer.is_ok_and(|layer| layer != new.layer_id) {
                continue;
            }
            let mut known = self.repository().checks(vm, &new.slot, new.layer_id)?;
            known.take(new);
            let (key, bytes) = (keys.checks(&new.slot, new.layer_id)?, encode(&known)?);
            self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        }
        let mut index_changed = false;
        for verdict in &notes.points {
            let points = &mut entry.index.points;
            let of_index = points.iter_mut().find(|p| p.point_id == verdict.point_id);
            let Some(point) = of_index else { continue };
            // A crash can have come between a state and the index that repeats it.
            let before = (point.tags.clone(), point.kept);
            self.repository().repeat_labels(vm, point)?;
            index_changed |= before != (point.tags.clone(), point.kept);
            let new = verdict.in_short();
            let is_damaged = |check| check == Some(CheckResult::Damaged);
            if is_damaged(new.0) || is_damaged(point.check) {
                match self.repository().state(vm, point) {
                    Ok(mut state) if state.damage != verdict.damage => {
                        state.damage.clone_from(&verdict.damage);
                        let (key, bytes) = (keys.state(point.point_id)?, encode(&state)?);
                        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
                    }
                    Ok(_) => {}
                    // A state that cannot be read is damage itself, and stays for whoever can mend it.
                    Err(e) if e.kind() == ErrorKind::Corrupt => {}
                    Err(e) => return Err(e),
                }
            }
            if (point.check, point.checked_at) != new {
                (point.check, point.checked_at) = new;
                index_changed = true;
            }
        }
        match index_changed {
            true => self.write_index(&mut entry),
            false => Ok(()),
        }
    }
}
