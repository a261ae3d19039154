//! What the lists of jobs share: which jobs are shown, and how a running one is.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{JobKind, Jobs};
use crate::error::{Error, Result};
use crate::repo::job::kind_of;
use crate::repo::{Job, JobResult};
use crate::task::{TaskDisk, TaskKind, TaskReport};
use crate::types::VmName;

/// Which jobs are shown.
pub(super) struct Filter {
    vm: Option<String>,
    kind: Option<&'static str>,
    failed: bool,
}

impl Filter {
    pub(super) fn parse(args: &Jobs) -> Result<Self> {
        let vm = args.vm.as_deref().map(VmName::new).transpose()?;
        Ok(Self {
            vm: vm.map(|vm| vm.folded()),
            kind: args.kind.map(|kind| kind_of(kind.into())),
            failed: args.failed,
        })
    }

    fn wants(&self, kind: &str, vm: Option<&VmName>) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && (self.vm.is_none() || self.vm == vm.map(VmName::folded))
    }

    pub(super) fn wants_job(&self, job: &Job) -> bool {
        let failed = matches!(job.result, JobResult::Failed | JobResult::Expired);
        self.wants(&job.kind, job.vm.as_ref()) && (failed || !self.failed)
    }

    /// Whether a running task is shown.
    pub(super) fn wants_task(&self, task: &TaskReport) -> bool {
        let subject = &task.subject;
        self.wants(kind_of(subject.kind), subject.vm.as_ref()) && !self.failed
    }
}

impl From<JobKind> for TaskKind {
    fn from(kind: JobKind) -> Self {
        match kind {
            JobKind::Ingest => Self::Backup,
            JobKind::Forget => Self::Forget,
            JobKind::Merge => Self::Merge,
            JobKind::Verify => Self::Verify,
            JobKind::Restore => Self::Restore,
            JobKind::Copy => Self::Copy,
            JobKind::RebuildCatalog => Self::RebuildCatalog,
            JobKind::EmptyTrash => Self::EmptyTrash,
        }
    }
}

pub(super) fn encode(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::invalid("the answer cannot be encoded").caused_by(e))
}

/// A running task with the members of a line of the history; `result` and `ended_at` are `null`.
pub(super) fn running(task: &TaskReport) -> Result<Value> {
    let subject = &task.subject;
    encode(&json!({
        "job_id": task.id, "kind": kind_of(subject.kind), "vm": subject.vm, "session": subject.session,
        "point": subject.point, "result": null, "reason": task.reason, "began_at": task.began_at, "ended_at": null,
        "disks": task.disks, "cancellable": task.cancellable,
    }))
}

/// Bytes that are done, and bytes in all.
pub(super) fn progress(task: &TaskReport) -> (u64, u64) {
    let sum = |of: fn(&TaskDisk) -> u64| task.disks.iter().map(of).sum();
    (sum(|disk| disk.done_bytes), sum(|disk| disk.total_bytes))
}

/// `45`; `-` where nothing is known.
pub(super) fn percent(done: u64, total: u64) -> String {
    match total {
        0 => "-".to_owned(),
        total => (u128::from(done) * 100 / u128::from(total)).to_string(),
    }
}

/// A time as it stands in tables (UTC).
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
