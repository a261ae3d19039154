//! Results of verifying: kept for each layer and its regions, and in short for each point.
//!
//! # Invariants
//! - Results belong to a layer id. A layer that is replaced has none, and its old ones are removed with its sums.
//! - Where the index repeats a state wrongly, keeping a verdict on the point mends that.
//! - `state/<point_id>.json` is the truth of a point's damage and is written first; `index.json` repeats it. That a point is sound, and
//!   since when, stands in the index alone: the results of its layers give it again.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::VmKeys;
use super::owner::Owner;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::checks::Checks;
use super::sidecar::encode;
use super::sidecar::index::{CheckResult, PointEntry};
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
    /// The layers on which these verdicts stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<(Slot, LayerId)>,
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
    /// Keeps results of verifying. Those of layers and points that are not there any more are left out; so are verdicts without damage
    /// when one of the layers on which they stand was replaced meanwhile, as nobody has verified its successor.
    ///
    /// # Errors
    /// `NotFound` (the VM); `Stale` (the lock); `NoSpace`, `Io`. What was kept before stays.
    pub fn note_checks(&self, vm: &VmName, notes: &CheckNotes) -> Result<()> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let vm = &entry.vm.name.clone();
        self.verify_lock()?;
        let (keys, store) = (VmKeys::new(vm)?, self.repository().store());
        let files = absent_is_empty(store.list(&keys.layers()?))?;
        let files: HashSet<String> = files.into_iter().map(|file| file.name).collect();
        let is_there = |slot: &Slot, layer| files.contains(&slot.sums_file(layer));
        for new in &notes.layers {
            if !is_there(&new.slot, new.layer_id) {
                continue;
            }
            let mut known = self.repository().checks(vm, &new.slot, new.layer_id)?;
            known.take(new);
            let (key, bytes) = (keys.checks(&new.slot, new.layer_id)?, encode(&known)?);
            self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        }
        let mut judged = notes.judged.iter();
        let is_as_judged = judged.all(|(slot, layer)| is_there(slot, *layer));
        if !is_as_judged {
            tracing::info!(vm = %vm, "layers were replaced since they were verified: points do not count as sound until the new ones are, too");
        }
        let mut index_changed = false;
        for verdict in &notes.points {
            if !is_as_judged && verdict.damage.is_none() {
                continue;
            }
            let mut points = entry.index.points.iter_mut();
            if let Some(point) = points.find(|point| point.point_id == verdict.point_id) {
                index_changed |= self.note_verdict(vm, point, verdict)?;
            }
        }
        match index_changed {
            true => self.write_index(&mut entry),
            false => Ok(()),
        }
    }

    /// Keeps a verdict in the point's state, and in its entry of the index; returns whether the entry has changed.
    fn note_verdict(&self, vm: &VmName, point: &mut PointEntry, verdict: &Verdict) -> Result<bool> {
        let before = point.clone();
        let (check, mut checked_at) = verdict.in_short();
        // A crash can have come between a state and the index that repeats it. A state that cannot be read is damage itself, and stays
        // for whoever can mend it.
        if let Some(mut state) = self.repository().repeat_labels(vm, point)? {
            let found = match (&state.damage, &verdict.damage) {
                // It was found before.
                (Some(old), Some(new)) if old.is_same(new) => Some(old.clone()),
                (_, new) => new.clone(),
            };
            if let Some(damage) = &found {
                checked_at = Some(damage.found_at);
            }
            if state.damage != found {
                state.damage = found;
                let key = VmKeys::new(vm)?.state(point.point_id)?;
                let (store, bytes) = (self.repository().store(), encode(&state)?);
                self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
            }
        }
        (point.check, point.checked_at) = (check, checked_at);
        Ok(*point != before)
    }
}
