//! Jobs: what runs, and what has ended.

use axum::http::StatusCode;

use crate::error::{Error, ErrorKind, Result};
use crate::http::call::Call;
use crate::http::reply::{self, Answer};
use crate::service::view::{JobAnswer, JobChoice, JobState, Page, View, jobs_of};
use crate::types::{JobId, VmName};

const KNOWN: [&str; 6] = ["repository", "vm", "kind", "state", "after", "limit"];

fn choice(call: &Call) -> Result<JobChoice> {
    let query = call.query(&KNOWN)?;
    let state = query.text("state")?.map(|text| {
        JobState::parse(&text).ok_or_else(|| {
            Error::invalid("a state is pending, running, completed, failed or cancelled")
        })
    });
    Ok(JobChoice {
        vm: query.text("vm")?.map(VmName::new).transpose()?,
        kind: query.text("kind")?,
        state: state.transpose()?,
    })
}

/// The jobs of all repositories: first what runs, then what has ended, the newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", operation_id = "listJobs",
    params(("repository" = Option<String>, Query), ("vm" = Option<String>, Query), ("kind" = Option<String>, Query),
        ("state" = Option<JobState>, Query), ("after" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of jobs", body = Page<JobAnswer>)))]
pub(in crate::http) async fn list(call: Call) -> Answer {
    let (choice, slice) = (choice(&call)?, call.query(&KNOWN)?.slice()?);
    let one = call.query(&KNOWN)?.text("repository")?;
    let page = call
        .work(move |call| {
            let views = match &one {
                Some(name) => vec![call.view_of(name)?],
                None => call.views(),
            };
            jobs_of(&views, &choice, &slice)
        })
        .await?;
    reply::fresh(&call.headers, &page)
}

/// Finds a job in one of the repositories.
///
/// # Errors
/// `NotFound`; those of `of`.
pub(in crate::http) fn find<T>(call: &Call, of: impl Fn(&View, JobId) -> Result<T>) -> Result<T> {
    let id: JobId = call.param("job").parse()?;
    let mut last = Error::not_found(format!("there is no job {id}"));
    for view in call.views() {
        match of(&view, id) {
            Err(e) if e.kind() == ErrorKind::NotFound => last = e,
            other => return other,
        }
    }
    Err(last)
}

/// One job.
#[utoipa::path(get, path = "/api/v1/jobs/{job}", tag = "jobs", operation_id = "showJob",
    responses((status = 200, description = "The job", body = JobAnswer)))]
pub(in crate::http) async fn show(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(|call| find(call, View::job)).await?;
    reply::fresh(&call.headers, &answer)
}

/// Asks a job to stop. It stops within a second or so; a stopped backup is aborted.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/cancel", tag = "jobs", operation_id = "cancelJob",
    responses((status = 202, description = "The job was asked to stop", body = JobAnswer)))]
pub(in crate::http) async fn cancel(call: Call) -> Answer {
    call.query(&[])?;
    let answer = call.work(stop).await?;
    reply::json(StatusCode::ACCEPTED, &answer)
}

/// Asks the job of a request to stop.
///
/// # Errors
/// `NotFound`; as [`View::cancel`].
pub(in crate::http) fn stop(call: &Call) -> Result<JobAnswer> {
    find(call, |view, id| {
        // A job that has ended is found, too, and its end is the answer.
        let job = view.job(id)?;
        if job.ended_at.is_none() {
            view.cancel(id)?;
        }
        Ok(job)
    })
}
