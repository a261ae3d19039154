//! Sessions to which an agent sends only changes: the content that the agent compared with must be
//! the parent's.
//!
//! # Why
//! A hypervisor reports what changed since a change id. If the parent was not taken at that id,
//! clusters that changed before it would keep the parent's content for ever, and nothing would
//! detect it. So the agent declares the id that it started from, and a commit requires it to be the
//! parent's.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::DiskName;

/// The declared change id of a disk.
pub(in crate::ingest) fn declared_id<'a>(
    ids: &'a BTreeMap<DiskName, String>,
    disk: &DiskName,
) -> Option<&'a String> {
    let mut all = ids.iter();
    all.find(|(name, _)| name.same_as(disk)).map(|(_, id)| id)
}

/// Refuses the id that a disk's changes were counted from, unless it is the parent's.
fn check_id(disk: &SessionDisk, declared: &str) -> Result<()> {
    let name = &disk.name;
    let anew = "begin without --changed-only and write the whole disk";
    let Some(parent) = &disk.parent else {
        return Err(Error::invalid(format!(
            "disk {name} has no parent, to which changes since {declared} could apply"
        ))
        .advise("write the whole disk, without --previous-change-id for it"));
    };
    match &parent.change_id {
        Some(id) if id == declared => Ok(()),
        Some(id) => Err(Error::invalid(format!(
            "the changes of disk {name} are since {declared}, but the parent was taken at {id}"
        ))
        .advise(anew)),
        None => Err(Error::invalid(format!(
            "the changes of disk {name} are since {declared}, but the parent has no change id"
        ))
        .advise(anew)),
    }
}

/// Checks the ids that were declared at begin, while the agent can still read everything instead.
///
/// # Errors
/// `NotFound` for a disk that is not in the session; `InvalidInput`, which names both ids.
pub(in crate::ingest) fn check_declared(
    disks: &[SessionDisk],
    previous: &BTreeMap<DiskName, String>,
) -> Result<()> {
    for (name, declared) in previous {
        let disk = disks.iter().find(|d| d.name.same_as(name));
        let disk =
            disk.ok_or_else(|| Error::not_found(format!("the session has no disk {name}")))?;
        check_id(disk, declared)?;
    }
    Ok(())
}

/// Refuses a disk of a changes-only session when its previous change id is not declared, or is
/// wrong. A disk without a parent is whole anyway.
///
/// # Errors
/// `InvalidInput`, which names both ids.
pub(in crate::ingest) fn check_disk(
    disk: &SessionDisk,
    previous: &BTreeMap<DiskName, String>,
) -> Result<()> {
    match (&disk.parent, declared_id(previous, &disk.name)) {
        (_, Some(declared)) => check_id(disk, declared),
        (None, None) => Ok(()),
        (Some(parent), None) => {
            let name = &disk.name;
            let id = parent.change_id.as_deref().unwrap_or("no change id");
            Err(Error::invalid(format!(
                "the client sent only changes of disk {name}, without the change id that they are counted from; the parent was taken at {id}"
            ))
            .advise(format!(
                "pass --previous-change-id {name}=ID, or --unchanged {name} if nothing changed"
            )))
        }
    }
}
