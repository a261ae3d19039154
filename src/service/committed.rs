//! The restore point that a session has made, for a client that lost the answer to its commit.

use super::CommitAnswer;
use crate::error::Result;
use crate::repo::{JobResult, Repository};
use crate::types::SessionRef;

/// LIMIT: lines of the history in which the end of a session is looked for.
const SCANNED_MAX: usize = 10_000;

/// The point that the last session of that name has made, if it was the last thing that it did.
///
/// # Errors
/// `Io`.
pub fn committed(repository: &Repository, session: &SessionRef) -> Result<Option<CommitAnswer>> {
    let last = repository.newest_job(SCANNED_MAX, |job| {
        let is_vm = job.vm.as_ref().is_some_and(|vm| vm.same_as(&session.vm));
        let own = job.session.as_ref();
        is_vm && own.is_some_and(|own| own.same_as(&session.session))
    })?;
    let point = last
        .filter(|job| job.result == JobResult::Committed)
        .and_then(|job| job.point);
    let Some(point) = point else {
        return Ok(None);
    };
    let index = repository.index(&session.vm)?;
    let entry = index.point(&point).cloned();
    Ok(entry.map(|point| CommitAnswer {
        vm: index.name.clone(),
        point,
    }))
}
