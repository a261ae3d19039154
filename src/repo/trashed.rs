//! What is in the trash: its entries by their names, and deleting all of them at once.
//!
//! # On-disk layout
//! [`trash`](super::trash) has the names of this release. Older releases wrote the VM's name instead of its id
//! (`<time>.<vm>.<file>`). Names of VMs have dots, too: where they leave a choice, the VM that exists is taken. The parts are a
//! hint for people; nothing is decided by them but when an entry goes.

use std::collections::HashMap;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;

use super::layout::{self, POINT_FILE};
use super::owner::Owner;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::point::Point;
use super::sidecar::vm::Vm;
use super::sidecar::{SIDECAR_BYTES_MAX, Sidecar, parse};
use super::slot::{LAYER_SUFFIX, OPEN_SUFFIX, SUMS_SUFFIX, Slot};
use super::trash::TRASH_SECONDS;
use crate::clock;
use crate::error::{ErrorKind, Result};
use crate::store::{Entry, Key};
use crate::types::{LayerId, PointId, PointName, VmId, VmName};

/// What an entry of the trash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrashedKind {
    /// A restore point that was forgotten.
    Point,
    /// A layer that nothing needs.
    Layer,
    /// The sums of a layer.
    Sums,
    /// The state of a point.
    State,
    /// A VM without points that was removed.
    Vm,
    /// Something else.
    Other,
}

/// An entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Trashed {
    /// Its name below `trash/`.
    pub name: String,
    /// What it is.
    pub kind: TrashedKind,
    /// The VM that it was of, where that is known.
    pub vm: Option<String>,
    /// What it was called there: a point, a layer's slot.
    pub what: String,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// When it came here.
    pub since: Option<Timestamp>,
    /// The owner deletes it at its first look after this time.
    pub goes_at: Option<Timestamp>,
}

/// The VMs of a repository, by name and id.
#[derive(Debug, Default)]
struct Known {
    names: Vec<VmName>,
    ids: HashMap<VmId, VmName>,
}

impl TrashedKind {
    /// The kind for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Point => "restore point",
            Self::Layer => "layer",
            Self::Sums => "sums",
            Self::State => "state",
            Self::Vm => "VM",
            Self::Other => "other",
        }
    }
}

fn id<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// The kind of a file of a VM by its name, and what it was called.
fn kind_of(file: &str) -> Option<(TrashedKind, String)> {
    if let Some(state) = file.strip_suffix(".json") {
        id::<PointId>(state)?;
        return Some((TrashedKind::State, state.to_owned()));
    }
    let made = file.strip_suffix(OPEN_SUFFIX).unwrap_or(file);
    if let Some(sums) = made.strip_suffix(SUMS_SUFFIX) {
        let (slot, layer) = sums.rsplit_once('.')?;
        id::<LayerId>(layer)?;
        return Some((TrashedKind::Sums, Slot::parse(slot).ok()?.to_string()));
    }
    let slot = made.strip_suffix(LAYER_SUFFIX).unwrap_or(made);
    let is_layer = slot.len() < file.len();
    match slot.rsplit_once('.') {
        // A layer that was replaced has its own id behind the slot; a point has its id behind its name.
        Some((slot, last)) if id::<LayerId>(last).is_some() => {
            let kind = match is_layer || is_slot(slot) {
                true => TrashedKind::Layer,
                false => TrashedKind::Point,
            };
            Some((kind, slot.to_owned()))
        }
        _ if id::<PointId>(slot).is_some() => Some((TrashedKind::Vm, String::new())),
        _ if is_layer => Some((TrashedKind::Layer, Slot::parse(slot).ok()?.to_string())),
        _ => None,
    }
}

/// Whether a name ends as a slot does: `-20261120T020000Z-7f3a9c`.
fn is_slot(name: &str) -> bool {
    let Some((rest, digits)) = name.rsplit_once('-') else {
        return false;
    };
    let time = rest.rsplit_once('-').map(|(_, time)| time);
    digits.len() == 6
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && time.is_some_and(|time| clock::parse_slot_time(time).is_some())
}

