//! The files of a VM that are no layers: compared with each other, as not all of them have a hash elsewhere.

use super::survey::Survey;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::types::VmName;

/// A fault as text; an error that is none is returned.
fn fault(faults: &mut Vec<String>, found: Result<()>) -> Result<()> {
    match found {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Io
            ) =>
        {
            faults.push(e.report());
            Ok(())
        }
        other => other,
    }
}

/// The faults of the VM's own sidecars.
///
/// # Errors
/// Errors that are no damage.
pub(super) fn of_vm(repository: &Repository, survey: &Survey) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let vm = &survey.vm;
    let stored = repository.stored_index(vm);
    match (&stored, repository.vm(vm)) {
        (_, Err(e)) => fault(&mut faults, Err(e))?,
        (Ok(index), Ok(sidecar)) => {
            fault(
                &mut faults,
                same(
                    vm,
                    "vm_id",
                    &sidecar.vm_id.to_string(),
                    &index.vm_id.to_string(),
                ),
            )?;
            fault(
                &mut faults,
                same(vm, "name", sidecar.name.as_str(), index.name.as_str()),
            )?;
        }
        _ => {}
    }
    match &stored {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let missing = Error::corrupt(
                format!("index.json of {vm} is missing"),
                "index.json",
                "no such file",
            );
            let advice = "the owner writes it anew when the repository is next changed; if it was there, look at what removed it";
            fault(&mut faults, Err(missing.advise(advice)))?;
        }
        Err(e) => fault(&mut faults, Err(Error::new(e.kind(), e.report())))?,
        Ok(index) => fault(&mut faults, listed(vm, index, &survey.index))?,
    }
    for name in repository.points_without_sidecar(vm, &survey.index)? {
        let what = format!("the directory points/{name} of {vm} has no point.json");
        let missing = Error::corrupt(what, "the sidecar of a restore point", "no such file")
            .advise("restore the file from a copy of the repository, or remove the directory; layers are not cleaned up until then");
        fault(&mut faults, Err(missing))?;
    }
    Ok(faults)
}

fn same(vm: &VmName, what: &str, sidecar: &str, index: &str) -> Result<()> {
    if sidecar == index {
        return Ok(());
    }
    let what = format!("vm.json and index.json of {vm} have another {what}");
    Err(Error::corrupt(what, sidecar, index))
}

/// Whether the index lists the points that are there: one that lists others was written by somebody else, or is old.
fn listed(vm: &VmName, stored: &Index, found: &Index) -> Result<()> {
    let known = |index: &Index, point: &PointEntry| {
        index.points.iter().any(|p| p.point_id == point.point_id)
    };
    if let Some(point) = stored.points.iter().find(|point| !known(found, point)) {
        let what = format!("index.json of {vm} lists the point {}", point.name);
        return Err(Error::corrupt(what, "its directory below points/", "none")
            .advise("restore the point from a copy of the repository, or let the owner mend the index: restorefs rebuild-catalog"));
    }
    Ok(())
}

/// The faults of a point's sidecar, state and attached files that its chains do not tell.
///
/// # Errors
/// Errors that are no damage.
pub(super) fn of_point(
    repository: &Repository,
    vm: &VmName,
    entry: &PointEntry,
    attached: bool,
) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    if let Ok(state) = repository.state(vm, entry)
        && state.point_id != entry.point_id
    {
        let what = format!("the state of {vm}@{} belongs to another point", entry.name);
        let other = Error::corrupt(what, entry.point_id, state.point_id);
        fault(&mut faults, Err(other))?;
    }
    let Ok(point) = repository.point(vm, entry) else {
        // The lineage tells it.
        return Ok(faults);
    };
    let told = PointEntry::of(&point, entry.point_blake3, entry.serial);
    let facts = |p: &PointEntry| {
        (
            (p.name.clone(), p.point_id, p.seq, p.kind),
            (p.captured_at, p.committed_at, p.parent.clone()),
            p.attached.clone(),
        )
    };
    let layers = |p: &PointEntry| -> Vec<_> {
        let disks = p.disks.iter();
        disks
            .map(|d| {
                (
                    d.name.clone(),
                    d.layer.clone(),
                    d.size_bytes,
                    d.source_bytes,
                )
            })
            .collect()
    };
    if facts(&told) != facts(entry) || layers(&told) != layers(entry) {
        let what = format!(
            "index.json has other facts of {vm}@{} than its point.json",
            entry.name
        );
        let other = Error::corrupt(what, "the facts of point.json", "others")
            .advise("the owner mends the index: restorefs rebuild-catalog");
        fault(&mut faults, Err(other))?;
    }
    if attached {
        for file in &point.attached {
            let read = repository.attached(vm, &entry.name, file).map(|_| ());
            fault(&mut faults, read)?;
        }
    }
    Ok(faults)
}
