//! Works of a process: each a task, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::service::OwnedRepository;
use crate::task::{DiskProgress, Monitor, TaskKind, TaskReport, TaskSubject};
use crate::types::{DiskName, JobId, VmName};

/// How often the progress of a work is reported.
const INTERVAL: Duration = Duration::from_secs(1);

/// The reason of a work that ended because the process does.
const STOPPED: &str = "interrupted: the daemon was stopped";

/// What a work is given: it checks the monitor, and reports its progress.
pub(super) struct Desk {
    monitor: Monitor,
    progress: DiskProgress,
}

impl Desk {
    /// Stops the work.
    pub(super) const fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The monitor of `bytes` more of a disk that are to be done.
    pub(super) fn piece(&self, disk: Option<&DiskName>, bytes: u64) -> Monitor {
        self.monitor.part(self.progress.begin(disk, bytes))
    }
}

/// Starts a work, and returns its task as it has begun.
///
/// # Errors
/// `Busy` while such a work is under way for the VM; `LimitExceeded`; `Disconnected` when the process is about to end; `Io` when
/// no thread can be started.
pub(super) fn start(
    served: &Arc<OwnedRepository>,
    kind: TaskKind,
    vm: &VmName,
    work: impl FnOnce(&Desk) -> Result<()> + Send + 'static,
) -> Result<TaskReport> {
    let place = served.works().place(served.tasks(), kind, vm)?;
    let subject = TaskSubject {
        kind,
        vm: Some(vm.clone()),
        session: None,
        point: None,
    };
    let (began, begin) = mpsc::sync_channel(1);
    let owned = Arc::clone(served);
    let whole = move || {
        let id = OnceLock::new();
        let changed = |report: &TaskReport| {
            if report.state.is_end() {
                owned.note_task(report);
                return;
            }
            owned.note_begin(report);
            let _ = id.set(report.id);
            // The starter waits for this; if it does not any more, the work goes on all the same.
            let _ = began.send(report.clone());
        };
        // Its error is the task's, which the history keeps.
        let _ = owned.tasks().run(subject, true, &changed, |monitor| {
            let desk = Desk {
                monitor: monitor.clone(),
                progress: DiskProgress::default(),
            };
            watched(&owned, id.get().copied(), &desk, work)
        });
        if let Some(id) = id.get() {
            // The place is given before the work can leave it.
            owned.works().end(*id);
        }
    };
    std::thread::Builder::new()
        .name(kind.as_str().to_owned())
        .spawn(whole)
        .or_io("cannot start a thread")?;
    let report = begin.recv().map_err(|_| {
        Error::new(
            ErrorKind::Io,
            "the job ended before it began; the log has the reason",
        )
    })?;
    place.take(&report, vm);
    Ok(report)
}

