//! A rule of a policy that says where copies go.

use crate::error::{Error, Result};
use crate::repo::Repository;
use crate::repo::register::Register;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::policy::CopyRule;
use crate::types::RepositoryName;

/// A rule that names another repository with its present id. What this release does not know of a rule for the same repository in
/// `before` is kept.
///
/// # Errors
/// `NotFound` for a name that the register does not have; `InvalidInput` for the repository itself.
pub fn copy_rule(
    repository: &Repository,
    register: &Register,
    to: &RepositoryName,
    after_seconds: u64,
    before: &[CopyRule],
) -> Result<CopyRule> {
    let entry = register.require(to)?;
    if entry.id == repository.format().repository_id {
        let what = format!(
            "{} is this repository: a copy is in another one",
            entry.name
        );
        return Err(Error::invalid(what));
    }
    let known = before.iter().find(|copy| copy.to.same_as(&entry.name));
    Ok(CopyRule {
        to: entry.name.clone(),
        repository_id: entry.id,
        after_seconds,
        unknown: known.map_or_else(Unknown::new, |copy| copy.unknown.clone()),
    })
}
