//! Labels of points: tags, and whether somebody keeps a point by hand. They change after the commit.
//!
//! # Invariants
//! - `state/<point_id>.json` is the truth and is written first; `index.json` repeats it for those who read no states.
//! - A change is answered when both are durable. A change that is repeated after a crash or an error brings the index up to date.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::entry::VmEntry;
use super::layout::VmKeys;
use super::owner::Owner;
use super::repository::Repository;
use super::selector::Which;
use super::sidecar::copied::PointCopy;
use super::sidecar::index::{CheckResult, PointEntry};
use super::sidecar::retained::Retained;
use super::sidecar::state::State;
use super::sidecar::{Sidecar, Unknown, encode};
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::{PointId, VmName};

/// LIMIT: bytes of a tag's key.
const KEY_BYTES_MAX: usize = 128;
/// LIMIT: bytes of a tag's value.
const VALUE_BYTES_MAX: usize = 1_024;
/// LIMIT: tags of a point; `index.json` has them all.
const TAGS_MAX: usize = 64;

/// A change of a point's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelChange {
    /// Tags that are added, or get another value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Keys of tags that are removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
    /// Whether the point is kept by hand from now on; `None` changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<bool>,
}

impl LabelChange {
    fn check(&self) -> Result<()> {
        for (key, value) in &self.set {
            let shown = key.escape_debug();
            let is_plain = |text: &str| !text.chars().any(char::is_control);
            if key.is_empty() || key.contains('=') || !is_plain(key) {
                return Err(
                    Error::invalid(format!("\"{shown}\" is not the key of a tag"))
                        .advise("write KEY=VALUE; a key has no = and no control characters"),
                );
            }
            if !is_plain(value) {
                return Err(Error::invalid(format!(
                    "the value of the tag {shown} has control characters"
                )));
            }
            if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "the tag {shown} is too long: a key has at most {KEY_BYTES_MAX} bytes, a value {VALUE_BYTES_MAX}"
                )));
            }
            if self.remove.contains(key) {
                return Err(Error::invalid(format!(
                    "the tag {shown} cannot be both set and removed"
                )));
            }
        }
        Ok(())
    }

    /// Applies the change to a point's state.
    fn apply(&self, vm: &VmName, point: &PointEntry, state: &mut State) -> Result<()> {
        for key in &self.remove {
            if state.tags.remove(key).is_none() {
                return Err(Error::not_found(format!(
                    "{vm}@{} has no tag {}",
                    point.name,
                    key.escape_debug()
                )));
            }
        }
        state.tags.extend(self.set.clone());
        if state.tags.len() > TAGS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a restore point has at most {TAGS_MAX} tags"),
            ));
        }
        state.kept = self.kept.unwrap_or(state.kept);
        Ok(())
    }
}

impl Repository {
    /// Repeats the labels of a point's state in its index entry; returns the state. One that cannot be read may keep the point: the
    /// point counts as kept by hand.
    pub(super) fn repeat_labels(
        &self,
        vm: &VmName,
        entry: &mut PointEntry,
    ) -> Result<Option<State>> {
        match self.state(vm, entry) {
            Ok(state) => {
                entry.tags.clone_from(&state.tags);
                entry.kept = state.kept;
                entry.copies.clone_from(&state.copies);
                match &state.damage {
                    Some(damage) => {
                        entry.check = Some(CheckResult::Damaged);
                        entry.checked_at = Some(damage.found_at);
                    }
                    None if entry.check == Some(CheckResult::Damaged) => {
                        (entry.check, entry.checked_at) = (None, None);
                    }
                    None => {}
                }
                Ok(Some(state))
            }
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                tracing::error!(vm = %vm, point = %entry.name, error = %e.report(),
                    "the point's state cannot be read: the point counts as kept by hand, so that retention does not forget it");
                entry.kept = true;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl Owner {
    /// Changes the labels of a point; returns the point as it is then. All of the change is made, or none of it.
    ///
    /// # Errors
    /// `NotFound` (the VM, the point, a tag that is to be removed); `InvalidInput` (a key or value);
    /// `LimitExceeded`; `Stale` (the lock); `Corrupt` when the present state cannot be read; `NoSpace`, `Io`.
    pub fn label_point(
        &self,
        vm: &VmName,
        which: &Which,
        change: &LabelChange,
    ) -> Result<PointEntry> {
        change.check()?;
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let vm = &entry.vm.name.clone();
        let mut point = which.find(&entry.index)?.clone();
        let mut state = self.repository().state(vm, &point)?;
        let before = state.clone();
        change.apply(vm, &point, &mut state)?;
        self.verify_lock()?;
        let store = self.repository().store();
        if state != before {
            let (key, bytes) = (VmKeys::new(vm)?.state(point.point_id)?, encode(&state)?);
            self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        }
        if (&point.tags, point.kept) != (&state.tags, state.kept) {
            (point.tags, point.kept) = (state.tags, state.kept);
            let of_index = entry.index.points.iter_mut();
            for known in of_index.filter(|known| known.point_id == point.point_id) {
                *known = point.clone();
            }
            self.write_index(&mut entry)?;
        }
        Ok(point)
    }

    /// Records copies of points at another repository, in place of what is known of their copies there. Points that the VM does
    /// not have are passed over.
    ///
    /// # Errors
    /// `NotFound` (the VM); `Stale` (the lock); `Corrupt` when a present state cannot be read; `NoSpace`, `Io`.
    pub fn note_copies(&self, vm: &VmName, copies: &[(PointId, PointCopy)]) -> Result<()> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let vm = &entry.vm.name.clone();
        self.verify_lock()?;
        let store = self.repository().store();
        let mut is_changed = false;
        for (point_id, copy) in copies {
            let of_index = entry.index.points.iter();
            let Some(point) = of_index.clone().find(|point| point.point_id == *point_id) else {
                continue;
            };
            let mut state = self.repository().state(vm, point)?;
            let before = state.copies.clone();
            state.note_copy(copy);
            if state.copies != before {
                let (key, bytes) = (VmKeys::new(vm)?.state(*point_id)?, encode(&state)?);
                self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
            }
            let of_index = entry.index.points.iter_mut();
            for point in of_index.filter(|point| point.point_id == *point_id) {
                is_changed |= point.copies != state.copies;
                point.copies.clone_from(&state.copies);
            }
        }
        match is_changed {
            true => self.write_index(&mut entry),
            false => Ok(()),
        }
    }

    /// Repeats the labels of all states of a VM in its index.
    pub(super) fn repeat_labels(&self, entry: &mut VmEntry) -> Result<()> {
        let before = entry.index.points.clone();
        for point in &mut entry.index.points {
            self.repository().repeat_labels(&entry.vm.name, point)?;
        }
        match before == entry.index.points {
            true => Ok(()),
            false => self.write_index(entry),
        }
    }

    /// Records that retention has kept all points that a VM has now.
    ///
    /// # Errors
    /// `NotFound`; `Stale` (the lock); `NoSpace`, `Io`.
    pub fn note_retained(&self, vm: &VmName) -> Result<()> {
        let entry = self.vm(vm)?;
        let entry = entry.lock();
        self.verify_lock()?;
        let points = entry.index.points.iter();
        let retained = Retained {
            schema: Retained::SCHEMA,
            ran_at: self.clock().now(),
            kept: points.map(|point| point.point_id).collect(),
            unknown: Unknown::new(),
        };
        let key = VmKeys::new(&entry.vm.name)?.retained()?;
        let bytes = encode(&retained)?;
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))
    }
}
