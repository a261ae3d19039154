//! Reports of the repository's damage: damage of the points' files, never of a guest's own
//! filesystem.

use std::collections::BTreeMap;

use super::context::Context;
use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::lineage::Lineage;
use crate::repo::selector::Selector;
use crate::task::{Monitor, on_threads, threads};
use crate::types::VmName;
use crate::types::sync::Mutex;

/// LIMIT: VMs that are checked at the same time.
const THREADS_MAX: usize = 8;

/// The damage of one point.
///
/// # Errors
/// `NotFound`, which names VM and point; `Corrupt` when the VM's own sidecars cannot be read; `Io`.
pub(super) fn of_point(context: &Context, selector: &Selector) -> Result<Vec<String>> {
    let repository = context.repository()?;
    let vm = repository.spelled(&selector.vm)?;
    let index = repository.index(&vm)?;
    let entry = selector.which.find(&index)?;
    let faults = Lineage::new(&repository, &vm, &index).damage_of(entry)?;
    Ok(faults.iter().map(Error::report).collect())
}

/// The damage of all points, each fault with its point.
///
/// # Errors
/// `Io`.
pub(super) fn of_all(repository: &Repository) -> Result<Vec<String>> {
    let vms = repository.vm_names()?;
    let mut next = vms.iter();
    let all = Mutex::new(BTreeMap::new());
    on_threads(
        threads(None, THREADS_MAX),
        &Monitor::default(),
        || Ok(next.next()),
        || (),
        |(), vm| {
            let faults = of_vm(repository, vm)?;
            if !faults.is_empty() {
                all.lock().insert(vm, faults);
            }
            Ok(())
        },
    )?;
    Ok(all.into_inner().into_values().flatten().collect())
}

fn of_vm(repository: &Repository, vm: &VmName) -> Result<Vec<String>> {
    let index = match repository.index(vm) {
        Ok(index) => index,
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            return Ok(vec![format!("{vm}: {}", e.report())]);
        }
        // A directory without vm.json is not a VM.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut lineage = Lineage::new(repository, vm, &index);
    let mut all = Vec::new();
    for entry in &index.points {
        let faults = lineage.damage_of(entry)?;
        let reports = faults.iter().map(Error::report);
        all.extend(reports.map(|report| format!("{vm}@{}: {report}", entry.name)));
    }
    Ok(all)
}

/// The result of a command that has printed its output: exit code 3 when there is damage.
///
/// # Errors
/// `Corrupt`; several faults are printed first, one a line.
pub(super) fn end(faults: &[String]) -> Result<()> {
    match faults {
        [] => Ok(()),
        [one] => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the repository is damaged: {one}"),
        )),
        many => {
            many.iter().for_each(|fault| Output::fault(fault));
            Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the repository is damaged: {} faults, see above",
                    many.len()
                ),
            ))
        }
    }
}
