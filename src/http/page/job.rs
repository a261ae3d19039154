//! Jobs: what runs, what has ended, and one of them in full.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use maud::{Markup, html};

use super::frame::{Frame, Place, crumbs};
use super::quantity::{at, bytes, seconds_between, thousandths};
use super::{address, spelling};
use crate::error::{Error, Result};
use crate::http::api;
use crate::http::call::Call;
use crate::http::query::Query;
use crate::http::reply::Answer;
use crate::service::view::{JobAnswer, JobChoice, JobState, Slice, View, jobs_of};
use crate::types::VmName;
use crate::types::duration::Age;
use crate::types::size::{Count, Human};

/// Jobs on a page of the history.
const PAGE_JOBS: usize = 50;
/// Kinds that the filter offers.
const KINDS: [&str; 9] = [
    "ingest",
    "restore",
    "verify",
    "copy",
    "merge",
    "forget",
    "repair",
    "rebuild-catalog",
    "empty-trash",
];
const STATES: [JobState; 4] = [
    JobState::Running,
    JobState::Completed,
    JobState::Failed,
    JobState::Cancelled,
];

/// A job, and whether the caller may stop it.
pub(super) struct Row {
    job: JobAnswer,
    may_cancel: bool,
}

impl Row {
    /// A job of a repository.
    pub(super) fn of(view: &View, job: JobAnswer) -> Self {
        let is_stoppable = job.cancellable && job.ended_at.is_none();
        Self {
            may_cancel: is_stoppable && view.may_cancel(job.id),
            job,
        }
    }
}

const fn word(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "pending",
        JobState::Running => "running",
        JobState::Completed => "completed",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn badge(job: &JobAnswer) -> Markup {
    let class = match job.state {
        JobState::Completed => "state-good",
        JobState::Failed => "state-bad",
        JobState::Cancelled => "state-warn",
        JobState::Pending | JobState::Running => "state-live",
    };
    html! { span class={ "state " (class) } { (word(job.state)) } }
}

/// What a job is about, with links.
fn subject(job: &JobAnswer) -> Markup {
    html! {
        @if let Some(vm) = &job.vm {
            a href=(address::vm(&job.repository, vm)) { (vm) }
            @if let Some(point) = job.point.as_ref().or(job.session.as_ref()) {
                "@"
                @if job.state == JobState::Completed && job.kind == "ingest" {
                    a href=(address::point(&job.repository, vm, point)) { (point) }
                } @else { (point) }
            }
        } @else { "repository " (job.repository) }
    }
}

fn progress(job: &JobAnswer) -> Markup {
    let total: u64 = job.disks.iter().filter_map(|disk| disk.total_bytes).sum();
    let done: u64 = job.disks.iter().map(|disk| disk.done_bytes).sum();
    html! {
        @if total > 0 {
            @let part = thousandths(done, total);
            progress max="1000" value=(part) aria-label={ "Progress of " (job.kind) } {}
            " " span.number { (part / 10) " %, " (Human(done)) " of " (Human(total)) }
        }
    }
}

fn cancel_form(row: &Row) -> Markup {
    html! {
        @if row.may_cancel {
            form method="post" action={ "/jobs/" (row.job.id) "/cancel" } {
                button type="submit" #{ "cancel-" (row.job.id) } {
                    "Cancel" span.visually-hidden { " the " (row.job.kind) " " (row.job.id) }
                }
            }
        }
    }
}

/// What runs.
pub(super) fn running(rows: &[Row]) -> Markup {
    html! {
        @if rows.is_empty() {
            p.quiet { "Nothing is running." }
        } @else {
            p.visually-hidden data-live-summary="" { (Count::of(rows.len(), "job")) " running" }
            ul.jobs {
                @for row in rows {
                    li {
                        div {
                            a #{ "job-" (row.job.id) } href={ "/jobs/" (row.job.id) } { (row.job.kind) } " " (subject(&row.job)) " " (badge(&row.job))
                            span.quiet { " began " (at(row.job.began_at)) }
                        }
                        div { (progress(&row.job)) }
                        @if let Some(reason) = &row.job.reason { div.quiet { (spelling::text(reason)) } }
                        (cancel_form(row))
                    }
                }
            }
        }
    }
}

/// What the filter of the history was set to.
#[derive(Default)]
struct Filter {
    kind: String,
    state: String,
    vm: String,
    after: Option<String>,
}

impl Filter {
    fn of(form: &Query) -> Result<Self> {
        let text = |name| Ok::<_, Error>(form.text(name)?.unwrap_or_default().trim().to_owned());
        Ok(Self {
            kind: text("kind")?,
            state: text("state")?,
            vm: text("vm")?,
            after: form.text("after")?.filter(|after| !after.is_empty()),
        })
    }

    fn choice(&self) -> Result<JobChoice> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let state = some(&self.state).map(|text| {
            JobState::parse(&text).ok_or_else(|| Error::invalid("there is no such state of a job"))
        });
        Ok(JobChoice {
            vm: some(&self.vm).map(VmName::new).transpose()?,
            kind: some(&self.kind),
            state: state.transpose()?,
        })
    }

    fn next(&self, after: &str) -> String {
        let mut address = "/jobs".to_owned();
        for (name, value) in [
            ("kind", &self.kind),
            ("state", &self.state),
            ("vm", &self.vm),
        ] {
            if !value.is_empty() {
                address = address::with(&address, name, value);
            }
        }
        address::with(&address, "after", &after)
    }

    fn form(&self) -> Markup {
        html! {
            form.filter method="get" action="/jobs" {
                div {
                    label for="kind" { "Kind" }
                    select #kind name="kind" {
                        option value="" { "all" }
                        @for kind in KINDS { option value=(kind) selected[kind == self.kind] { (kind) } }
                    }
                }
                div {
                    label for="state" { "State" }
                    select #state name="state" {
                        option value="" { "all" }
                        @for state in STATES.map(word) { option value=(state) selected[state == self.state] { (state) } }
                    }
                }
                div {
                    label for="vm" { "VM" }
                    input #vm name="vm" value=(self.vm) autocomplete="off" spellcheck="false" size="16";
                }
                button type="submit" { "Show" }
            }
        }
    }
}

