//! Sessions to which an agent sends changes only: what it compared with must be what the parent has.
//!
//! # Why
//! A hypervisor says what changed since a change id. If that is not the one which the parent was taken at, clusters that changed before
//! would be the parent's for ever, and nothing would tell. So the agent says the id that it started from, and a commit needs it to be the
//! parent's.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::DiskName;

/// What was said of a disk.
pub(super) fn said_of<'a>(
    ids: &'a BTreeMap<DiskName, String>,
    disk: &DiskName,
) -> Option<&'a String> {
    let mut all = ids.iter();
    all.find(|(name, _)| name.folded() == disk.folded())
        .map(|(_, id)| id)
}

/// Refuses the id that a disk's changes were counted from, unless it is the parent's.
fn check_id(disk: &SessionDisk, said: &str) -> Result<()> {
    let name = &disk.name;
    let anew = "begin without --changed-only and write the whole disk";
    let Some(parent) = &disk.parent else {
        return Err(Error::invalid(format!(
            "changes of disk {name} since {said} cannot be taken: it is compared with nothing"
        ))
        .advise("write the whole disk, without --previous-change-id for it"));
    };
    match &parent.change_id {
        Some(id) if id == said => Ok(()),
        Some(id) => Err(Error::invalid(format!(
            "the changes of disk {name} are since {said}, but the parent was taken at {id}"
        ))
        .advise(anew)),
        None => Err(Error::invalid(format!(
            "the changes of disk {name} are since {said}, but the parent has no change id"
        ))
        .advise(anew)),
    }
}

/// Checks what was said at the beginning, so that the agent can still read everything instead.
///
/// # Errors
/// `NotFound` for a disk that is not in the session; `InvalidInput` naming both ids.
pub(super) fn check_said(
    disks: &[SessionDisk],
    previous: &BTreeMap<DiskName, String>,
) -> Result<()> {
    for (name, said) in previous {
        let disk = disks.iter().find(|d| d.name.folded() == name.folded());
        let disk =
            disk.ok_or_else(|| Error::not_found(format!("the session has no disk {name}")))?;
        check_id(disk, said)?;
    }
    Ok(())
}

/// Refuses a disk of a session of changes only, of which it was not said since when, or wrongly. One without a parent is
/// whole anyway.
///
/// # Errors
/// `InvalidInput` naming both ids.
pub(super) fn check_disk(disk: &SessionDisk, previous: &BTreeMap<DiskName, String>) -> Result<()> {
    match (&disk.parent, said_of(previous, &disk.name)) {
        (_, Some(said)) => check_id(disk, said),
        (None, None) => Ok(()),
        (Some(parent), None) => {
            let name = &disk.name;
            let id = parent.change_id.as_deref().unwrap_or("no change id");
            Err(Error::invalid(format!(
                "only changes of disk {name} were sent, and it was not said since when; the parent was taken at {id}"
            ))
            .advise(format!(
                "say it: --previous-change-id {name}=ID, or that nothing changed: --unchanged {name}"
            )))
        }
    }
}
