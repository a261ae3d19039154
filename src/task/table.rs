//! The tasks of a process: the running ones, and the last ones that have ended.
//!
//! # Concurrency
//! The table's mutex is held to record and to look up, never while a task works.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Monitor, TaskDisk, TaskReport, TaskRequest, TaskState, TaskSubject};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::types::JobId;
use crate::types::sync::Mutex;

/// LIMIT: ended tasks that are still shown (about 500 bytes each); the job history keeps all of them.
const ENDED_MAX: usize = 1_000;

/// LIMIT: how often the progress of a task is passed on.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(900);

/// A running task.
struct Running {
    id: JobId,
    subject: TaskSubject,
    began_at: Timestamp,
    cancellable: bool,
    monitor: Monitor,
    disks: Vec<TaskDisk>,
    /// When its progress was last passed on.
    passed_on_at: Option<Instant>,
}

impl Running {
    fn report(&self) -> TaskReport {
        TaskReport {
            id: self.id,
            subject: self.subject.clone(),
            state: TaskState::Running,
            reason: None,
            began_at: self.began_at,
            ended_at: None,
            disks: self.disks.clone(),
            cancellable: self.cancellable,
        }
    }
}

#[derive(Default)]
struct Tasks {
    running: Vec<Running>,
    ended: VecDeque<TaskReport>,
}

/// The tasks of a process.
pub struct TaskTable {
    clock: Arc<dyn Clock>,
    tasks: Mutex<Tasks>,
}

/// Ends a task as failed when its work panics, so that no task stays for ever.
struct Ender<'a> {
    table: &'a TaskTable,
    id: JobId,
}

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        let _ = self
            .table
            .end(self.id, TaskState::Failed, Some("interrupted".to_owned()));
    }
}

impl TaskTable {
    /// An empty table.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tasks: Mutex::default(),
        }
    }

    /// Runs a piece of work as a task. The table calls `changed` when the task has begun and when it has
    /// ended, the second time before the caller has the result. With `cancellable` the work checks its
    /// monitor.
    ///
    /// # Errors
    /// The error of the work.
    pub fn run<T>(
        &self,
        subject: TaskSubject,
        cancellable: bool,
        changed: &dyn Fn(&TaskReport),
        work: impl FnOnce(&Monitor) -> Result<T>,
    ) -> Result<T> {
        let began_at = self.clock.now();
        let (report, monitor) = self.add(subject, began_at, cancellable);
        let id = report.id;
        let ender = Ender { table: self, id };
        changed(&report);
        let result = work(&monitor);
        let (state, reason) = TaskState::of_result(&result);
        if let Some(report) = self.end(id, state, reason) {
            changed(&report);
        }
        drop(ender);
        result
    }

    fn add(
        &self,
        subject: TaskSubject,
        began_at: Timestamp,
        cancellable: bool,
    ) -> (TaskReport, Monitor) {
        let monitor = Monitor::default();
        let task = Running {
            id: JobId::random(),
            subject,
            began_at,
            cancellable,
            monitor: monitor.clone(),
            disks: Vec::new(),
            passed_on_at: None,
        };
        let report = task.report();
        self.tasks.lock().running.push(task);
        (report, monitor)
    }

    /// Begins a task whose work is done elsewhere: it can be stopped, and runs until [`TaskTable::end`].
    #[must_use]
    pub fn begin(&self, request: &TaskRequest) -> TaskReport {
        let now = self.clock.now();
        let began_at = request.began_at.map_or(now, |at| at.min(now));
        self.add(request.subject.clone(), began_at, true).0
    }

    /// Sets the progress of a running task. Returns whether the task is to stop, and the report when it is time to
    /// pass it on.
    ///
    /// # Errors
    /// `NotFound` when no task with that id is running.
    pub fn tell(&self, id: JobId, disks: &[TaskDisk]) -> Result<(bool, Option<TaskReport>)> {
        let mut tasks = self.tasks.lock();
        let mut running = tasks.running.iter_mut();
        let Some(task) = running.find(|task| task.id == id) else {
            return Err(no_such_task(id));
        };
        task.disks = disks.to_vec();
        let is_due = task
            .passed_on_at
            .is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
        let report = is_due.then(|| {
            task.passed_on_at = Some(Instant::now());
            task.report()
        });
        Ok((task.monitor.is_cancelled(), report))
    }

    /// Ends a running task; `None` when there is no such task.
    pub fn end(&self, id: JobId, state: TaskState, reason: Option<String>) -> Option<TaskReport> {
        let now = self.clock.now();
        let mut tasks = self.tasks.lock();
        let at = tasks.running.iter().position(|task| task.id == id)?;
        let report = TaskReport {
            state,
            reason,
            ended_at: Some(now),
            cancellable: false,
            ..tasks.running.remove(at).report()
        };
        if tasks.ended.len() >= ENDED_MAX {
            tasks.ended.pop_front();
        }
        tasks.ended.push_back(report.clone());
        Some(report)
    }

    /// Whether a task is running.
    #[must_use]
    pub fn is_running(&self, id: JobId) -> bool {
        self.tasks.lock().running.iter().any(|task| task.id == id)
    }

    /// All tasks: the running ones, then those that have ended, the newest first.
    #[must_use]
    pub fn reports(&self) -> Vec<TaskReport> {
        let tasks = self.tasks.lock();
        let running = tasks.running.iter().map(Running::report);
        running.chain(tasks.ended.iter().rev().cloned()).collect()
    }

    /// Asks a task to stop; it stops at its next piece of work.
    ///
    /// # Errors
    /// `NotFound` when no task with that id is running; `NotPermitted` when it cannot be stopped.
    pub fn cancel(&self, id: JobId) -> Result<()> {
        let tasks = self.tasks.lock();
        let Some(task) = tasks.running.iter().find(|task| task.id == id) else {
            return Err(no_such_task(id));
        };
        if !task.cancellable {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                format!(
                    "a task of the kind {} cannot be stopped half-way",
                    task.subject.kind.as_str()
                ),
            ));
        }
        task.monitor.cancel();
        Ok(())
    }
}