/// What the name of an entry tells.
fn parse_name(name: &str, known: &Known) -> Trashed {
    let mut found = Trashed {
        name: name.to_owned(),
        kind: TrashedKind::Other,
        vm: None,
        what: String::new(),
        size_bytes: 0,
        since: None,
        goes_at: None,
    };
    let (time, rest) = name.split_once('.').unwrap_or((name, ""));
    let Some(since) = clock::parse_slot_time(time) else {
        return found;
    };
    found.since = Some(since);
    let stay = jiff::SignedDuration::from_secs(TRASH_SECONDS);
    found.goes_at = since.checked_add(stay).ok();
    let first = rest.split_once('.').unwrap_or((rest, ""));
    if let (Some(vm), of_vm) = (id::<VmId>(first.0), first.1) {
        found.vm = known.ids.get(&vm).map(ToString::to_string);
        (found.kind, found.what) = match of_vm {
            "" => (TrashedKind::Vm, String::new()),
            point if id::<PointId>(point).is_some() => (TrashedKind::Point, point.to_owned()),
            file => kind_of(file).unwrap_or((TrashedKind::Other, file.to_owned())),
        };
        return found;
    }
    // The longest name of a VM that exists, else the shortest name that leaves a file's.
    let begins = |vm: &&VmName| {
        let after = rest.strip_prefix(vm.as_str());
        after.is_some_and(|after| after.starts_with('.'))
    };
    let longest = known.names.iter().filter(begins);
    let longest = longest.map(VmName::as_str).max_by_key(|name| name.len());
    let splits = rest.match_indices('.').map(|(at, _)| rest.split_at(at).0);
    for vm in longest.into_iter().chain(splits) {
        let file = rest.get(vm.len() + 1..).unwrap_or_default();
        if let (true, Some((kind, what))) = (VmName::new(vm).is_ok(), kind_of(file)) {
            (found.kind, found.what) = (kind, what);
            found.vm = Some(vm.to_owned());
            return found;
        }
    }
    found.what = rest.to_owned();
    // A point whose upload was cut short.
    if let Some(vm) = longest
        && let Some(file) = rest.get(vm.len() + 1..)
        && PointName::new(file).is_ok()
    {
        (found.kind, found.what) = (TrashedKind::Point, file.to_owned());
        found.vm = Some(vm.to_owned());
    }
    found
}

impl Repository {
    /// What is in the trash, the oldest first.
    ///
    /// # Errors
    /// `Io`.
    pub fn trash(&self) -> Result<Vec<Trashed>> {
        let prefix = layout::trash()?;
        let entries = absent_is_empty(self.store().list(&prefix))?;
        let mut known = Known {
            names: self.vm_names()?,
            ids: HashMap::new(),
        };
        if !entries.is_empty() {
            // A VM whose sidecar cannot be read is not named.
            let vms = known.names.iter().filter_map(|name| self.vm(name).ok());
            known.ids = vms.map(|vm| (vm.vm_id, vm.name)).collect();
        }
        let mut all = Vec::new();
        for entry in entries {
            let mut found = parse_name(&entry.name, &known);
            found.size_bytes = self.weigh(&prefix, &entry)?;
            self.name_directory(&prefix.join(&entry.name)?, &mut found)?;
            all.push(found);
        }
        Ok(all)
    }

    /// Bytes of all that is in the trash.
    ///
    /// # Errors
    /// `Io`.
    pub fn trash_bytes(&self) -> Result<u64> {
        let prefix = layout::trash()?;
        let mut bytes: u64 = 0;
        for entry in absent_is_empty(self.store().list(&prefix))? {
            bytes = bytes.saturating_add(self.weigh(&prefix, &entry)?);
        }
        Ok(bytes)
    }

