//! `restorefs jobs`: shows the history of ended sessions; needs no daemon.

use std::ops::ControlFlow;

use super::args::Jobs;
use super::context::Context;
use crate::error::Result;
use crate::repo::Job;
use crate::types::VmName;
use crate::types::size::Human;

pub(super) fn run(context: &Context, args: &Jobs) -> Result<()> {
    let vm = args.vm.as_deref().map(VmName::new).transpose()?;
    let repository = context.repository()?;
    let mut jobs: Vec<Job> = Vec::new();
    repository.jobs(|job| {
        let folded = job.vm.as_ref().map(VmName::folded);
        let is_asked = vm.is_none() || vm.as_ref().map(VmName::folded) == folded;
        if is_asked {
            jobs.push(job);
        }
        if args.number > 0 && jobs.len() >= args.number {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if context.output.json {
        return context.output.json(&jobs);
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    context.output.table(
        &[
            "ENDED", "KIND", "VM", "SESSION", "RESULT", "POINT", "RECEIVED", "STORED", "REASON",
        ],
        &["RECEIVED", "STORED"],
        &rows,
    )
}

fn row(job: &Job) -> Vec<String> {
    let name = |name: &Option<crate::types::PointName>| {
        name.as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let received = job.disks.iter().map(|disk| disk.received_bytes).sum();
    let stored = job.disks.iter().map(|disk| disk.stored_bytes).sum();
    let reason = job.reason.as_deref().unwrap_or_default();
    vec![
        job.ended_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        job.kind.clone(),
        job.vm
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string),
        name(&job.session),
        job.result.as_str().to_owned(),
        name(&job.point),
        Human(received).to_string(),
        Human(stored).to_string(),
        reason.to_owned(),
    ]
}
