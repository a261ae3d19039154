//! Garbage: files of layers that no complete walk of all chains of a VM names.
//!
//! # Invariants
//! - A file is judged by slot *and* layer id: after a merge the sums of the replaced layer have the slot of a layer
//!   that is needed, and are garbage.
//! - One look that fails (a layer that is missing or cannot be read, a header or sums that are damaged, a sidecar that
//!   cannot be read) keeps every layer of the VM: what lies below the harmed layer is not known.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::chains::Chains;
use super::layer_file::LayerFile;
use super::layout::VmKeys;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::index::Index;
use super::slot::{LAYER_SUFFIX, Slot};
use super::trash;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::store::Key;
use crate::types::{LayerId, VmName};

/// A file below `layers/` that is looked at.
pub(super) struct Candidate {
    file: String,
    slot: Slot,
    /// The layer to which sums belong.
    sums_of: Option<LayerId>,
    /// The layer that it builds to replace the one in its slot.
    build_of: Option<LayerId>,
}

impl Candidate {
    /// Whether it is a published layer.
    fn is_layer(&self) -> bool {
        self.file.strip_suffix(LAYER_SUFFIX) == Some(self.slot.as_str())
    }

    fn is_needed(&self, chains: &Chains) -> bool {
        match chains.get(&self.slot) {
            None => false,
            Some(_) if self.build_of.is_some() => false,
            Some(needed) => {
                self.sums_of.is_none() || needed.layer.is_none() || self.sums_of == needed.layer
            }
        }
    }
}

/// Whether a file belongs to a layer that somebody builds now, in this process or another one.
fn is_being_built(repository: &Repository, keys: &VmKeys, candidate: &Candidate) -> Result<bool> {
    let Some(layer) = candidate.build_of.or(candidate.sums_of) else {
        return Ok(false);
    };
    is_build_held(repository, keys, &candidate.slot, layer)
}

