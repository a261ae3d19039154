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
use super::garbage::{self, Look};
use super::job::{self, Ending, Job};
use super::layout::{CHECKS_SUFFIX, VmKeys};
use super::repository::{Repository, absent_is_empty, each_on_threads};
use super::sidecar::encode;
use super::sidecar::index::Index;
use super::sidecar::vm::Vm;
use super::slot::SUMS_SUFFIX;
use super::trash;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::sync::Mutex;
use crate::types::{PointId, PointName, VmName};

/// Writes the name of a VM's directory into its sidecar: a rename was cut short. A directory that is a copy of another VM's is refused:
/// two VMs with one identity would share a trash.
fn follow_directory(repository: &Repository, vm: &Vm) -> Result<()> {
    let keys = VmKeys::new(&vm.name)?;
    let stated = repository.load::<Vm>(&keys.vm()?)?.name;
    if stated == vm.name {
        return Ok(());
    }
    if repository
        .vm(&stated)
        .is_ok_and(|other| other.vm_id == vm.vm_id)
    {
        return Err(Error::corrupt(
            "a VM sidecar lies in another VM's directory",
            &vm.name,
            &stated,
        )
        .at_path(keys.vm()?.as_str()));
    }
    tracing::warn!(vm = %vm.name, stated = %stated, "vm.json gets the name of its directory");
    let store = repository.store();
    store.put(&keys.vm()?, &encode(vm)?, PutMode::Replace)
}

/// Puts one VM in order and loads it. `history` is held while a line is appended to the job history. Nothing of what
/// was committed goes to the trash unless `cleans`. `None` when the directory is not a VM (its creation was cut short).
///
/// # Errors
/// `Corrupt`, `Io`.
pub(super) fn recover_vm(
    repository: &Repository,
    name: &VmName,
    history: &Mutex<()>,
    cleans: bool,
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
    follow_directory(repository, &vm)?;
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
    if cleans {
        set_aside_halves(repository, name, &index, now)?;
    }
    // Only the last commit can have ended before its session's files were removed.
    for point in index.points.iter().rev().take(1) {
        let removed = remove_session_files(repository, name, &point.name);
        stays(name, point.name.as_str(), removed)?;
    }
    for session in repository.session_names(name)? {
        if is_published(repository, name, &session)? {
            tracing::warn!(vm = %name, session = %session, "removing the remains of a session that became a point");
            let removed = remove_published(repository, name, &session, &[]);
            stays(name, session.as_str(), removed)?;
            continue;
        }
        match repository.session(name, &session) {
            Ok(sidecar) if sidecar.is_expired_copy(now) => {
                let removed = remove_session(repository, name, &session);
                stays(name, session.as_str(), removed)?;
                let job = Job::of_session(&sidecar, &Ending::expired_copy(), now);
                let _turn = history.lock();
                if let Err(e) = job::append(repository, &job) {
                    job::say_lost(&job, &e);
                }
            }
            Ok(sidecar) if sidecar.resumable => {}
            Ok(sidecar) => {
                tracing::warn!(vm = %name, session = %session, "removing what an interrupted backup left");
                let removed = remove_session(repository, name, &session);
                stays(name, session.as_str(), removed)?;
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
                let removed = remove_session(repository, name, &session);
                stays(name, session.as_str(), removed)?;
            }
            Err(e) => {
                tracing::error!(vm = %name, session = %session, error = %e.report(),
                    "a session cannot be read; it is kept, and no layer of this VM is cleaned up");
                complete = false;
            }
        }
    }
    if cleans {
        set_aside_states(repository, name, &index, now)?;
    }
    if complete {
        if repository.stage().is_separate() {
            let unsealed = garbage::unsealed_slots(repository, name)?;
            clean_workspace(repository, name, &unsealed)?;
        }
        let (look, is_changed) = Look::at(repository, name, &mut index, None)?;
        if is_changed {
            index.generation = 0;
        }
        if cleans {
            garbage::collect(repository, name, &index, &look, None, now)?;
        }
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
    each_on_threads(vms, |vm| recover_vm(repository, vm, history, true, now))
}

/// A leftover that may not be moved or removed (EPERM: the file is immutable, or belongs to somebody else) stays, and
/// does not keep the repository from opening.
fn stays(vm: &VmName, what: &str, done: Result<()>) -> Result<()> {
    match done {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::PermissionDenied | ErrorKind::NotPermitted
            ) =>
        {
            tracing::error!(vm = %vm, what, error = %e.report(), "a leftover cannot be removed; it stays");
            Ok(())
        }
        other => other,
    }
}

/// Names of the files below `layers/`.
fn layer_files(repository: &Repository, vm: &VmName) -> Result<HashSet<String>> {
    let entries = absent_is_empty(repository.store().list(&VmKeys::new(vm)?.layers()?))?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// Moves the states of removed points to the trash, and removes the results of verifying layers that are gone.
fn set_aside_states(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    now: Timestamp,
) -> Result<()> {
    let prefix = VmKeys::new(vm)?.state_dir()?;
    let entries = absent_is_empty(repository.store().list(&prefix))?;
    let known: HashSet<PointId> = index.points.iter().map(|point| point.point_id).collect();
    let mut sums: Option<HashSet<String>> = None;
    let mut is_complete: Option<bool> = None;
    for entry in entries {
        if let Some(layer) = entry.name.strip_suffix(CHECKS_SUFFIX) {
            let sums = match &sums {
                Some(sums) => sums,
                None => sums.insert(layer_files(repository, vm)?),
            };
            // Results of a layer whose sums went to the trash.
            if !sums.contains(&format!("{layer}{SUMS_SUFFIX}")) {
                let gone = repository.store().delete(&prefix.join(&entry.name)?);
                stays(vm, &entry.name, gone)?;
            }
            continue;
        }
        let id = entry.name.strip_suffix(".json").map(str::parse::<PointId>);
        if let Some(Ok(id)) = id
            && !known.contains(&id)
        {
            // The state of a point that is just copied or restored comes before its sidecar.
            let is_complete = match is_complete {
                Some(is_complete) => is_complete,
                None => {
                    *is_complete.insert(repository.points_without_sidecar(vm, index)?.is_empty())
                }
            };
            if !is_complete {
                continue;
            }
            let to = trash::aside(now, index.vm_id, &entry.name)?;
            let moved = repository.store().rename(&prefix.join(&entry.name)?, &to);
            stays(vm, &entry.name, moved)?;
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
            let to = trash::aside(now, index.vm_id, &entry.name)?;
            let moved = store.rename(&keys.points()?.join(&entry.name)?, &to);
            stays(vm, &entry.name, moved)?;
        }
    }
    Ok(())
}
