//! Jobs: what runs, and what has ended.

use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::View;
use super::page::{Page, Slice, bad_cursor};
use crate::access::Right;
use crate::error::Result;
use crate::repo::job::kind_of;
use crate::repo::{Job, JobResult};
use crate::task::{TaskReport, no_such_task};
use crate::types::{DiskName, JobId, PointName, RepositoryName, VmName};

/// LIMIT: lines of the history that one request reads.
const SCANNED_MAX: usize = 100_000;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for its turn.
    Pending,
    /// It is running.
    Running,
    /// It has done what it was asked for.
    Completed,
    /// It has failed.
    Failed,
    /// It was stopped on request.
    Cancelled,
}

impl JobState {
    const fn of_result(result: JobResult) -> Self {
        match result {
            JobResult::Committed | JobResult::Completed => Self::Completed,
            JobResult::Aborted | JobResult::Cancelled => Self::Cancelled,
            JobResult::Expired | JobResult::Failed => Self::Failed,
        }
    }

    const fn of_task(state: crate::task::TaskState) -> Self {
        use crate::task::TaskState;
        match state {
            TaskState::Pending => Self::Pending,
            TaskState::Running => Self::Running,
            TaskState::Completed => Self::Completed,
            TaskState::Failed => Self::Failed,
            TaskState::Cancelled => Self::Cancelled,
        }
    }

    /// The spelling in requests.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pending" => Some(Self::Pending),
            "running" => Some(Self::Running),
            "completed" => Some(Self::Completed),
            "failed" => Some(Self::Failed),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobAnswer {
    /// Its id, from its beginning and for ever.
    pub id: JobId,
    /// The repository.
    pub repository: RepositoryName,
    /// `ingest`, `forget`, `merge`, `verify`, `restore`, `repair`, `copy`, `rebuild-catalog`, `empty-trash`.
    pub kind: String,
    /// Its state.
    pub state: JobState,
    /// How it ended in the kind's own words: `committed`, `aborted`, `expired`, ...; `null` while it runs.
    pub result: Option<String>,
    /// Why it ended as it did.
    pub reason: Option<String>,
    /// The VM.
    pub vm: Option<VmName>,
    /// The session.
    pub session: Option<PointName>,
    /// The restore point.
    pub point: Option<PointName>,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its disks.
    pub disks: Vec<JobDiskAnswer>,
    /// Whether it can be stopped.
    pub cancellable: bool,
}

/// A disk of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobDiskAnswer {
    /// Its name.
    pub name: DiskName,
    /// Bytes done; of a session that has ended, bytes received.
    pub done_bytes: u64,
    /// Bytes in all; `null` when the job has ended.
    pub total_bytes: Option<u64>,
    /// Bytes written to the layer, of a session that has ended.
    pub stored_bytes: Option<u64>,
}

/// Which jobs are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobChoice {
    /// Those of a VM.
    pub vm: Option<VmName>,
    /// Those of a kind, in the spelling of answers.
    pub kind: Option<String>,
    /// Those in a state.
    pub state: Option<JobState>,
}

impl JobChoice {
    fn wants(&self, job: &JobAnswer) -> bool {
        let is_vm = |vm: &VmName| job.vm.as_ref().is_some_and(|own| own.same_as(vm));
        self.vm.as_ref().is_none_or(is_vm)
            && self.kind.as_ref().is_none_or(|kind| *kind == job.kind)
            && self.state.is_none_or(|state| state == job.state)
    }
}

impl JobAnswer {
    fn of_task(repository: &RepositoryName, task: &TaskReport) -> Self {
        let disks = task.disks.iter().map(|disk| JobDiskAnswer {
            name: disk.name.clone(),
            done_bytes: disk.done_bytes,
            total_bytes: Some(disk.total_bytes),
            stored_bytes: None,
        });
        Self {
            id: task.id,
            repository: repository.clone(),
            kind: kind_of(task.subject.kind).to_owned(),
            state: JobState::of_task(task.state),
            result: None,
            reason: task.reason.clone(),
            vm: task.subject.vm.clone(),
            session: task.subject.session.clone(),
            point: task.subject.point.clone(),
            began_at: task.began_at,
            ended_at: task.ended_at,
            disks: disks.collect(),
            cancellable: task.cancellable,
        }
    }

    fn of_job(repository: &RepositoryName, job: Job) -> Self {
        let disks = job.disks.into_iter().map(|disk| JobDiskAnswer {
            name: disk.name,
            done_bytes: disk.received_bytes,
            total_bytes: None,
            stored_bytes: Some(disk.stored_bytes),
        });
        Self {
            id: job.job_id,
            repository: repository.clone(),
            kind: job.kind,
            state: JobState::of_result(job.result),
            result: Some(job.result.as_str().to_owned()),
            reason: job.reason,
            vm: job.vm,
            session: job.session,
            point: job.point,
            began_at: job.began_at,
            ended_at: Some(job.ended_at),
            disks: disks.collect(),
            cancellable: false,
        }
    }

