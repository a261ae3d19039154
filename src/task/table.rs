//! The tasks of a process: the running ones, and the last ones that have ended.
//!
//! # Concurrency
//! The table's mutex is held to record and to look up, never while a task works.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Monitor, TaskReport, TaskState, TaskSubject};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::types::JobId;
use crate::types::sync::Mutex;

/// LIMIT: ended tasks that are still shown (about 500 bytes each); the job history keeps all of them.
const ENDED_MAX: usize = 1_000;

/// A running task.
struct Running {
    id: JobId,
    subject: TaskSubject,
    began_at: Timestamp,
    cancellable: bool,
    monitor: Monitor,
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
            disks: Vec::new(),
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
        let monitor = Monitor::default();
        let task = Running {
            id: JobId::random(),
            subject,
            began_at: self.clock.now(),
            cancellable,
            monitor: monitor.clone(),
        };
        let (id, report) = (task.id, task.report());
        self.tasks.lock().running.push(task);
        let ender = Ender { table: self, id };
        changed(&report);
        let result = work(&monitor);
        let (state, reason) = match &result {
            Ok(_) => (TaskState::Completed, None),
            Err(e) if e.kind() == ErrorKind::Cancelled => (TaskState::Cancelled, None),
            Err(e) => (TaskState::Failed, Some(e.report())),
        };
        if let Some(report) = self.end(id, state, reason) {
            changed(&report);
        }
        drop(ender);
        result
    }

    fn end(&self, id: JobId, state: TaskState, reason: Option<String>) -> Option<TaskReport> {
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
            return Err(Error::not_found(format!("no task {id} is being done")));
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::TaskTable;
    use crate::clock::ManualClock;
    use crate::error::{Error, ErrorKind, Result};
    use crate::task::{TaskKind, TaskReport, TaskState, TaskSubject};
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
