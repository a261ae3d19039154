//! VMs on the command line: by name, or by a pattern as in a shell.

use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::types::VmName;
use crate::types::pattern::fits;

/// Whether a word is a pattern; names have no such characters.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The VMs that a pattern fits; case does not matter.
///
/// # Errors
/// `InvalidInput` when it fits none.
pub(super) fn fitting<'n>(names: &'n [VmName], pattern: &str) -> Result<Vec<&'n VmName>> {
    let folded = pattern.to_lowercase();
    let fitting = names.iter().filter(|name| fits(&folded, &name.folded()));
    let fitting: Vec<&VmName> = fitting.collect();
    if fitting.is_empty() {
        return Err(Error::invalid(format!(
            "no VM fits the pattern \"{}\"",
            pattern.escape_debug()
        ))
        .advise("list the VMs with: restorefs ls"));
    }
    Ok(fitting)
}

/// The VMs that these words name, sorted, each once; all when there is no word.
///
/// # Errors
/// `NotFound` naming a VM; `InvalidInput`; `Io`.
pub(super) fn chosen(repository: &Repository, words: &[String]) -> Result<Vec<VmName>> {
    let names = repository.vm_names()?;
    if words.is_empty() {
        return Ok(names);
    }
    let mut chosen = Vec::new();
    for word in words {
        match is_pattern(word) {
            true => chosen.extend(fitting(&names, word)?.into_iter().cloned()),
            false => chosen.push(repository.spelled(&VmName::new(word)?)?),
        }
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}