    /// The place of an ended job in the list of all.
    fn cursor(&self) -> String {
        let ended = self.ended_at.unwrap_or(self.began_at).as_nanosecond();
        format!("{ended}.{}", self.id)
    }

    /// The order of the list: what runs first, then the newest first.
    fn rank(&self) -> (bool, std::cmp::Reverse<i128>, JobId) {
        let at = self.ended_at.unwrap_or(self.began_at);
        (
            self.ended_at.is_some(),
            std::cmp::Reverse(at.as_nanosecond()),
            self.id,
        )
    }
}

/// The position after an ended job.
struct After {
    ended: i128,
    id: JobId,
}

impl After {
    fn parse(text: &str) -> Result<Self> {
        let (ended, id) = text.split_once('.').ok_or_else(bad_cursor)?;
        Ok(Self {
            ended: ended.parse().map_err(|_| bad_cursor())?,
            id: id.parse().map_err(|_| bad_cursor())?,
        })
    }

    fn is_before(&self, job: &Job) -> bool {
        let ended = job.ended_at.as_nanosecond();
        (std::cmp::Reverse(self.ended), self.id) < (std::cmp::Reverse(ended), job.job_id)
    }
}

impl View {
    /// Whether the caller sees work on this VM, or, without a VM, on the repository.
    fn sees(&self, vm: Option<&VmName>) -> bool {
        match vm {
            Some(vm) => self.may(Right::Read, vm),
            None => self.may_all(Right::Read),
        }
    }

    /// A task of this repository as a job.
    #[must_use]
    pub fn of_task(&self, task: &TaskReport) -> JobAnswer {
        JobAnswer::of_task(self.name(), task)
    }

    /// What runs.
    ///
    /// # Errors
    /// None of its own.
    pub fn running(&self, choice: &JobChoice) -> Result<Vec<JobAnswer>> {
        let tasks = self.service().tasks()?;
        let running = tasks.iter().filter(|task| !task.state.is_end());
        let seen = running.filter(|task| self.sees(task.subject.vm.as_ref()));
        let jobs = seen.map(|task| JobAnswer::of_task(self.name(), task));
        Ok(jobs.filter(|job| choice.wants(job)).collect())
    }

    /// A page of the jobs: on the first page what runs comes first.
    ///
    /// # Errors
    /// `InvalidInput` (the cursor); `Io`.
    pub fn jobs(&self, choice: &JobChoice, slice: &Slice) -> Result<Page<JobAnswer>> {
        jobs_of(std::slice::from_ref(self), choice, slice)
    }

    fn ended(
        &self,
        choice: &JobChoice,
        after: Option<&After>,
        most: usize,
    ) -> Result<Vec<JobAnswer>> {
        let mut jobs = Vec::new();
        let mut scanned = 0;
        self.repository().jobs(|job| {
            scanned += 1;
            let is_next = after.is_none_or(|after| after.is_before(&job));
            if is_next && self.sees(job.vm.as_ref()) {
                let job = JobAnswer::of_job(self.name(), job);
                if choice.wants(&job) {
                    jobs.push(job);
                }
            }
            match jobs.len() < most && scanned < SCANNED_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(jobs)
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    pub fn job(&self, id: JobId) -> Result<JobAnswer> {
        let tasks = self.service().tasks()?;
        let is_it = |task: &&TaskReport| task.id == id && !task.state.is_end();
        if let Some(task) = tasks.iter().find(is_it)
            && self.sees(task.subject.vm.as_ref())
        {
            return Ok(JobAnswer::of_task(self.name(), task));
        }
        self.repository()
            .newest_job(SCANNED_MAX, |job| job.job_id == id)?
            .filter(|job| self.sees(job.vm.as_ref()))
            .map(|job| JobAnswer::of_job(self.name(), job))
            .ok_or_else(|| no_such_task(id))
    }
}

/// A page of the jobs of several repositories.
///
/// # Errors
/// `InvalidInput` (the cursor); `Io`.
pub fn jobs_of(views: &[View], choice: &JobChoice, slice: &Slice) -> Result<Page<JobAnswer>> {
    let after = slice.after.as_deref().map(After::parse).transpose()?;
    let mut jobs = Vec::new();
    for view in views {
        if after.is_none() {
            jobs.extend(view.running(choice)?);
        }
        jobs.extend(view.ended(choice, after.as_ref(), slice.limit + 1)?);
    }
    jobs.sort_by_key(JobAnswer::rank);
    // What runs is on the first page, however much it is: it has no place in the history yet.
    let running = jobs.iter().take_while(|job| job.ended_at.is_none()).count();
    let whole = Slice {
        after: None,
        limit: slice.limit.max(running),
    };
    Ok(whole.cut(jobs, JobAnswer::cursor))
}
