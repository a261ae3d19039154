//! The check for sources that begin as images.

use super::BeginRequest;
use crate::error::{Error, Result};
use crate::repo::entry::VmEntry;
use crate::repo::sidecar::session::SessionDisk;
use crate::types::DiskName;

/// Refuses a new disk whose source begins as an image although the caller named no format. A disk
/// that the VM had before is accepted as it is: otherwise a guest could stop its own backups by
/// writing such bytes to the beginning of its disk.
///
/// # Errors
/// `InvalidInput` with the ways out.
pub(in crate::ingest) fn check_lookalikes(
    request: &BeginRequest,
    entry: Option<&VmEntry>,
    disks: &[SessionDisk],
) -> Result<()> {
    let latest = entry.and_then(|entry| entry.index.latest());
    let is_known = |disk: &SessionDisk| {
        let is_same = |name: &DiskName| name.same_as(&disk.name);
        disk.parent.is_some()
            || latest.is_some_and(|point| point.disks.iter().any(|d| is_same(&d.name)))
    };
    for disk in disks.iter().filter(|disk| !is_known(disk)) {
        let origin = request.origin(&disk.name);
        if let Some(lookalike) = origin.and_then(|origin| origin.lookalike.as_ref()) {
            return Err(Error::invalid(lookalike.describe(&disk.name))
                .at_path(&lookalike.source)
                .advise(lookalike.ways_out.clone()));
        }
    }
    Ok(())
}
