//! Recovery: the next owner of the lock puts in order what a crash left.
//!
//! # Invariants
//! - Resumable sessions stay; ingest checks their sealed layers when they are resumed.
//! - A layer goes to the trash only when every point and session of the VM could be read, and none of them or
//!   of their backing chains names it. After one failed listing or sidecar, nothing is removed.
//! - In a separate workspace, a published session is over, whatever files are left of it. In the store, a
//!   point without its sidecar never existed.

use std::collections::HashSet;

use jiff::Timestamp;

use super::cleanup::{
    clean_workspace, is_published, remove_published, remove_session, remove_session_files,
};
use super::entry::VmEntry;
use super::job::{self, Ending, Job};
use super::layout::{self, VmKeys};
use super::repository::{Repository, absent_is_empty, each_on_threads};
use super::sidecar::index::Index;
use super::slot::Slot;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::Image;
use crate::types::sync::Mutex;
use crate::types::{PointId, PointName, VmName};

/// LIMIT: shortest time in the trash, in seconds.
const TRASH_SECONDS: i64 = 3600;

/// Puts one VM in order and loads it. `history` is held while a line is appended to the job history. `None`
/// when the directory is not a VM (its creation was cut short).
///
/// # Errors
/// `Corrupt`, `Io`.
pub(super) fn recover_vm(
    repository: &Repository,
    name: &VmName,
    history: &Mutex<()>,
    now: Timestamp,
) -> Result<Option<VmEntry>> {
    let vm = match repository.vm(name) {
        Ok(vm) => vm,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            tracing::warn!(vm = %name, "a directory below vms/ has no vm.json and is ignored");
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    if vm.name != *name {
        return Err(Error::corrupt(
            "a VM sidecar lies in another VM's directory",
            name,
            &vm.name,
        ));
    }
    let mut complete = true;
    let stored = match repository.stored_index(name) {
        Ok(index) => index,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            tracing::warn!(vm = %name, error = %e.report(), "index.json is rebuilt from the points");
            Repository::empty_index(&vm)
        }
        Err(e) => return Err(e),
    };
    let before = stored.points.len();
    let mut index = repository.reconcile(name, stored)?;
    if index.points.len() != before || index.points.iter().any(|p| p.serial == 0) {
        tracing::warn!(vm = %name, points = index.points.len(), "index.json did not agree with points/, which wins");
        index.generation = 0;
    }
    set_aside_halves(repository, name, &index, now)?;
    // Only the last commit can have ended before its session's files were removed.
    for point in index.points.iter().rev().take(1) {
        remove_session_files(repository, name, &point.name)?;
    }
    for session in repository.session_names(name)? {
        if is_published(repository, name, &session)? {
            tracing::warn!(vm = %name, session = %session, "removing what is left of a session that became a point");
            remove_published(repository, name, &session, &[])?;
            continue;
        }
        match repository.session(name, &session) {
            Ok(sidecar) if sidecar.resumable => {}
            Ok(sidecar) => {
                tracing::warn!(vm = %name, session = %session, "removing what an interrupted backup left");
                remove_session(repository, name, &session)?;
                let ending =
                    Ending::failed("interrupted: its process ended before it was committed");
                let job = Job::of_session(&sidecar, &ending, now);
                let _turn = history.lock();
                if let Err(e) = job::append(repository, &job) {
                    job::say_lost(&job, &e);
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::warn!(vm = %name, session = %session, "removing a session without a sidecar");
                remove_session(repository, name, &session)?;
            }
            Err(e) => {
                tracing::error!(vm = %name, session = %session, error = %e.report(),
                    "a session cannot be read; it is kept, and no layer of this VM is cleaned up");
                complete = false;
            }
        }
    }
    set_aside_states(repository, name, &index, now)?;
    if complete {
        if repository.stage().is_separate() {
            clean_workspace(repository, name, &unsealed_slots(repository, name)?)?;
        }
        collect_garbage(repository, name, &index, None, now)?;
    }
    Ok(Some(VmEntry {
        vm,
        index,
        gone: false,
    }))
}

/// [`recover_vm`] for many VMs, in their order, on several threads.
///
/// # Errors
/// `Io` when a thread panicked; the errors of single VMs are in the returned list.
pub(super) fn recover_vms(
    repository: &Repository,
    vms: &[VmName],
    history: &Mutex<()>,
    now: Timestamp,
) -> Result<Vec<Result<Option<VmEntry>>>> {
    each_on_threads(vms, |vm| recover_vm(repository, vm, history, now))
}

/// Moves the states of removed points to the trash.
fn set_aside_states(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    now: Timestamp,
) -> Result<()> {
    let prefix = VmKeys::new(vm)?.state_dir()?;
    let entries = absent_is_empty(repository.store().list(&prefix))?;
    let known: HashSet<PointId> = index.points.iter().map(|point| point.point_id).collect();
    for entry in entries {
        let id = entry.name.strip_suffix(".json").map(str::parse::<PointId>);
        if let Some(Ok(id)) = id
            && !known.contains(&id)
        {
            let aside = format!("{}.{vm}.{}", clock::slot_time(now), entry.name);
            let aside = layout::trash()?.join(&aside)?;
            repository
                .store()
                .rename(&prefix.join(&entry.name)?, &aside)?;
        }
    }
    Ok(())
}

/// Moves points whose upload was cut short to the trash: they have neither an index entry nor a sidecar.
fn set_aside_halves(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    now: Timestamp,
) -> Result<()> {
    if !repository.stage().is_separate() {
        return Ok(());
    }
    let (keys, store) = (VmKeys::new(vm)?, repository.store());
    store.sweep(&keys.layers()?)?;
    let known: HashSet<&str> = index.points.iter().map(|p| p.name.as_str()).collect();
    for entry in absent_is_empty(store.list(&keys.points()?))? {
        let is_named = entry.is_prefix && PointName::new(entry.name.as_str()).is_ok();
        if is_named && !known.contains(entry.name.as_str()) {
            tracing::warn!(vm = %vm, point = %entry.name, "a point whose upload was cut short goes to the trash");
            let aside = format!("{}.{vm}.{}", clock::slot_time(now), entry.name);
            store.rename(
                &keys.points()?.join(&entry.name)?,
                &layout::trash()?.join(&aside)?,
            )?;
        }
    }
    Ok(())
}

/// Every slot that a session names: its layers and the layers of its parent.
fn sessions_slots(repository: &Repository, vm: &VmName) -> Result<HashSet<Slot>> {
    let mut named = HashSet::new();
    for session in repository.sessions(vm)? {
        for disk in session.disks {
            named.extend(disk.parent.map(|parent| parent.layer));
            named.insert(disk.layer);
        }
    }
    Ok(named)
}

/// The slots of the layers that sessions are writing.
fn unsealed_slots(repository: &Repository, vm: &VmName) -> Result<HashSet<Slot>> {
    let mut slots = HashSet::new();
    for session in repository.sessions(vm)? {
        slots.extend(session.disks.into_iter().map(|disk| disk.layer));
    }
    Ok(slots)
}

/// Every slot that a point or session names.
fn named_slots(repository: &Repository, vm: &VmName, index: &Index) -> Result<HashSet<Slot>> {
    let mut named = HashSet::new();
    for entry in &index.points {
        let point = repository.point(vm, entry)?;
        named.extend(point.disks.into_iter().map(|disk| disk.layer));
    }
    named.extend(sessions_slots(repository, vm)?);
    Ok(named)
}

/// Adds every slot below the named ones in their backing chains. It skips a missing layer where `may_miss`
/// allows it.
///
/// # Errors
/// `Corrupt` when another layer is missing or unreadable, because the layers below it are then unknown; `Io`.
pub(super) fn close_over_backing(
    repository: &Repository,
    vm: &VmName,
    named: &mut HashSet<Slot>,
    may_miss: impl Fn(&Slot) -> bool,
) -> Result<()> {
    let mut todo: Vec<Slot> = named.iter().cloned().collect();
    while let Some(slot) = todo.pop() {
        let file = match repository.store().open(&VmKeys::new(vm)?.layer(&slot)?) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && may_miss(&slot) => continue,
            Err(e) if e.kind() == ErrorKind::NotFound => repository.open_layer(vm, &slot)?,
            Err(e) => return Err(e),
        };
        let image = Image::open(file)?;
        if let Some(backing) = image.backing_name() {
            let below = Slot::of_file(&String::from_utf8_lossy(backing))?;
            if named.insert(below.clone()) {
                todo.push(below);
            }
        }
    }
    Ok(())
}

