//! Jobs that the history does not have yet: of processes that do not hold the lock, and of tasks that run.
//!
//! # On-disk layout
//! `jobs/late/<job_id>.json`: a job that has ended; any process writes it. `jobs/running/<job_id>.json`: a task of the
//! owner, written when it begins and removed when its line is in the history (after a hold, if there is one). Each holds one line of the
//! history.
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
/// LIMIT: tasks that have ended and whose records stay for another time (a hold may last for hours).
const ENDED_MAX: usize = 1_000;
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
        self.late_jobs_but(&HashSet::new())
    }

    /// [`Repository::late_jobs`] without those that the caller knows, which are not read.
    pub(super) fn late_jobs_but(&self, known: &HashSet<JobId>) -> Result<Vec<Job>> {
        let keys = self.unwritten(&late()?)?;
        let others = keys.iter().filter(|(id, _)| !known.contains(id));
        let mut jobs: Vec<Job> = others.filter_map(|(_, key)| self.read(key)).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.ended_at));
        Ok(jobs)
    }

    /// Ids of the jobs that wait for the next owner; nothing of them is read.
    pub(super) fn late_ids(&self) -> Result<HashSet<JobId>> {
        let keys = self.unwritten(&late()?)?;
        Ok(keys.into_iter().map(|(id, _)| id).collect())
    }

    fn unwritten(&self, prefix: &Key) -> Result<Vec<(JobId, Key)>> {
        let entries = absent_is_empty(self.store().list(prefix))?;
        let ids = entries.iter().filter_map(|entry| {
            let id = entry.name.strip_suffix(SUFFIX)?.parse::<JobId>().ok()?;
            (!entry.is_prefix).then_some((id, &entry.name))
        });
        ids.map(|(id, name)| Ok((id, prefix.join(name)?))).collect()
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

    /// Removes the record of a running task, whose line is in the history, and the records that could not be removed before.
    pub fn note_not_running(&self, id: JobId) {
        let mut ended = self.ended.lock();
        match ended.len() {
            0..ENDED_MAX => ended.push(id),
            _ => {
                tracing::info!(job = %id, "the next owner removes the record of a task that has ended")
            }
        }
        drop(ended);
        self.remove_ended();
    }

    /// Removes the records of tasks that have ended. Those that cannot be removed stay for another time.
    pub fn remove_ended(&self) {
        // Nothing goes while the repository is copied.
        let Ok(_change) = self.holds.enter() else {
            return;
        };
        let remove = |id: JobId| {
            let key = key(&running()?, id)?;
            self.repository().store().delete(&key)
        };
        self.ended.lock().retain(|id| match remove(*id) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::info!(job = %id, error = %e.report(), "the record of a task that has ended is left over for now");
                true
            }
            _ => false,
        });
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
        for (_, key) in keys {
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

    use super::{ENDED_MAX, LATE_MAX, key, late, running};
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
        // A crash came between the line and the removal. It is one job meanwhile, too.
        append(&repository, &second).unwrap();
        assert_eq!(reasons(&repository), ["second", "first", "old"]);
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

    fn report(kind: TaskKind, clock: &ManualClock) -> TaskReport {
        TaskReport {
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
        }
    }

    #[test]
    fn records_of_tasks_that_end_during_a_hold_go_after_it() {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let (store, repository) = repository(&clock);
        let owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        let run = || {
            let task = report(TaskKind::Verify, &clock);
            owner.note_running(&Job::of_interrupted(&task));
            owner.keep_job(&failed_task(&task, &clock));
            owner.note_not_running(task.id);
        };
        let held = || {
            let hold = owner.hold_still("a copy").unwrap();
            run();
            run();
            owner.remove_ended();
            assert_eq!(left(&store), 2);
            drop(hold);
        };
        // The next look of the owner, and the next task that ends.
        held();
        owner.remove_ended();
        assert_eq!(left(&store), 0);
        held();
        run();
        assert_eq!(left(&store), 0);
        assert_eq!(reasons(&repository).len(), 5);
        assert!(owner.ended.lock().is_empty());
        // Of very many, the rest is the next owner's.
        let hold = owner.hold_still("a copy").unwrap();
        for _ in 0..=ENDED_MAX {
            owner.note_not_running(JobId::random());
        }
        assert_eq!(owner.ended.lock().len(), ENDED_MAX);
        drop(hold);
        owner.remove_ended();
        assert!(owner.ended.lock().is_empty());
    }

    #[test]
    fn a_task_whose_end_waits_for_the_next_owner_was_not_cut_off() {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let (store, repository) = repository(&clock);
        let owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        let task = report(TaskKind::Merge, &clock);
        owner.note_running(&Job::of_interrupted(&task));
        drop(owner);
        repository.keep_late(&failed_task(&task, &clock)).unwrap();
        let _owner = Owner::open(Arc::clone(&repository), clock.clone(), "test").unwrap();
        assert_eq!(
            (left(&store), reasons(&repository)),
            (0, vec!["full".to_owned()])
        );
    }

    #[test]
    fn a_task_that_a_crash_cut_off_has_a_line_and_one_that_ended_has_one_only() {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let (store, repository) = repository(&clock);
        let (cut, ended, between) = (
            report(TaskKind::Forget, &clock),
            report(TaskKind::Merge, &clock),
            report(TaskKind::EmptyTrash, &clock),
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