/// The jobs of all repositories.
pub(super) async fn list(call: Call) -> Answer {
    let filter = Filter::of(&call.form()?)?;
    let choice = filter.choice()?;
    let slice = Slice {
        after: filter.after.clone(),
        limit: PAGE_JOBS,
    };
    let frame = Frame::of(&call, "Jobs".to_owned(), Place::Jobs);
    let (live, ended, next) = call
        .work(move |call| {
            let views = call.site.views(&call.caller, &call.peer);
            let page = jobs_of(&views, &choice, &slice)?;
            let mut live = Vec::new();
            for view in &views {
                let jobs = view.running(&choice)?;
                live.extend(jobs.into_iter().map(|job| Row::of(view, job)));
            }
            let ended = page.items.into_iter().filter(|job| job.ended_at.is_some());
            Ok((live, ended.collect::<Vec<_>>(), page.next))
        })
        .await?;
    let content = html! {
        h1 { "Jobs" }
        (filter.form())
        section aria-labelledby="running" {
            h2 #running { "Running" }
            div #live data-live="" { (running(&live)) }
            p.visually-hidden role="status" data-live-told="" {}
        }
        section aria-labelledby="history" {
            h2 #history { "History" }
            div #ended data-live="" {
                @if ended.is_empty() { p.quiet { "No job has ended that fits." } } @else { (history(&ended)) }
                @if let Some(next) = &next {
                    p { a href=(filter.next(next)) rel="next" { "Older jobs" } }
                }
            }
        }
    };
    Ok(frame.answer(StatusCode::OK, &content))
}

fn took(job: &JobAnswer) -> String {
    job.ended_at.map_or_else(String::new, |ended| {
        Age(seconds_between(job.began_at, ended)).to_string()
    })
}

fn history(ended: &[JobAnswer]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Jobs that have ended" {
            table {
                caption { "Jobs that have ended, the newest first" }
                thead {
                    tr {
                        th scope="col" { "Kind" } th scope="col" { "About" } th scope="col" { "State" }
                        th scope="col" { "Ended" } th.number scope="col" { "Took" } th scope="col" { "Reason" }
                    }
                }
                tbody {
                    @for job in ended {
                        tr {
                            th scope="row" { a href={ "/jobs/" (job.id) } { (job.kind) } }
                            td { (subject(job)) }
                            td { (badge(job)) }
                            td { @if let Some(ended) = job.ended_at { (at(ended)) } }
                            td.number { (took(job)) }
                            td.wrap { @if let Some(reason) = &job.reason { (spelling::text(reason)) } }
                        }
                    }
                }
            }
        }
    }
}

/// One job in full.
pub(super) async fn show(call: Call) -> Answer {
    let row = call
        .work(|call| api::job::find(call, |view, id| Ok(Row::of(view, view.job(id)?))))
        .await?;
    let job = &row.job;
    let title = format!("Job: {}", job.kind);
    let frame = Frame::of(&call, title.clone(), Place::Jobs);
    let above = [("/jobs".to_owned(), html! { "Jobs" })];
    let content = html! {
        (crumbs(&above, &html! { (job.kind) }))
        h1 { (title) }
        div #live data-live="" {
            dl.facts {
                div { dt { "State" } dd { (badge(job)) @if let Some(result) = &job.result { " (" (result) ")" } } }
                div { dt { "About" } dd { (subject(job)) } }
                div { dt { "Repository" } dd { (job.repository) } }
                div { dt { "Began" } dd { (at(job.began_at)) } }
                @if let Some(ended) = job.ended_at { div { dt { "Ended" } dd { (at(ended)) ", after " (took(job)) } } }
                div { dt { "Id" } dd { code { (job.id) } } }
            }
            @if job.ended_at.is_none() { p { (progress(job)) } }
            (cancel_form(&row))
            h2 { "Log" }
            @match &job.reason {
                Some(reason) => pre.log tabindex="0" { (spelling::text(reason)) },
                None => p.quiet { "The job has reported nothing." },
            }
            h2 { "Disks" }
            @if job.disks.is_empty() { p.quiet { "The job lists no disk." } } @else { (disks(job)) }
        }
        p.visually-hidden role="status" data-live-told="" {}
    };
    Ok(frame.answer(StatusCode::OK, &content))
}

fn disks(job: &JobAnswer) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Disks of the job" {
            table {
                thead {
                    tr { th scope="col" { "Disk" } th.number scope="col" { "Done" } th.number scope="col" { "Of" } th.number scope="col" { "Stored" } }
                }
                tbody {
                    @for disk in &job.disks {
                        tr {
                            th scope="row" { (disk.name) }
                            td.number { (bytes(disk.done_bytes)) }
                            td.number { @if let Some(total) = disk.total_bytes { (bytes(total)) } }
                            td.number { @if let Some(stored) = disk.stored_bytes { (bytes(stored)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Asks a job to stop, and shows it.
pub(super) async fn cancel(call: Call) -> Answer {
    let job = call.work(api::job::stop).await?;
    let to = HeaderValue::from_str(&format!("/jobs/{}", job.id));
    let to = to.unwrap_or(HeaderValue::from_static("/jobs"));
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response())
}