/// Whether somebody holds the lock of a build. A build that nobody holds was left by a process that has ended.
///
/// # Errors
/// `Io`.
pub(super) fn is_build_held(
    repository: &Repository,
    keys: &VmKeys,
    slot: &Slot,
    layer: LayerId,
) -> Result<bool> {
    match repository.stage().hold_file(&keys.build(slot, layer)?) {
        Ok(held) => Ok(held.is_none()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The slots of the layers that sessions are writing.
///
/// # Errors
/// `Corrupt` when a session cannot be read; `Io`.
pub(super) fn unsealed_slots(repository: &Repository, vm: &VmName) -> Result<HashSet<Slot>> {
    let mut slots = HashSet::new();
    for session in repository.sessions(vm)? {
        slots.extend(session.slots().cloned());
    }
    Ok(slots)
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
                build_of: Slot::layer_of_build(&entry.name),
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
    if sessions.iter().any(|session| session.arriving.is_some()) {
        // Of an arriving point the session names the layers that are sent, not all that it needs.
        return Ok(false);
    }
    for disk in sessions.iter().flat_map(|session| &session.disks) {
        named.insert(&disk.layer);
        named.extend(disk.parent.as_ref().map(|parent| &parent.layer));
    }
    let mut with_sums = HashSet::new();
    Ok(candidates.iter().all(|candidate| {
        let is_second = candidate.sums_of.is_some() && !with_sums.insert(&candidate.slot);
        named.contains(&candidate.slot) && !is_second && candidate.build_of.is_none()
    }))
}

/// What a look at the layers of a VM shows.
pub(super) enum Look {
    /// Points and sessions name every file, so nothing is garbage.
    AllNamed,
    /// All chains, and the files that were there before they were walked.
    Walked(Chains, Vec<Candidate>),
    /// Something on the way is missing or cannot be read: nothing is garbage.
    Failed,
}

impl Look {
    /// Looks at the layers of a VM; with `among`, at the files of these slots only. Records in the index which layers are
    /// hidden and how deep the chains are; returns also whether the index has changed.
    ///
    /// # Errors
    /// `Io` when `layers/` cannot be listed.
    pub(super) fn at(
        repository: &Repository,
        vm: &VmName,
        index: &mut Index,
        among: Option<&HashSet<Slot>>,
    ) -> Result<(Self, bool)> {
        let prefix = VmKeys::new(vm)?.layers()?;
        let candidates = candidates(repository, &prefix, among)?;
        let mut disks = index.points.iter().flat_map(|point| &point.disks);
        let is_known = index.hidden.is_empty() && disks.all(|disk| disk.depth.is_some());
        let walked = match is_known {
            true => all_are_named(repository, vm, index, &candidates),
            false => Ok(false),
        }
        .and_then(|all| match all {
            true => Ok(None),
            false => Chains::walk(repository, vm, index).map(Some),
        });
        match walked {
            Ok(Some(chains)) => {
                let is_changed = chains.note_in(index);
                Ok((Self::Walked(chains, candidates), is_changed))
            }
            Ok(None) => Ok((Self::AllNamed, false)),
            Err(e) => {
                tracing::error!(vm = %vm, error = %e.report(), "not everything that names layers could be read; nothing is cleaned up");
                Ok((Self::Failed, false))
            }
        }
    }
}

/// Moves the files of a look that no point and no session needs to the trash; `among` as in [`Look::at`].
///
/// # Errors
/// `Io`. Files that could not be judged or moved stay, which is not an error.
pub(super) fn collect(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    look: &Look,
    among: Option<&HashSet<Slot>>,
    now: Timestamp,
) -> Result<()> {
    let Look::Walked(chains, candidates) = look else {
        return Ok(());
    };
    let keys = VmKeys::new(vm)?;
    let prefix = keys.layers()?;
    let mut garbage = Vec::new();
    for candidate in candidates {
        if !candidate.is_needed(chains) && !is_being_built(repository, &keys, candidate)? {
            garbage.push(candidate);
        }
    }
    if !garbage.is_empty() {
        let without = repository.points_without_sidecar(vm, index)?;
        if !without.is_empty() {
            tracing::error!(vm = %vm, points = ?without, "directories below points/ have no point.json: nobody knows which layers they need, and nothing is cleaned up");
            return Ok(());
        }
    }
    let layers = Headers::of(repository, vm, &garbage);
    garbage.sort_by_cached_key(|candidate| Reverse(layers.depth(&candidate.slot)));
    for candidate in garbage {
        let file = &candidate.file;
        if among.is_some() {
            tracing::info!(vm = %vm, file, "a layer that was freed goes to the trash");
        } else {
            tracing::warn!(vm = %vm, file, "a layer that nothing names goes to the trash");
        }
        let moved = trash::aside(now, index.vm_id, &layers.name(candidate)).and_then(|to| {
            repository
                .store()
                .rename(&prefix.join(file)?, &to)
                .at_path(file)
        });
        let moved = match moved {
            // It is gone already: the caller tries again, or a build has ended.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        match moved {
            // A full filesystem is the caller's to mend: it frees the reserve and tries again.
            Err(e) if e.kind() == ErrorKind::NoSpace => return Err(e),
            Err(e) => {
                tracing::error!(vm = %vm, error = %e.report(), "a file that nothing names could not be moved to the trash; it stays");
            }
            Ok(()) => match drop_checks(repository, &keys, candidate) {
                Err(e) if e.kind() == ErrorKind::NoSpace => return Err(e),
                Err(e) => {
                    tracing::error!(vm = %vm, error = %e.report(), "results of verifying a layer that is gone could not be removed; they stay");
                }
                Ok(()) => {}
            },
        }
    }
    Ok(())
}

/// Removes the results of verifying a layer whose sums are gone.
fn drop_checks(repository: &Repository, keys: &VmKeys, candidate: &Candidate) -> Result<()> {
    let Some(layer) = candidate.sums_of else {
        return Ok(());
    };
    match repository
        .store()
        .delete(&keys.checks(&candidate.slot, layer)?)
    {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What the headers of garbage say, where they can be read: by slot, the layer's id and the slot below.
struct Headers(HashMap<Slot, (LayerId, Option<Slot>)>);

impl Headers {
    fn of(repository: &Repository, vm: &VmName, garbage: &[&Candidate]) -> Self {
        let layers = garbage.iter().filter(|candidate| candidate.is_layer());
        let headers = layers.filter_map(|candidate| {
            let file = LayerFile::open(repository, vm, &candidate.slot).ok()?;
            Some((candidate.slot.clone(), (file.layer, file.below)))
        });
        Self(headers.collect())
    }

    /// How many layers of garbage lie below a slot. Those with the most go first, so that a layer that is left after a
    /// crash still has its chain.
    fn depth(&self, slot: &Slot) -> usize {
        let below = |slot: &Slot| self.0.get(slot).and_then(|(_, below)| below.clone());
        // A loop has no end.
        std::iter::successors(below(slot), below)
            .take(self.0.len())
            .count()
    }

    /// The name of a file in the trash, without time and VM. A layer is called by its id there, too.
    fn name(&self, candidate: &Candidate) -> String {
        match self.0.get(&candidate.slot) {
            Some((layer, _)) if candidate.is_layer() => trash::layer_name(&candidate.slot, *layer),
            _ => candidate.file.clone(),
        }
    }
}
