//! Jobs that the history does not have yet: of processes that do not hold the lock, and of tasks that run.
//!
//! # On-disk layout
//! `jobs/late/<job_id>.json`: a job that has ended; any process writes it. `jobs/running/<job_id>.json`: a task of the
//! owner, written when it begins and removed when its line is in the history. Each holds one line of the history.
//!
//! # Invariants
//! - The owner turns both into lines: what is in `running/` when it takes the lock was cut off.
//! - A crash after the line and before the removal writes no second line, unless very many lines came after it.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::Owner;
use super::job::{Job, LINE_BYTES_MAX, parse_line};
use super::layout;
use super::repository::{Repository, absent_is_empty};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Key, PutMode};
use crate::types::JobId;
use crate::types::width::u64_from_usize;

/// Suffix of the files' names.
const SUFFIX: &str = ".json";
/// LIMIT: files of processes without the lock; a command that fails every minute fills no disk.
const LATE_MAX: usize = 1_000;
/// LIMIT: lines of the history that are searched for a job.
const SEARCHED_MAX: usize = 2_000;

fn late() -> Result<Key> {
    layout::jobs()?.join("late")
}

fn running() -> Result<Key> {
    layout::jobs()?.join("running")
}

fn key(prefix: &Key, id: JobId) -> Result<Key> {
    prefix.join(&format!("{id}{SUFFIX}"))
}

