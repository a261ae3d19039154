//! Lines of the job history that commands write: without the lock, which another process may hold for hours.

use super::context::Context;
use crate::clock::{Clock, SystemClock};
use crate::control::{Client, SHORT_PATIENCE};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Job;
use crate::service::Service;
use crate::task::TaskKind;
use crate::types::VmName;

/// Records that work failed before its session or task began. A mistake in the command line is not recorded: the user who
/// typed it has seen the message.
pub(super) fn note(context: &Context, kind: TaskKind, vm: Option<&VmName>, error: &Error) {
    let is_no_job = matches!(
        error.kind(),
        ErrorKind::InvalidInput
            | ErrorKind::NameTooLong
            | ErrorKind::NoRepository
            | ErrorKind::Cancelled
    );
    if is_no_job {
        return;
    }
    let reason = error.report();
    let told = context.repository().and_then(|repository| {
        let client = Client::connect_within(&repository, Some(SHORT_PATIENCE))?;
        client
            .map(|client| client.note_failure(kind, vm, &reason))
            .transpose()
    });
    if matches!(told, Ok(Some(()))) {
        return;
    }
    let now = SystemClock.now();
    keep(context, Some(&Job::of_failure(kind, vm, &reason, now, now)));
}

/// Records a job that has ended, where no daemon keeps it.
pub(super) fn keep(context: &Context, job: Option<&Job>) {
    let Some(job) = job else { return };
    let kept: Result<()> = context
        .repository()
        .and_then(|repository| repository.keep_late(job));
    match kept {
        Ok(()) => {}
        // Who only reads keeps no history.
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnly) => {
            tracing::info!(error = %e.report(), "the history does not have this job");
        }
        Err(e) => context.output.remark(format!(
            "restorefs: the history (restorefs jobs) does not have this {}: {}",
            job.kind,
            e.report()
        )),
    }
}
