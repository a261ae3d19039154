//! Removing what belongs to a session: all of it when it ends without a point, its sidecar and logs when it became one.

use super::layout::{MAP_SUFFIX, SESSION_FILE, VmKeys};
use super::repository::Repository;
use super::sidecar::session::Session;
use crate::error::{ErrorKind, Result};
use crate::types::{PointName, VmName};

/// Removes a session's unpublished layers and its directory.
///
/// # Errors
/// `Io`.
pub(super) fn remove_session(repository: &Repository, vm: &VmName, name: &PointName) -> Result<()> {
    match repository.session(vm, name) {
        Ok(session) => remove_files(repository, &session),
        // What is left of its layers is garbage that nobody names.
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
    // The sidecar goes first: a session without one is removed whole by whoever comes next.
    gone(stage.delete(&keys.session_file(&session.name)?))?;
    for disk in &session.disks {
        let (slot, layer) = (&disk.layer, disk.layer_id);
        // Whoever has it open still (an idle connection) would keep its space.
        if let Ok(file) = stage.open(&keys.open_layer(slot)?) {
            file.set_size(0)?;
        }
        for key in [
            keys.open_layer(slot)?,
            keys.sums(slot, layer)?,
            keys.layer(slot)?,
        ] {
            gone(stage.delete(&key))?;
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
    let stage = repository.stage();
    let dir = VmKeys::new(vm)?.point(point)?;
    for entry in stage.list(&dir)? {
        if entry.name == SESSION_FILE || entry.name.ends_with(MAP_SUFFIX) {
            stage.delete(&dir.join(&entry.name)?)?;
        }
    }
    Ok(())
}
