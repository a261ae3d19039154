//! Garbage: files of layers that no complete walk of all chains of a VM names.
//!
//! # Invariants
//! - A file is judged by slot *and* layer id: after a merge the sums of the replaced layer have the slot of a layer
//!   that is needed, and are garbage.
//! - One look that fails (a layer that is missing or cannot be read, a header or sums that are damaged, a sidecar that
//!   cannot be read) keeps every layer of the VM: what lies below the harmed layer is not known.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::layer_file::LayerFile;
use super::layout::VmKeys;
use super::leaves::DEPTH_MAX;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::index::Index;
use super::slot::{LAYER_SUFFIX, Slot};
use super::trash;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::Key;
use crate::types::{LayerId, VmName};

/// The layers that a VM needs: by slot, the id of the layer in it; `None` for a layer that a session is writing.
type Needed = HashMap<Slot, Option<LayerId>>;

/// A file below `layers/` that is looked at.
struct Candidate {
    file: String,
    slot: Slot,
    /// The layer to which sums belong.
    sums_of: Option<LayerId>,
}

/// The slots of the layers that sessions are writing.
///
/// # Errors
/// `Corrupt` when a session cannot be read; `Io`.
pub(super) fn unsealed_slots(repository: &Repository, vm: &VmName) -> Result<HashSet<Slot>> {
    let mut slots = HashSet::new();
    for session in repository.sessions(vm)? {
        slots.extend(session.disks.into_iter().map(|disk| disk.layer));
    }
    Ok(slots)
}

/// Adds a layer and the layers of its backing chain.
fn walk(repository: &Repository, vm: &VmName, top: Slot, needed: &mut Needed) -> Result<()> {
    let mut next = Some(top);
    let mut depth = 0;
    while let Some(slot) = next {
        if needed.contains_key(&slot) {
            return Ok(());
        }
        depth += 1;
        if depth > DEPTH_MAX {
            let deep = format!("the backing chain has more than {DEPTH_MAX} layers");
            return Err(Error::new(ErrorKind::LimitExceeded, deep));
        }
        let layer = LayerFile::open(repository, vm, &slot)?;
        layer.prove_header(repository, vm, &slot)?;
        needed.insert(slot, Some(layer.layer));
        next = layer.below;
    }
    Ok(())
}

/// Every layer that a point, a session or a backing chain names.
fn needed_layers(repository: &Repository, vm: &VmName, index: &Index) -> Result<Needed> {
    let mut needed = Needed::new();
    for session in repository.sessions(vm)? {
        for disk in session.disks {
            // An unsealed layer has no header yet: the session names its parent.
            if repository.find_layer(vm, &disk.layer).is_ok() {
                walk(repository, vm, disk.layer, &mut needed)?;
            } else {
                needed.insert(disk.layer, None);
            }
            if let Some(parent) = disk.parent {
                walk(repository, vm, parent.layer, &mut needed)?;
            }
        }
    }
    for entry in &index.points {
        let point = repository.point(vm, entry)?;
        for disk in point.disks {
            walk(repository, vm, disk.layer, &mut needed)?;
        }
    }
    Ok(needed)
}

/// The slots of points, and of the layers below them. Layers that cannot be read end their chain.
pub(super) fn slots_below<'a>(
    repository: &Repository,
    vm: &VmName,
    tops: impl IntoIterator<Item = &'a Slot>,
) -> HashSet<Slot> {
    let mut slots = HashSet::new();
    for top in tops {
        let mut next = Some(top.clone());
        while let Some(slot) = next {
            if !slots.insert(slot.clone()) {
                break;
            }
            next = LayerFile::open(repository, vm, &slot)
                .ok()
                .and_then(|layer| layer.below);
        }
    }
    slots
}