/// Does a work while another thread reports its progress.
fn watched(
    served: &OwnedRepository,
    id: Option<JobId>,
    desk: &Desk,
    work: impl FnOnce(&Desk) -> Result<()>,
) -> Result<()> {
    let tell = || {
        let told = id.map(|id| served.tasks().tell(id, &desk.progress.disks()));
        if let Some(Ok((_, Some(report)))) = told {
            served.note_task(&report);
        }
    };
    let result = std::thread::scope(|scope| {
        let (end, ended) = mpsc::channel::<()>();
        let report = move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                tell();
            }
        };
        let reporter = std::thread::Builder::new().name("progress".to_owned());
        let reporter = reporter.spawn_scoped(scope, report);
        reporter.or_io("cannot start a thread")?;
        let done = catch_unwind(AssertUnwindSafe(|| work(desk)));
        drop(end);
        done.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Io,
                "interrupted: a fault in the program ended the job; the log has it",
            ))
        })
    });
    if result.is_ok() {
        desk.progress.complete();
    }
    tell();
    match result {
        Err(e) if e.kind() == ErrorKind::Cancelled && served.works().is_stopping() => {
            Err(Error::new(ErrorKind::Disconnected, STOPPED))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::start;
    use crate::access::LiveAccess;
    use crate::chain::{Pool, PoolLimits};
    use crate::clock::{Clock, SystemClock};
    use crate::error::{Error, ErrorKind, Result};
    use crate::ingest::{Engine, Registry};
    use crate::repo::{Owner, Repository};
    use crate::service::OwnedRepository;
    use crate::service::works::WORKS_MAX;
    use crate::task::{TaskKind, TaskReport, TaskState};
    use crate::types::{JobId, VmName};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn served(dir: &tempfile::TempDir) -> Arc<OwnedRepository> {
        let path = dir.path().join("repo");
        let repository = Arc::new(Repository::init(&path, SystemClock.now()).unwrap());
        let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
        let engine = Engine::new(Arc::new(owner), Pool::new(PoolLimits::default()));
        OwnedRepository::new(Registry::empty(engine), Vec::new(), LiveAccess::none())
    }

    fn vm(n: usize) -> VmName {
        VmName::new(format!("vm{n}")).unwrap()
    }

    fn of(served: &OwnedRepository, id: JobId) -> TaskReport {
        let mut all = served.tasks().reports().into_iter();
        all.find(|report| report.id == id).unwrap()
    }

    /// Works until it is stopped.
    fn endless(served: &Arc<OwnedRepository>, kind: TaskKind, vm: &VmName) -> Result<TaskReport> {
        start(served, kind, vm, |desk| {
            loop {
                desk.monitor().check()?;
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    }

    #[test]
    fn one_work_of_a_kind_for_a_vm_and_a_few_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let served = served(&dir);
        let first = endless(&served, TaskKind::Verify, &vm(0)).unwrap();
        assert_eq!(first.state, TaskState::Running);
        assert!(first.cancellable);
        let same = endless(&served, TaskKind::Verify, &VmName::new("VM0").unwrap()).unwrap_err();
        assert_eq!(same.kind(), ErrorKind::Busy);
        assert!(same.what().contains(&first.id.to_string()), "{same}");
        endless(&served, TaskKind::Copy, &vm(0)).unwrap();
        for n in 2..WORKS_MAX {
            endless(&served, TaskKind::Verify, &vm(n)).unwrap();
        }
        let more = endless(&served, TaskKind::Verify, &vm(9)).unwrap_err();
        assert_eq!(more.kind(), ErrorKind::LimitExceeded);
        served.tasks().cancel(first.id).unwrap();
        while !of(&served, first.id).state.is_end() {
            std::thread::yield_now();
        }
        assert_eq!(of(&served, first.id).state, TaskState::Cancelled);
        // At once, whatever the thread of the first one still does.
        let again = endless(&served, TaskKind::Verify, &vm(0)).unwrap();
        served.stop_works();
        assert!(served.works().wait(PATIENCE));
        let stopped = of(&served, again.id);
        assert_eq!(stopped.state, TaskState::Failed);
        assert_eq!(stopped.reason.as_deref(), Some(super::STOPPED));
        let late = endless(&served, TaskKind::Verify, &vm(1)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Disconnected);
    }

    #[test]
    fn a_work_that_does_not_stop_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let served = served(&dir);
        let (end, ended) = mpsc::channel::<()>();
        let deaf = start(&served, TaskKind::Verify, &vm(0), move |_| {
            let _ = ended.recv();
            Ok(())
        });
        served.stop_works();
        assert!(!served.works().wait(Duration::from_millis(50)));
        drop(end);
        assert!(served.works().wait(PATIENCE));
        let done = of(&served, deaf.unwrap().id);
        assert_eq!(done.state, TaskState::Completed, "it had done its work");
    }

    #[test]
    fn a_panic_ends_the_task_and_the_history_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let served = served(&dir);
        let begun = start(&served, TaskKind::Copy, &vm(0), |_| panic!("on purpose")).unwrap();
        assert!(served.works().wait(PATIENCE));
        let task = of(&served, begun.id);
        assert_eq!(task.state, TaskState::Failed);
        assert!(task.reason.unwrap().starts_with("interrupted"));
        let refused = start(&served, TaskKind::Copy, &vm(0), |_| {
            Err(Error::invalid("no"))
        });
        let refused = refused.unwrap().id;
        assert!(served.works().wait(PATIENCE));
        let mut kept = Vec::new();
        let owner = &served.sessions().engine().owner;
        let see = |job: crate::repo::Job| {
            kept.push(job.job_id);
            std::ops::ControlFlow::Continue(())
        };
        owner.repository().jobs(see).unwrap();
        kept.sort_unstable();
        let mut all = [begun.id, refused];
        all.sort_unstable();
        assert_eq!(kept, all);
    }
}
