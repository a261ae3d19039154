//! The works of a process: which are under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::task::{TaskKind, TaskReport, TaskTable};
use crate::types::sync::{Condvar, Mutex, MutexGuard};
use crate::types::{JobId, VmName};

/// LIMIT: works of a repository at a time. Each reads as fast as its disks allow.
pub(super) const WORKS_MAX: usize = 4;

/// A work under way.
struct Running {
    id: JobId,
    kind: TaskKind,
    vm: VmName,
}

/// The works of a repository.
#[derive(Default)]
pub struct Works {
    running: Mutex<Vec<Running>>,
    /// Told when a work has ended.
    ended: Condvar,
    /// Set when the process is about to end.
    is_stopping: AtomicBool,
}

impl Works {
    /// Asks all works to stop, and refuses further ones. Each ends as failed, because nobody asked for its end.
    pub(super) fn stop(&self, tasks: &TaskTable) {
        self.is_stopping.store(true, Ordering::SeqCst);
        for work in self.running.lock().iter() {
            // A work that has just ended needs no stop.
            let _ = tasks.cancel(work.id);
        }
    }

    /// Waits until all works have ended, for at most `patience`; returns whether they have.
    pub fn wait(&self, patience: Duration) -> bool {
        let running = self.running.lock();
        let (running, _) = self
            .ended
            .wait_timeout_while(running, patience, |running| !running.is_empty());
        running.is_empty()
    }

    /// The VM of a work under way.
    pub(super) fn vm_of(&self, id: JobId) -> Option<VmName> {
        let running = self.running.lock();
        let work = running.iter().find(|work| work.id == id);
        work.map(|work| work.vm.clone())
    }

    /// Whether the process is about to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// A place for a further work; other starts wait while it is held.
    ///
    /// # Errors
    /// `Busy` while such a work is under way for the VM; `LimitExceeded`; `Disconnected` when the process is about to end.
    pub(super) fn place(
        &self,
        tasks: &TaskTable,
        kind: TaskKind,
        vm: &VmName,
    ) -> Result<Place<'_>> {
        let running = self.running.lock();
        // Who has seen the end of a task begins the next one, while the thread of the last one may still write its line.
        let busy = running.iter().filter(|work| tasks.is_running(work.id));
        self.check(&busy.collect::<Vec<_>>(), kind, vm)?;
        Ok(Place(running))
    }

    /// Notes that a work has ended.
    pub(super) fn end(&self, id: JobId) {
        self.running.lock().retain(|work| work.id != id);
        self.ended.notify_all();
    }

    /// Refuses a further work.
    fn check(&self, running: &[&Running], kind: TaskKind, vm: &VmName) -> Result<()> {
        if self.is_stopping() {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the daemon is about to stop",
            ));
        }
        let mut works = running.iter();
        if let Some(same) = works.find(|work| work.kind == kind && work.vm.same_as(vm)) {
            let (kind, id) = (kind.as_str(), same.id);
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the job {id} of the kind {kind} is under way for {vm}"),
            )
            .advise(format!(
                "wait for its end, or stop it: restorefs cancel {id}"
            )));
        }
        if running.len() >= WORKS_MAX {
            let ids: Vec<String> = running.iter().map(|work| work.id.to_string()).collect();
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!(
                    "{WORKS_MAX} jobs are under way here already: {}",
                    ids.join(", ")
                ),
            )
            .advise("wait until one of them has ended, or stop one: restorefs cancel ID"));
        }
        Ok(())
    }
}

/// The place of a work that is about to begin.
pub(super) struct Place<'a>(MutexGuard<'a, Vec<Running>>);

impl Place<'_> {
    /// Gives the place to a work that has begun.
    pub(super) fn take(mut self, report: &TaskReport, vm: &VmName) {
        self.0.push(Running {
            id: report.id,
            kind: report.subject.kind,
            vm: vm.clone(),
        });
    }
}
