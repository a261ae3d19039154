//! Long work of this command, as a task of the repository's owner: others see it, follow it and stop it.
//!
//! # Why
//! The work needs no lock, and the owner may come and go meanwhile: a daemon is looked for once a second. What cannot be
//! announced is done all the same.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::context::Context;
use super::failure;
use super::progress::Bar;
use crate::clock::{Clock, SystemClock};
use crate::control::{Client, SHORT_PATIENCE};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::{Job, Repository};
use crate::service::Service;
use crate::task::{
    DiskProgress, Monitor, TaskKind, TaskReport, TaskRequest, TaskState, TaskSubject,
};
use crate::types::{DiskName, JobId};

/// How often progress is reported, and a daemon is looked for where there was none.
const INTERVAL: Duration = Duration::from_secs(1);

/// Work of this command as a task.
pub(super) struct Announced<'a> {
    context: &'a Context,
    work: Arc<Work>,
    /// Stops the whole command.
    interrupt: Arc<AtomicBool>,
    reporter: RefCell<Option<Reporter>>,
}

/// What the reporting thread knows of the work.
struct Work {
    request: TaskRequest,
    /// Set when a caller cancels the task.
    stop: Arc<AtomicBool>,
    progress: DiskProgress,
}

/// The thread that reports the progress.
struct Reporter {
    end: Sender<()>,
    thread: JoinHandle<Option<Told>>,
}

/// A daemon that knows the task by this id.
struct Told {
    client: Client,
    id: JobId,
}

impl<'a> Announced<'a> {
    /// Work that may begin later, or not at all; `interrupt` stops the whole command.
    pub(super) fn new(
        context: &'a Context,
        subject: TaskSubject,
        interrupt: Arc<AtomicBool>,
    ) -> Self {
        Self {
            context,
            work: Arc::new(Work {
                request: TaskRequest {
                    subject,
                    began_at: Some(SystemClock.now()),
                },
                stop: Arc::default(),
                progress: DiskProgress::default(),
            }),
            interrupt,
            reporter: RefCell::default(),
        }
    }

    /// Announces the work to a daemon, if one runs, and goes on reporting. A second call does nothing.
    ///
    /// # Errors
    /// For work that ends with a change of the repository, what the daemon refuses it with; `Io` when no thread can be
    /// started.
    pub(super) fn begin(&self) -> Result<()> {
        if self.reporter.borrow().is_some() {
            return Ok(());
        }
        let repository = self.context.repository()?;
        // What the owner is to change in the end is refused now rather than after all the work. Other work does not wait.
        let told = match self.work.request.subject.kind {
            TaskKind::Merge => self.work.announce(&repository).or_else(unless_refused)?,
            _ => None,
        };
        let (end, ended) = mpsc::channel();
        let work = Arc::clone(&self.work);
        let report = move || {
            let mut told = told.or_else(|| work.announce(&repository).unwrap_or_default());
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                told = match told {
                    Some(told) => work.report(told),
                    // A daemon that has started meanwhile.
                    None => work.announce(&repository).unwrap_or_default(),
                };
            }
            told
        };
        let thread = std::thread::Builder::new()
            .name("task".into())
            .spawn(report)
            .or_io("cannot start a thread")?;
        self.reporter.replace(Some(Reporter { end, thread }));
        Ok(())
    }

    /// The monitor of a piece of the work: `bytes` more of a disk are to be done. It stops when the command is interrupted
    /// or the task is cancelled. What was to be done of the disk before is done.
    pub(super) fn piece(
        &self,
        disk: Option<&DiskName>,
        bytes: u64,
        listener: impl Fn(u64) + Send + Sync + 'static,
    ) -> Monitor {
        let advance = self.work.progress.begin(disk, bytes);
        let (outer, own) = (Arc::clone(&self.interrupt), Arc::clone(&self.work.stop));
        Monitor::within(outer, own, move |bytes| {
            listener(bytes);
            advance(bytes);
        })
    }

    /// The monitor of work whose bytes are not known by disk.
    pub(super) fn monitor(&self, bar: &Bar) -> Monitor {
        let bar = bar.clone();
        self.piece(None, 0, move |bytes| bar.add(bytes))
    }

    /// Ends the task, and sees to it that the history has it. Work that never began is in the history only when it
    /// failed.
    pub(super) fn finish<T>(self, result: &Result<T>) {
        let (state, reason) = TaskState::of_result(result);
        let reason = reason.as_deref();
        let reporter = self.reporter.take();
        let Some(reporter) = reporter else {
            if let Err(e) = result {
                let subject = &self.work.request.subject;
                failure::note(self.context, subject.kind, subject.vm.as_ref(), e);
            }
            return;
        };
        let told = reporter.end();
        if state == TaskState::Completed {
            self.work.progress.complete();
        }
        let id = match told.and_then(|told| self.work.report(told)) {
            Some(told) => match told.client.end_task(told.id, state, reason) {
                Ok(()) => return,
                // The daemon may have written the line all the same, and the history takes one line of an id.
                Err(e) => {
                    tracing::info!(error = %e.report(), "the daemon did not confirm the end of this task");
                    told.id
                }
            },
            None => JobId::random(),
        };
        let request = &self.work.request;
        let now = SystemClock.now();
        let report = TaskReport {
            id,
            subject: request.subject.clone(),
            state,
            reason: reason.map(ToOwned::to_owned),
            began_at: request.began_at.unwrap_or(now),
            ended_at: Some(now),
            disks: Vec::new(),
            cancellable: false,
        };
        failure::keep(self.context, Job::of_task(&report).as_ref());
    }
}

/// The error with which the change itself would be refused; any other one only keeps the work from being seen.
fn unless_refused(error: Error) -> Result<Option<Told>> {
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::Unsupported
        | ErrorKind::Locked => Err(error),
        _ => {
            tracing::info!(error = %error.report(), "the daemon does not show this command as a task");
            Ok(None)
        }
    }
}

impl Reporter {
    /// Ends the thread.
    fn end(self) -> Option<Told> {
        drop(self.end);
        // The thread does not panic; if it did, the daemon would take the task for interrupted.
        self.thread.join().unwrap_or_default()
    }
}

impl Work {
    /// Begins the task at the daemon; `None` when there is none.
    fn announce(&self, repository: &Repository) -> Result<Option<Told>> {
        let Some(client) = Client::connect_within(repository, Some(SHORT_PATIENCE))? else {
            return Ok(None);
        };
        let id = client.begin_task(&self.request)?;
        Ok(Some(Told { client, id }))
    }

    /// Reports the progress, and hears whether the task is cancelled; `None` when the daemon is gone.
    fn report(&self, told: Told) -> Option<Told> {
        match told.client.tell_task(told.id, &self.progress.disks()) {
            Ok(is_to_stop) => {
                if is_to_stop {
                    self.stop.store(true, Ordering::Relaxed);
                }
                Some(told)
            }
            Err(e) => {
                tracing::info!(error = %e.report(), "the daemon does not know this task any more");
                None
            }
        }
    }
}