    /// Names a point or a VM by its own sidecar, where that can be read.
    fn name_directory(&self, prefix: &Key, found: &mut Trashed) -> Result<()> {
        match found.kind {
            TrashedKind::Point => {
                if let Some(point) = self.sidecar_in::<Point>(&prefix.join(POINT_FILE)?) {
                    found.vm = Some(point.vm.to_string());
                    found.what = point.name.to_string();
                }
            }
            TrashedKind::Vm => {
                if let Some(vm) = self.sidecar_in::<Vm>(&prefix.join("vm.json")?) {
                    found.vm = Some(vm.name.to_string());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn sidecar_in<T: Sidecar>(&self, key: &Key) -> Option<T> {
        let bytes = self.store().get(key, SIDECAR_BYTES_MAX).ok()?;
        parse(&bytes).ok()
    }

    /// Bytes of an entry and of all below it. What goes meanwhile counts nothing.
    fn weigh(&self, prefix: &Key, entry: &Entry) -> Result<u64> {
        if !entry.is_prefix {
            return Ok(entry.size_bytes);
        }
        let prefix = prefix.join(&entry.name)?;
        let mut bytes: u64 = 0;
        for below in absent_is_empty(self.store().list(&prefix))? {
            bytes = bytes.saturating_add(self.weigh(&prefix, &below)?);
        }
        Ok(bytes)
    }
}

impl Owner {
    /// Deletes all that is in the trash, whatever its age. Returns the number of entries and their bytes.
    ///
    /// # Errors
    /// `Locked` during a hold; `Stale` (the lock); the error of the first entry that could not be deleted; the others are
    /// deleted all the same.
    pub fn clear_trash(&self) -> Result<(u64, u64)> {
        let _change = self.holds.enter()?;
        self.verify_lock()?;
        let prefix = layout::trash()?;
        let store = self.repository().store();
        let (mut count, mut bytes, mut failed) = (0, 0_u64, Ok(()));
        for entry in absent_is_empty(store.list(&prefix))? {
            let size_bytes = self.repository().weigh(&prefix, &entry)?;
            let key = prefix.join(&entry.name)?;
            match self.with_room(|| store.delete_all(&key)) {
                // The owner's own look deletes what is old.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => failed = failed.and(Err(e.at_path(key.as_str()))),
                Ok(()) => {
                    count += 1;
                    bytes = bytes.saturating_add(size_bytes);
                }
            }
        }
        self.restock();
        failed.map(|()| (count, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, Trashed, TrashedKind, parse_name};
    use crate::types::VmName;

    const TIME: &str = "20261120T020000Z";
    const ID: &str = "7f3a9c01-22d4-4b6e-9d0a-5a1f6e0c9b77";
    const SLOT: &str = "vda.x-20261120T020000Z-7f3a9c";

    fn parse(rest: &str) -> Trashed {
        let vm = VmName::new("web.01").unwrap();
        let id = "00000000-22d4-4b6e-9d0a-5a1f6e0c9b77".parse().unwrap();
        let known = Known {
            names: vec![VmName::new("web").unwrap(), vm.clone()],
            ids: [(id, vm)].into(),
        };
        parse_name(&format!("{TIME}.{rest}"), &known)
    }

    #[test]
    fn names_of_this_and_of_older_releases_tell_what_they_are() {
        let of_vm = "00000000-22d4-4b6e-9d0a-5a1f6e0c9b77";
        for (rest, kind, vm, what) in [
            (
                format!("web.01.{SLOT}.qcow2"),
                TrashedKind::Layer,
                Some("web.01"),
                SLOT,
            ),
            (
                format!("web.01.{SLOT}.{ID}.sums"),
                TrashedKind::Sums,
                Some("web.01"),
                SLOT,
            ),
            (
                format!("web.01.{SLOT}.{ID}.sums.open"),
                TrashedKind::Sums,
                Some("web.01"),
                SLOT,
            ),
            (
                format!("web.01.{ID}.json"),
                TrashedKind::State,
                Some("web.01"),
                ID,
            ),
            (
                format!("web.01.a.b.{ID}"),
                TrashedKind::Point,
                Some("web.01"),
                "a.b",
            ),
            (format!("web.01.{ID}"), TrashedKind::Vm, Some("web.01"), ""),
            (
                format!("web.02.p.{ID}"),
                TrashedKind::Point,
                Some("web"),
                "02.p",
            ),
            (
                format!("gone.p.{ID}"),
                TrashedKind::Point,
                Some("gone"),
                "p",
            ),
            (
                format!("gone.{SLOT}.qcow2"),
                TrashedKind::Layer,
                Some("gone"),
                SLOT,
            ),
            (
                format!("{of_vm}.{SLOT}.{ID}.qcow2"),
                TrashedKind::Layer,
                Some("web.01"),
                SLOT,
            ),
            (
                format!("{of_vm}.{SLOT}.{ID}"),
                TrashedKind::Layer,
                Some("web.01"),
                SLOT,
            ),
            (
                format!("{of_vm}.{SLOT}.{ID}.sums"),
                TrashedKind::Sums,
                Some("web.01"),
                SLOT,
            ),
            (
                format!("{of_vm}.{ID}"),
                TrashedKind::Point,
                Some("web.01"),
                ID,
            ),
            (
                format!("{of_vm}.{ID}.json"),
                TrashedKind::State,
                Some("web.01"),
                ID,
            ),
            (of_vm.to_owned(), TrashedKind::Vm, Some("web.01"), ""),
            (format!("{ID}.{ID}"), TrashedKind::Point, None, ID),
            ("nothing".to_owned(), TrashedKind::Other, None, "nothing"),
        ] {
            let found = parse(&rest);
            assert_eq!(
                (found.kind, found.vm.as_deref(), found.what.as_str()),
                (kind, vm, what),
                "{rest}"
            );
            let stay = found.goes_at.unwrap().duration_since(found.since.unwrap());
            assert_eq!(stay.as_secs(), 3_600);
        }
        for name in ["", ".", "x", "2026.x", "20261399T020000Z.web.x"] {
            let found = parse_name(name, &Known::default());
            assert_eq!(
                (found.kind, found.since),
                (TrashedKind::Other, None),
                "{name}"
            );
        }
    }
}