/// The error for a task that is not running.
pub fn no_such_task(id: JobId) -> Error {
    Error::not_found(format!("no task {id} is running"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use jiff::Timestamp;

    use super::TaskTable;
    use crate::clock::ManualClock;
    use crate::error::{Error, ErrorKind, Result};
    use crate::task::{TaskDisk, TaskKind, TaskReport, TaskRequest, TaskState, TaskSubject};
    use crate::types::DiskName;
    use crate::types::sync::Mutex;

    fn subject(kind: TaskKind) -> TaskSubject {
        TaskSubject {
            kind,
            vm: None,
            session: None,
            point: None,
        }
    }

    fn table() -> TaskTable {
        TaskTable::new(Arc::new(ManualClock::at(0)))
    }

    #[test]
    fn a_task_is_seen_while_it_works_and_after_it_has_ended() {
        let table = table();
        let reported = Mutex::new(Vec::new());
        let changed = |report: &TaskReport| reported.lock().push(report.state);
        let found = table.run(subject(TaskKind::Forget), false, &changed, |_| {
            let reports = table.reports();
            assert_eq!(reports[0].state, TaskState::Running);
            assert!(table.is_running(reports[0].id));
            let error = table.cancel(reports[0].id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotPermitted);
            Ok(7)
        });
        assert_eq!(found.unwrap(), 7);
        let failed: Result<()> = table.run(subject(TaskKind::Forget), false, &changed, |_| {
            Err(Error::new(ErrorKind::NoSpace, "full"))
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::NoSpace);
        let reports = table.reports();
        assert_eq!(reports[0].reason.as_deref(), Some("full"));
        assert_eq!(reports[1].state, TaskState::Completed);
        assert!(!table.is_running(reports[1].id));
        let states = reported.lock().clone();
        let (running, completed) = (TaskState::Running, TaskState::Completed);
        assert_eq!(states, [running, completed, running, TaskState::Failed]);
    }

    #[test]
    fn a_task_hears_that_it_is_to_stop() {
        let table = table();
        let (began, begin) = mpsc::channel();
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                table.run(
                    subject(TaskKind::RebuildCatalog),
                    true,
                    &|_| (),
                    |monitor| {
                        began.send(()).unwrap();
                        loop {
                            monitor.check()?;
                            std::thread::yield_now();
                        }
                    },
                )
            });
            begin.recv().unwrap();
            table.cancel(table.reports()[0].id).unwrap();
            let result: Result<()> = work.join().unwrap();
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
        });
        assert_eq!(table.reports()[0].state, TaskState::Cancelled);
        let gone = table.cancel(table.reports()[0].id).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_task_that_is_done_elsewhere_has_progress_and_is_told_to_stop() {
        let clock = Arc::new(ManualClock::at(100));
        let table = TaskTable::new(clock.clone());
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let begin = |began_at| {
            let subject = subject(TaskKind::Merge);
            table.begin(&TaskRequest { subject, began_at })
        };
        let early = begin(Some(at(40)));
        assert_eq!(early.began_at, at(40));
        assert_eq!(begin(Some(at(400))).began_at, at(100), "of the future");
        let disks = |done_bytes| {
            [TaskDisk {
                name: DiskName::new("vda").unwrap(),
                done_bytes,
                total_bytes: 9,
            }]
        };
        let (stop, first) = table.tell(early.id, &disks(1)).unwrap();
        assert!(!stop && first.is_some());
        table.cancel(early.id).unwrap();
        let (stop, second) = table.tell(early.id, &disks(2)).unwrap();
        assert!(stop && second.is_none(), "it was just passed on");
        assert_eq!(table.reports()[0].disks, disks(2));
        clock.advance(5);
        let ended = table.end(early.id, TaskState::Cancelled, None).unwrap();
        assert_eq!(
            (ended.ended_at, ended.disks),
            (Some(at(105)), disks(2).into())
        );
        assert!(table.end(early.id, TaskState::Failed, None).is_none());
        let gone = table.tell(early.id, &[]).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_task_whose_work_panics_has_failed() {
        let table = table();
        let work = std::panic::AssertUnwindSafe(|| {
            let _: Result<()> = table.run(subject(TaskKind::Forget), false, &|_| (), |_| {
                panic!("on purpose")
            });
        });
        assert!(std::panic::catch_unwind(work).is_err());
        let report = &table.reports()[0];
        assert_eq!(report.state, TaskState::Failed);
        assert_eq!(report.reason.as_deref(), Some("interrupted"));
    }
}