impl Repository {
    /// Records a job that has ended, without the lock; the next owner moves it to the history.
    ///
    /// # Errors
    /// `LimitExceeded`, `PermissionDenied`, `ReadOnly`, `NoSpace`, `Io`.
    pub fn keep_late(&self, job: &Job) -> Result<()> {
        let prefix = late()?;
        if self.unwritten(&prefix)?.len() >= LATE_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("{LATE_MAX} jobs wait for the next owner of the lock"),
            ));
        }
        let key = key(&prefix, job.job_id)?;
        self.store().put(&key, &job.encode()?, PutMode::Create)
    }

    /// The jobs that wait for the next owner, the newest first.
    pub(super) fn late_jobs(&self) -> Result<Vec<Job>> {
        let keys = self.unwritten(&late()?)?;
        let mut jobs: Vec<Job> = keys.iter().filter_map(|key| self.read(key)).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.ended_at));
        Ok(jobs)
    }

    fn unwritten(&self, prefix: &Key) -> Result<Vec<Key>> {
        let entries = absent_is_empty(self.store().list(prefix))?;
        let names = entries.iter().filter(|entry| {
            let id = entry.name.strip_suffix(SUFFIX);
            !entry.is_prefix && id.is_some_and(|id| id.parse::<JobId>().is_ok())
        });
        names.map(|entry| prefix.join(&entry.name)).collect()
    }

    /// The job in a file; `None` when it cannot be read, or is gone meanwhile.
    fn read(&self, key: &Key) -> Option<Job> {
        let bytes = self.store().get(key, u64_from_usize(LINE_BYTES_MAX)).ok()?;
        parse_line(key.as_str(), bytes.trim_ascii_end())
    }

    /// Ids of the newest jobs in the history.
    fn written(&self) -> Result<HashSet<JobId>> {
        let mut ids = HashSet::new();
        self.written_jobs(|job| {
            ids.insert(job.job_id);
            match ids.len() < SEARCHED_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(ids)
    }
}

impl Owner {
    /// Records that a task runs. Without the record a crash loses its line, and nothing else.
    pub fn note_running(&self, job: &Job) {
        let noted = running().and_then(|prefix| {
            let key = key(&prefix, job.job_id)?;
            let store = self.repository().store();
            store.put(&key, &job.encode()?, PutMode::Replace)
        });
        if let Err(e) = noted {
            tracing::info!(job = %job.job_id, error = %e.report(), "a crash would lose the end of this task");
        }
    }

    /// Removes the record of a running task, whose line is in the history.
    pub fn note_not_running(&self, id: JobId) {
        // Nothing goes while the repository is copied: the next owner removes it.
        let Ok(_change) = self.holds.enter() else {
            return;
        };
        let removed = running().and_then(|prefix| {
            let key = key(&prefix, id)?;
            self.repository().store().delete(&key)
        });
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::info!(job = %id, error = %e.report(), "the record of a task that has ended is left over");
            }
            _ => {}
        }
    }

    /// Moves the jobs of other processes to the history. Failures are logged, and the jobs stay for another time.
    pub fn take_in_late_jobs(&self) {
        // Nothing goes while the repository is copied.
        let Ok(_change) = self.holds.enter() else {
            return;
        };
        if let Err(e) = late().and_then(|prefix| self.take_in(&prefix, |_| ())) {
            tracing::warn!(error = %e.report(), "jobs of other processes could not be moved to the history");
        }
    }

    /// Writes the lines of tasks that a crash cut off. For the process that has just taken the lock.
    pub(super) fn take_in_interrupted_jobs(&self) {
        let now = self.clock().now();
        let interrupt = |job: &mut Job| job.ended_at = now.max(job.began_at);
        if let Err(e) = running().and_then(|prefix| self.take_in(&prefix, interrupt)) {
            tracing::warn!(error = %e.report(), "tasks that were cut off could not be written to the history");
        }
    }

    fn take_in(&self, prefix: &Key, change: impl Fn(&mut Job)) -> Result<()> {
        let keys = self.repository().unwritten(prefix)?;
        if keys.is_empty() {
            return Ok(());
        }
        let written = self.repository().written()?;
        for key in keys {
            // What cannot be read is no job of anybody.
            if let Some(mut job) = self.repository().read(&key)
                && !written.contains(&job.job_id)
            {
                change(&mut job);
                self.append_job(&job)?;
            }
            self.repository().store().delete(&key)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use super::{LATE_MAX, key, late, running};
    use crate::clock::{Clock, ManualClock};
    use crate::error::ErrorKind;
    use crate::repo::job::append;
    use crate::repo::{Job, Owner, Repository};
    use crate::store::{MemoryStore, PutMode, Store};
    use crate::task::{TaskKind, TaskReport, TaskState, TaskSubject};
    use crate::types::JobId;

    fn repository(clock: &ManualClock) -> (MemoryStore, Arc<Repository>) {
        let store = MemoryStore::new();
        let shared = Arc::new(store.clone());
        let repository = Repository::init_store(shared.clone(), shared, clock.now()).unwrap();
        (store, Arc::new(repository))
    }

    fn failed(reason: &str, clock: &ManualClock) -> Job {
        let now = clock.now();
        Job::of_failure(TaskKind::Backup, None, reason, now, now)
    }

    fn reasons(repository: &Repository) -> Vec<String> {
        let mut reasons = Vec::new();
        repository
            .jobs(|job| {
                reasons.push(job.reason.unwrap_or_default());
                ControlFlow::Continue(())
            })
            .unwrap();
        reasons
    }

    fn left(store: &MemoryStore) -> usize {
        let of = |prefix| Store::list(store, &prefix).map_or(0, |entries| entries.len());
        of(late().unwrap()) + of(running().unwrap())
    }

    #[test]
    fn what_waits_is_shown_at_once_and_moved_by_the_next_owner() {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let (store, repository) = repository(&clock);
        append(&repository, &failed("old", &clock)).unwrap();
        clock.advance(1);
        repository.keep_late(&failed("first", &clock)).unwrap();
        clock.advance(1);
        let second = failed("second", &clock);
        repository.keep_late(&second).unwrap();
        assert_eq!(reasons(&repository), ["second", "first", "old"]);
        // A crash came between the line and the removal.
        append(&repository, &second).unwrap();
        // What is no job is nobody's.
        let broken = key(&late().unwrap(), JobId::random()).unwrap();
        Store::put(&store, &broken, b"{", PutMode::Create).unwrap();
        let owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        assert_eq!(left(&store), 0);
        assert_eq!(reasons(&repository), ["first", "second", "old"]);
        // A daemon moves them while it runs.
        repository.keep_late(&failed("third", &clock)).unwrap();
        owner.take_in_late_jobs();
        assert_eq!((left(&store), reasons(&repository).len()), (0, 4));
    }

    #[test]
    fn a_command_that_always_fails_fills_no_disk() {
        let clock = ManualClock::at(0);
        let (_, repository) = repository(&clock);
        for _ in 0..LATE_MAX {
            repository.keep_late(&failed("x", &clock)).unwrap();
        }
        let error = repository.keep_late(&failed("x", &clock)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn a_task_that_a_crash_cut_off_has_a_line_and_one_that_ended_has_one_only() {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let (store, repository) = repository(&clock);
        let report = |kind| TaskReport {
            id: JobId::random(),
            subject: TaskSubject {
                kind,
                vm: None,
                session: None,
                point: None,
            },
            state: TaskState::Running,
            reason: None,
            began_at: clock.now(),
            ended_at: None,
            disks: Vec::new(),
            cancellable: false,
        };
        let (cut, ended, between) = (
            report(TaskKind::Forget),
            report(TaskKind::Merge),
            report(TaskKind::EmptyTrash),
        );
        let owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        for task in [&cut, &ended, &between] {
            owner.note_running(&Job::of_interrupted(task));
        }
        for task in [&ended, &between] {
            owner.keep_job(&failed_task(task, &clock));
        }
        owner.note_not_running(ended.id);
        assert_eq!(left(&store), 2);
        // What runs is not shown as failed.
        assert_eq!(reasons(&repository).len(), 2);
        drop(owner);
        clock.advance(60);
        let _owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        assert_eq!(left(&store), 0);
        let mut jobs = Vec::new();
        let see = |job: Job| {
            jobs.push(job);
            ControlFlow::Continue(())
        };
        repository.jobs(see).unwrap();
        assert_eq!(jobs.len(), 3);
        assert_eq!((jobs[0].job_id, jobs[0].kind.as_str()), (cut.id, "forget"));
        assert!(jobs[0].reason.as_ref().unwrap().starts_with("interrupted"));
        assert_eq!(
            (jobs[0].began_at, jobs[0].ended_at),
            (cut.began_at, clock.now())
        );
    }

    fn failed_task(task: &TaskReport, clock: &ManualClock) -> Job {
        Job {
            job_id: task.id,
            ..failed("full", clock)
        }
    }
}