/// Moves layers that no point and no session needs to the trash; with `among`, only layers in these slots.
///
/// # Errors
/// `Io`. Layers that could not be judged stay, which is not an error.
pub(super) fn collect_garbage(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    among: Option<&HashSet<Slot>>,
    now: Timestamp,
) -> Result<()> {
    let keys = VmKeys::new(vm)?;
    let prefix = keys.layers()?;
    let entries = absent_is_empty(repository.store().list(&prefix))?;
    let candidates: Vec<(String, Slot)> = entries
        .into_iter()
        .filter(|e| !e.is_prefix)
        .filter_map(|e| Some((e.name.clone(), Slot::of_any_file(&e.name)?)))
        .filter(|(_, slot)| among.is_none_or(|among| among.contains(slot)))
        .collect();
    // Slots that the index and the sessions name need no further proof. Only an unknown layer is worth
    // reading every point.
    let mut known: HashSet<Slot> = sessions_slots(repository, vm)?;
    known.extend(
        index
            .points
            .iter()
            .flat_map(|p| &p.disks)
            .map(|disk| disk.layer.clone()),
    );
    if candidates.iter().all(|(_, slot)| known.contains(slot)) {
        return Ok(());
    }
    let judged = named_slots(repository, vm, index).and_then(|mut named| {
        if candidates.iter().any(|(_, slot)| !named.contains(slot)) {
            // A session's unsealed layer: the session itself names the parent of it.
            let unsealed = unsealed_slots(repository, vm)?;
            close_over_backing(repository, vm, &mut named, |slot| unsealed.contains(slot))?;
        }
        Ok(named)
    });
    let named = match judged {
        Ok(named) => named,
        Err(e) => {
            tracing::error!(vm = %vm, error = %e.report(), "not everything that names layers could be read; nothing is cleaned up");
            return Ok(());
        }
    };
    for (file, slot) in candidates {
        if !named.contains(&slot) {
            if among.is_some() {
                tracing::info!(vm = %vm, file, "a layer that was freed goes to the trash");
            } else {
                tracing::warn!(vm = %vm, file, "a layer that nothing names goes to the trash");
            }
            let aside = layout::trash()?.join(&format!("{}.{vm}.{file}", clock::slot_time(now)))?;
            repository.store().rename(&prefix.join(&file)?, &aside)?;
        }
    }
    Ok(())
}

/// Deletes entries that have been in the trash for an hour or more.
///
/// # Errors
/// `Io`.
pub(super) fn empty_trash(repository: &Repository, now: Timestamp) -> Result<()> {
    let prefix = layout::trash()?;
    let entries = absent_is_empty(repository.store().list(&prefix))?;
    let Ok(limit) = now.checked_sub(jiff::SignedDuration::from_secs(TRASH_SECONDS)) else {
        return Ok(());
    };
    let limit = clock::slot_time(limit);
    for entry in entries {
        // Names begin with the time of the move, in a form that sorts.
        if entry
            .name
            .split('.')
            .next()
            .is_some_and(|at| at.len() == limit.len() && at < limit.as_str())
        {
            repository.store().delete_all(&prefix.join(&entry.name)?)?;
        }
    }
    Ok(())
}
