//! Damage of the repository, as commands show it: what is wrong with the files of points, never with a guest's own filesystem.

use super::context::Context;
use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Repository;
use crate::repo::lineage::Lineage;
use crate::repo::selector::Selector;

/// What is wrong with one point.
///
/// # Errors
/// `NotFound` naming VM and point; `Corrupt` when the VM's own sidecars cannot be read; `Io`.
pub(super) fn of_point(context: &Context, selector: &Selector) -> Result<Vec<String>> {
    let repository = context.repository()?;
    let vm = repository.spelled(&selector.vm)?;
    let index = repository.index(&vm)?;
    let entry = selector.which.find(&index)?;
    let faults = Lineage::new(&repository, &vm, &index).damage_of(entry)?;
    Ok(faults.iter().map(Error::report).collect())
}

/// What is wrong with all points, each fault with the point that it is of.
///
/// # Errors
/// `Io`.
pub(super) fn of_all(repository: &Repository) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for vm in repository.vm_names()? {
        let index = match repository.index(&vm) {
            Ok(index) => index,
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                all.push(format!("{vm}: {}", e.report()));
                continue;
            }
            // A directory without vm.json is no VM.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let mut lineage = Lineage::new(repository, &vm, &index);
        for entry in &index.points {
            let faults = lineage.damage_of(entry)?;
            let said = faults
                .iter()
                .map(|fault| format!("{vm}@{}: {}", entry.name, fault.report()));
            all.extend(said);
        }
    }
    Ok(all)
}

/// The end of a command that has shown what it was asked for: exit code 3 when there is damage.
///
/// # Errors
/// `Corrupt`; several faults are printed before, a line each.
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