fn candidates(
    repository: &Repository,
    prefix: &Key,
    among: Option<&HashSet<Slot>>,
) -> Result<Vec<Candidate>> {
    let entries = absent_is_empty(repository.store().list(prefix))?;
    Ok(entries
        .into_iter()
        .filter(|entry| !entry.is_prefix)
        .filter_map(|entry| {
            Some(Candidate {
                slot: Slot::of_any_file(&entry.name)?,
                sums_of: Slot::layer_of_sums(&entry.name),
                file: entry.name,
            })
        })
        .filter(|candidate| among.is_none_or(|among| among.contains(&candidate.slot)))
        .collect())
}

/// Whether the points and sessions alone account for all files: each slot is named, and has one sums file. Then no
/// chain needs to be walked.
fn all_are_named(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    candidates: &[Candidate],
) -> Result<bool> {
    let mut named: HashSet<&Slot> = index
        .points
        .iter()
        .flat_map(|point| &point.disks)
        .map(|disk| &disk.layer)
        .collect();
    let sessions = repository.sessions(vm)?;
    for disk in sessions.iter().flat_map(|session| &session.disks) {
        named.insert(&disk.layer);
        named.extend(disk.parent.as_ref().map(|parent| &parent.layer));
    }
    let mut with_sums = HashSet::new();
    Ok(candidates.iter().all(|candidate| {
        let is_second = candidate.sums_of.is_some() && !with_sums.insert(&candidate.slot);
        named.contains(&candidate.slot) && !is_second
    }))
}

/// Moves files of layers that no point and no session needs to the trash; with `among`, only files of these slots.
///
/// # Errors
/// `Io`. Files that could not be judged or moved stay, which is not an error.
pub(super) fn collect(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    among: Option<&HashSet<Slot>>,
    now: Timestamp,
) -> Result<()> {
    let prefix = VmKeys::new(vm)?.layers()?;
    let candidates = candidates(repository, &prefix, among)?;
    let judged = all_are_named(repository, vm, index, &candidates).and_then(|all| {
        if all {
            return Ok(None);
        }
        needed_layers(repository, vm, index).map(Some)
    });
    let needed = match judged {
        Ok(Some(needed)) => needed,
        Ok(None) => return Ok(()),
        Err(e) => {
            tracing::error!(vm = %vm, error = %e.report(), "not everything that names layers could be read; nothing is cleaned up");
            return Ok(());
        }
    };
    for candidate in candidates {
        let is_needed = match needed.get(&candidate.slot) {
            None => false,
            Some(layer) => {
                candidate.sums_of.is_none() || layer.is_none() || candidate.sums_of == *layer
            }
        };
        if is_needed {
            continue;
        }
        let file = &candidate.file;
        if among.is_some() {
            tracing::info!(vm = %vm, file, "a layer that was freed goes to the trash");
        } else {
            tracing::warn!(vm = %vm, file, "a layer that nothing names goes to the trash");
        }
        let moved = aside(repository, vm, index, &candidate, now).and_then(|to| {
            repository
                .store()
                .rename(&prefix.join(file)?, &to)
                .at_path(file)
        });
        match moved {
            // A full filesystem is the caller's to mend: it frees the reserve and tries again.
            Err(e) if e.kind() == ErrorKind::NoSpace => return Err(e),
            Err(e) => {
                tracing::error!(vm = %vm, error = %e.report(), "a file that nothing names could not be moved to the trash; it stays");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The place of a file in the trash. A layer is called by its id there, where its header can be read.
fn aside(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    candidate: &Candidate,
    now: Timestamp,
) -> Result<Key> {
    let slot = &candidate.slot;
    let is_layer = candidate.file.strip_suffix(LAYER_SUFFIX) == Some(slot.as_str());
    let layer = is_layer
        .then(|| LayerFile::open(repository, vm, slot).ok())
        .flatten();
    let name = match layer {
        Some(layer) => trash::layer_name(slot, layer.layer),
        None => candidate.file.clone(),
    };
    trash::aside(now, index.vm_id, &name)
}
