//! `restorefs jobs`: shows what runs, as far as a daemon knows, and the history of what has ended, which needs none.

use std::ops::ControlFlow;

use super::args::Jobs;
use super::cancel::short_id;
use super::context::Context;
use super::job::{Filter, encode, percent, progress, running, time};
use crate::control::{Client, SHORT_PATIENCE};
use crate::error::Result;
use crate::repo::Job;
use crate::repo::job::kind_of;
use crate::service::Service;
use crate::task::TaskReport;
use crate::types::size::Human;

pub(super) fn run(context: &Context, args: &Jobs) -> Result<()> {
    let filter = Filter::parse(args)?;
    if args.follow {
        return super::follow::run(context, &filter);
    }
    let repository = context.repository()?;
    let tasks = match Client::connect_within(&repository, Some(SHORT_PATIENCE)) {
        Ok(Some(client)) => client.tasks(),
        Ok(None) => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    let mut tasks = tasks.unwrap_or_else(|e| {
        let report = e.report();
        context
            .output
            .warn(format!("what runs is not shown: {report}"));
        Vec::new()
    });
    tasks.retain(|task| !task.state.is_end() && filter.wants_task(task));
    let mut jobs: Vec<Job> = Vec::new();
    repository.jobs(|job| {
        if filter.wants_job(&job) {
            jobs.push(job);
        }
        if args.number > 0 && jobs.len() >= args.number {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if context.output.json {
        let ended = jobs.iter().map(encode);
        let all = tasks.iter().map(running).chain(ended);
        return context.output.json(&all.collect::<Result<Vec<_>>>()?);
    }
    if !tasks.is_empty() {
        let rows: Vec<Vec<String>> = tasks.iter().map(running_row).collect();
        let heading = [
            "ID", "SINCE", "KIND", "VM", "SESSION", "POINT", "DONE", "OF", "%",
        ];
        context
            .output
            .table(&heading, &["DONE", "OF", "%"], &rows)?;
        context.output.line("")?;
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    context.output.table(
        &[
            "ID", "ENDED", "KIND", "VM", "SESSION", "RESULT", "POINT", "RECEIVED", "STORED",
            "REASON",
        ],
        &["RECEIVED", "STORED"],
        &rows,
    )
}

fn name(name: Option<impl ToString>) -> String {
    name.map_or_else(|| "-".to_owned(), |name| name.to_string())
}

fn running_row(task: &TaskReport) -> Vec<String> {
    let subject = &task.subject;
    let (done, total) = progress(task);
    vec![
        short_id(task.id),
        time(task.began_at),
        kind_of(subject.kind).to_owned(),
        name(subject.vm.as_ref()),
        name(subject.session.as_ref()),
        name(subject.point.as_ref()),
        Human(done).to_string(),
        Human(total).to_string(),
        percent(done, total),
    ]
}

fn row(job: &Job) -> Vec<String> {
    let received = job.disks.iter().map(|disk| disk.received_bytes).sum();
    let stored = job.disks.iter().map(|disk| disk.stored_bytes).sum();
    vec![
        short_id(job.job_id),
        time(job.ended_at),
        job.kind.clone(),
        name(job.vm.as_ref()),
        name(job.session.as_ref()),
        job.result.as_str().to_owned(),
        name(job.point.as_ref()),
        Human(received).to_string(),
        Human(stored).to_string(),
        job.reason.clone().unwrap_or_default(),
    ]
}
