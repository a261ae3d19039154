//! The base of a session: the point that it is compared with, and the chains below its disks.
//!
//! # Invariants
//! No session continues a chain of which a layer is missing, truncated or replaced: bytes that the
//! session does not write would be read through it, as zeroes or not at all. Only a disk that is
//! written whole, or that the caller wants to begin anew, does without its predecessor.

use std::sync::Arc;

use super::plan::{choose_parent, plan_disks, same};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::request::BeginRequest;
use crate::repo::Repository;
use crate::repo::entry::VmEntry;
use crate::repo::format::DEPTH_FULL;
use crate::repo::lineage::Lineage;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::repo::sidecar::point::{Kind, Point};
use crate::repo::sidecar::session::SessionDisk;
use crate::types::{DiskName, VmName};

/// The beginning of the reason why a disk is stored in full when its predecessor is damaged.
const DAMAGED: &str = "what it would be compared with is damaged";

/// The beginning of the reason why a disk is stored in full when its chain is too deep.
const TOO_DEEP: &str = "its chain is too deep to be continued";

/// Finds the parent point and plans the disks of a session on undamaged chains.
///
/// # Errors
/// `InvalidInput`; `NotFound` (the parent); `Corrupt` when what a disk would be compared with is
/// damaged and the disk is not written whole; `Io`.
pub(in crate::ingest) fn plan(
    repository: &Arc<Repository>,
    entry: &VmEntry,
    request: &BeginRequest,
    captured_at: jiff::Timestamp,
) -> Result<(Option<Point>, Vec<SessionDisk>)> {
    let vm = &entry.vm.name;
    let chosen = choose_parent(entry, request)?;
    let parent = match chosen.map(|point| (point, repository.point(vm, point))) {
        None => None,
        Some((_, Ok(point))) => Some(point),
        Some((chosen, Err(e))) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            return without_point(vm, request, chosen, &e, captured_at).map(|disks| (None, disks));
        }
        Some((_, Err(e))) => return Err(e),
    };
    let mut disks = plan_disks(request, parent.as_ref(), captured_at)?;
    let mut lineage = Lineage::new(repository, vm, &entry.index);
    for disk in &mut disks {
        let Some(base) = &disk.parent else { continue };
        match lineage.look(&base.layer, Some(base.content_root)) {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                if !is_written_whole(request, &disk.name) {
                    return Err(refusal(vm, &disk.name, &e));
                }
                begin_anew(vm, disk, &e);
            }
            other => other?,
        }
        end_deep_chain(vm, &entry.index, request, disk);
    }
    Ok((parent, disks))
}

/// Stores a disk in full whose chain could soon not be opened by QEMU any more. A disk of which only changes are sent goes on.
fn end_deep_chain(vm: &VmName, index: &Index, request: &BeginRequest, disk: &mut SessionDisk) {
    let below = disk
        .parent
        .as_ref()
        .and_then(|base| index.disk_of(&base.layer));
    let Some(depth) = below
        .and_then(|below| below.depth)
        .filter(|depth| *depth >= DEPTH_FULL)
    else {
        return;
    };
    let reason = format!("{TOO_DEEP}: {depth} layers");
    if !is_written_whole(request, &disk.name) {
        tracing::error!(vm = %vm, disk = %disk.name, depth,
            "{TOO_DEEP}, and only its changes are sent; merge it with restorefs forget --compact {vm}, or restorefs synthetic-full {vm}@latest");
        return;
    }
    tracing::warn!(vm = %vm, disk = %disk.name, reason, "a disk is stored in full");
    (disk.kind, disk.parent) = (Kind::Full, None);
    disk.full_reason = Some(reason);
}

/// Checks the chains below a session's disks again before they become a point: a session may be
/// open for long, and outlives its daemon.
///
/// # Errors
/// `Corrupt` when what a disk was compared with is damaged by now; `Io`.
pub(in crate::ingest) fn check_again<'d>(
    repository: &Repository,
    vm: &VmName,
    index: &Index,
    disks: impl Iterator<Item = &'d SessionDisk>,
) -> Result<()> {
    let mut lineage = Lineage::new(repository, vm, index);
    for disk in disks {
        let Some(base) = &disk.parent else { continue };
        match lineage.look(&base.layer, Some(base.content_root)) {
            Err(e) if e.kind() == ErrorKind::Corrupt => return Err(refusal(vm, &disk.name, &e)),
            other => other?,
        }
    }
    Ok(())
}

/// Plans the disks of a session whose parent point cannot be read: all of its disks, as the index
/// lists them, are stored in full.
fn without_point(
    vm: &VmName,
    request: &BeginRequest,
    chosen: &PointEntry,
    damage: &Error,
    captured_at: jiff::Timestamp,
) -> Result<Vec<SessionDisk>> {
    let is_gone = |disk: &DiskName| request.without.iter().any(|gone| same(gone, disk));
    for disk in chosen.disks.iter().filter(|disk| !is_gone(&disk.name)) {
        if !is_written_whole(request, &disk.name) {
            return Err(refusal(vm, &disk.name, damage));
        }
    }
    let alone = BeginRequest {
        without: Vec::new(),
        ..request.clone()
    };
    let mut disks = plan_disks(&alone, None, captured_at)?;
    for disk in &mut disks {
        disk.inherited = chosen.disks.iter().any(|old| same(&old.name, &disk.name));
        begin_anew(vm, disk, damage);
    }
    Ok(disks)
}

/// Whether the client will write all of a disk, or wants it to begin anew.
fn is_written_whole(request: &BeginRequest, disk: &DiskName) -> bool {
    let mut asked = request.disks.iter();
    request.whole.iter().any(|whole| same(whole, disk))
        || asked.any(|asked| asked.full && same(&asked.name, disk))
}

fn refusal(vm: &VmName, disk: &DiskName, damage: &Error) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "disk {disk} of {vm} cannot be continued: {DAMAGED}: {}",
            damage.report()
        ),
    )
    .advise(format!(
        "back the whole disk up (restorefs backup {vm} {disk}=SOURCE, without --strict), or begin it anew: --full {disk}; restorefs rebuild-catalog lists all damage"
    ))
}

fn begin_anew(vm: &VmName, disk: &mut SessionDisk, damage: &Error) {
    let report = damage.report();
    tracing::warn!(vm = %vm, disk = %disk.name, damage = report, "a disk is stored in full: {DAMAGED}");
    disk.kind = Kind::Full;
    disk.parent = None;
    disk.full_reason = Some(format!("{DAMAGED}: {report}"));
}
