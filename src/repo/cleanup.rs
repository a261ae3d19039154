//! Removes the files of a session: all of them when it ends without a point; its sidecar, its logs, and its
//! files in a separate workspace when it became a point.

use std::collections::HashSet;

use super::flat_disk;
use super::garbage::is_build_held;
use super::layout::{self, MAP_SUFFIX, POINT_FILE, SESSION_FILE, VmKeys};
use super::repository::{Repository, absent_is_empty};
use super::sidecar::point::Point;
use super::sidecar::session::Session;
use super::sidecar::{SIDECAR_BYTES_MAX, parse};
use super::slot::{OPEN_SUFFIX, Slot};
use crate::error::{ErrorKind, Result};
use crate::types::{PointName, VmId, VmName};

/// Removes a session's unpublished layers and its directory.
///
/// # Errors
/// `Io`.
pub(super) fn remove_session(repository: &Repository, vm: &VmName, name: &PointName) -> Result<()> {
    match repository.session(vm, name) {
        Ok(session) => remove_files(repository, &session),
        // The rest of its layers is garbage that nothing names.
        Err(e) if e.kind() == ErrorKind::NotFound => {
            gone(repository.stage().delete(&VmKeys::new(vm)?.session(name)?))
        }
        Err(e) => Err(e),
    }
}

fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes all files of a session.
///
/// # Errors
/// `Io`.
pub(super) fn remove_files(repository: &Repository, session: &Session) -> Result<()> {
    let keys = VmKeys::new(&session.vm)?;
    let stage = repository.stage();
    // The sidecar goes first: the next owner removes a session without one as a whole.
    gone(stage.delete(&keys.session_file(&session.name)?))?;
    for disk in &session.disks {
        let (slot, layer) = (&disk.layer, disk.layer_id);
        // A process that still has the file open (an idle connection) would keep its space.
        if let Ok(file) = stage.open(&keys.open_layer(slot)?) {
            file.set_size(0)?;
        }
        gone(stage.delete(&keys.open_layer(slot)?))?;
        gone(stage.delete(&keys.open_sums(slot, layer)?))?;
        // Files of a commit that failed or was cut short.
        for key in [keys.sums(slot, layer)?, keys.layer(slot)?] {
            gone(repository.store().delete(&key))?;
        }
    }
    gone(stage.delete(&keys.session(&session.name)?))
}

/// Removes `session.json` and the logs from a committed point's directory.
///
/// # Errors
/// `Io`.
pub(super) fn remove_session_files(
    repository: &Repository,
    vm: &VmName,
    point: &PointName,
) -> Result<()> {
    let store = repository.store();
    let dir = VmKeys::new(vm)?.point(point)?;
    for entry in store.list(&dir)? {
        if entry.name == SESSION_FILE || entry.name.ends_with(MAP_SUFFIX) {
            store.delete(&dir.join(&entry.name)?)?;
        }
    }
    Ok(())
}

/// Whether a session in a separate workspace was published before its process could remove it.
///
/// # Errors
/// `Corrupt` when the workspace's copy of the point's sidecar cannot be read; `Io`.
pub(super) fn is_published(
    repository: &Repository,
    vm: &VmName,
    session: &PointName,
) -> Result<bool> {
    if !repository.stage().is_separate() {
        return Ok(false);
    }
    let keys = VmKeys::new(vm)?;
    let own = keys.session(session)?.join(POINT_FILE)?;
    let own = match repository.stage().get(&own, SIDECAR_BYTES_MAX) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    // An incomplete copy was never published: the copy is written before any object is uploaded.
    let Ok(point) = parse::<Point>(&own) else {
        return Ok(false);
    };
    // A copy of a point whose name was taken has the name of its session.
    for name in [&point.name, session] {
        match repository
            .store()
            .get(&keys.point_file(name)?, SIDECAR_BYTES_MAX)
        {
            Ok(published) if published == own => return Ok(true),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(false)
}

/// Deletes the flattened maps and the flat disks of a VM's chains, some of which are gone. They are made again when they
/// are needed; readers that have one open read on.
///
/// # Errors
/// `Io`.
pub(super) fn discard_maps(repository: &Repository, vm: VmId) -> Result<()> {
    let flat = flat_disk::discard(repository, vm);
    gone(repository.stage().delete(&layout::flat_maps_of(vm)?)).and(flat)
}

/// Deletes flattened maps that earlier releases named by the top layer alone.
///
/// # Errors
/// `Io`.
pub(super) fn discard_old_maps(repository: &Repository) -> Result<()> {
    let prefix = layout::flat_maps()?;
    for entry in absent_is_empty(repository.stage().list(&prefix))? {
        if !entry.is_prefix {
            gone(repository.stage().delete(&prefix.join(&entry.name)?))?;
        }
    }
    Ok(())
}

/// Removes from a separate workspace the directory of a session that became a point. [`clean_workspace`]
/// later removes its layers, unless `slots` has them.
///
/// # Errors
/// `Io`.
pub(super) fn remove_published(
    repository: &Repository,
    vm: &VmName,
    session: &PointName,
    slots: &[&Slot],
) -> Result<()> {
    if !repository.stage().is_separate() {
        return Ok(());
    }
    let (keys, stage) = (VmKeys::new(vm)?, repository.stage());
    let dir = keys.session(session)?;
    // The file that makes it a session goes before the file that shows that it was published.
    gone(stage.delete(&dir.join(SESSION_FILE)?))?;
    gone(stage.delete(&dir))?;
    remove_making(repository, vm, |slot| slots.contains(&slot))
}

/// Removes from a separate workspace the layers and sums that no session makes any more: those whose slot is
/// not in `needed`.
///
/// # Errors
/// `Io`.
pub(super) fn clean_workspace(
    repository: &Repository,
    vm: &VmName,
    needed: &HashSet<Slot>,
) -> Result<()> {
    remove_making(repository, vm, |slot| !needed.contains(slot))
}

fn remove_making(
    repository: &Repository,
    vm: &VmName,
    is_over: impl Fn(&Slot) -> bool,
) -> Result<()> {
    let (prefix, stage) = (VmKeys::new(vm)?.layers()?, repository.stage());
    for entry in absent_is_empty(stage.list(&prefix))? {
        if entry.name.ends_with(OPEN_SUFFIX)
            && let Some(slot) = Slot::of_any_file(&entry.name)
            && is_over(&slot)
        {
            let build =
                Slot::layer_of_build(&entry.name).or_else(|| Slot::layer_of_sums(&entry.name));
            if let Some(layer) = build
                && is_build_held(repository, &VmKeys::new(vm)?, &slot, layer)?
            {
                continue;
            }
            gone(stage.delete(&prefix.join(&entry.name)?))?;
        }
    }
    Ok(())
}
