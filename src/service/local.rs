//! The execution of the operations in the process that owns the repository, for one caller. [`super::audited`] notes what it does.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::answer::{
    BeginAnswer, CommitAnswer, DiskResult, ForgetAnswer, SessionAnswer, TrashAnswer,
};
use super::event::Happening;
use super::host::{MountRequest, Status};
use super::login::LoginAnswer;
use super::owned::OwnedRepository;
use super::target::DiskTarget;
use super::{Service, task};
use crate::access::{Access, Caller, Right};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::{
    BeginRequest, CommitRequest, DISKS_MAX, Registry, Session, Telling, check_attached_size,
};
use crate::jobs::policy::{Scene, Terms, check_overlap};
use crate::repo::arrive::Arrival;
use crate::repo::checks::CheckNotes;
use crate::repo::job::short;
use crate::repo::lock::Site;
use crate::repo::policy::PolicyChange;
use crate::repo::put_back::PutBack;
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::sidecar::copied::PointCopy;
use crate::repo::sidecar::index::PointEntry;
use crate::repo::{Ending, Hold, Job, LabelChange, PointUse};
use crate::task::{
    TaskDisk, TaskKind, TaskReport, TaskRequest, TaskState, TaskSubject, no_such_task,
};
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u64;
use crate::types::{JobId, PointId, PointName, SessionRef, VmName};

/// LIMIT: points that one caller holds a use of.
const HOLDS_MAX: usize = 1_024;

/// LIMIT: tasks that one caller does itself at a time.
const ANNOUNCED_MAX: usize = 64;

/// The operations on a repository for one caller, which are not noted in the audit log.
pub(super) struct LocalOperations {
    served: Arc<OwnedRepository>,
    caller: Caller,
    holds: Mutex<Vec<PointUse>>,
    /// Tasks that the caller began and does itself.
    announced: Mutex<Vec<JobId>>,
    /// The caller's hold of the whole repository.
    still: Mutex<Option<Hold>>,
}

impl LocalOperations {
    pub(super) fn new(served: Arc<OwnedRepository>, caller: Caller) -> Self {
        Self {
            served,
            caller,
            holds: Mutex::default(),
            announced: Mutex::default(),
            still: Mutex::default(),
        }
    }

    pub(super) const fn served(&self) -> &Arc<OwnedRepository> {
        &self.served
    }

    pub(super) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the caller holds the whole repository.
    pub(super) fn is_holding_still(&self) -> bool {
        self.still.lock().is_some()
    }

    pub(super) fn registry(&self) -> &Registry {
        self.served.sessions()
    }

    /// Whether the caller waits until mounts show a change. A mount cannot wait for itself.
    const fn telling(&self) -> Telling {
        match self.caller {
            Caller::Mount { .. } => Telling::Go,
            _ => Telling::Wait,
        }
    }

    /// The access table as it is now. A caller that does not depend on it costs no look at its file.
    pub(super) fn access(&self) -> Arc<Access> {
        match self.caller.needs_table() {
            true => self.served.access().fresh(),
            false => Arc::default(),
        }
    }

    /// Whether the caller has a right on a VM.
    fn may(&self, right: Right, vm: &VmName) -> bool {
        self.caller.may(right, Some(vm), &self.access())
    }

    /// Refuses a caller that does not have the right on a VM.
    fn demand(&self, right: Right, vm: &VmName) -> Result<()> {
        let what = match right {
            Right::Ingest => "write restore points",
            _ => "remove restore points",
        };
        self.demand_to(what, right, vm)
    }

    /// [`LocalOperations::demand`]; `what` names the refused operation.
    pub(super) fn demand_to(&self, what: &str, right: Right, vm: &VmName) -> Result<()> {
        if self.may(right, vm) {
            return Ok(());
        }
        if !self.may(Right::Read, vm) {
            return Err(Error::not_found(format!("there is no VM {vm}")));
        }
        if matches!(self.caller, Caller::Mount { .. }) {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                "restore points are removed by retention, or where the tree is mounted with allow_forget",
            ));
        }
        Err(self.denied(what, right))
    }

    /// Refuses a caller that does not administer the repository. `what` names the refused
    /// operation.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(super) fn demand_admin(&self, what: &str) -> Result<()> {
        if self.caller.may(Right::Admin, None, &self.access()) {
            return Ok(());
        }
        Err(self.denied(what, Right::Admin))
    }

    fn denied(&self, what: &str, right: Right) -> Error {
        let advice = format!(
            "root and the daemon's own user may, and whom the access table gives the right {right}"
        );
        let what = format!("{} may not {what}", self.caller);
        Error::new(ErrorKind::PermissionDenied, what).advise(advice)
    }

    fn open(&self, session: &SessionRef) -> Result<Arc<Session>> {
        self.demand(Right::Ingest, &session.vm)?;
        self.registry().require(&session.vm, &session.session)
    }

    /// The lock and the directory that the owner holds; `None` when the lock was taken away.
    pub(super) fn site(&self) -> Option<Site> {
        self.registry().engine().owner.site()
    }

    /// Begins a session and returns it.
    pub(super) fn begin_session(&self, request: &BeginRequest) -> Result<Arc<Session>> {
        self.demand(Right::Ingest, &request.vm)?;
        self.registry().begin(request, self.telling())
    }

    pub(super) fn make_vm(&self, vm: &VmName) -> Result<()> {
        self.demand(Right::Ingest, vm)?;
        self.registry().make_vm(vm, self.telling())
    }

    /// Serves what a helper has mounted.
    ///
    /// # Errors
    /// `PermissionDenied`; `InvalidInput` without a device; `NotFound` where there is no daemon; as
    /// [`Host::adopt`](super::Host::adopt).
    pub(super) fn adopt_mount(
        &self,
        request: &MountRequest,
        device: Option<OwnedFd>,
    ) -> Result<()> {
        // A mount can remove points (allow_forget), which a member of the socket's group must not.
        self.demand_admin("hand over a mount")?;
        let device =
            device.ok_or_else(|| Error::invalid("there is no descriptor with the request"))?;
        match self.served.host() {
            Some(host) => host.adopt(request, device),
            None => Err(Error::not_found("no daemon serves this repository")),
        }
    }

    /// The open session of a job that the caller may stop; `None` where the job is another task.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub(super) fn stoppable(&self, id: JobId) -> Result<Option<SessionRef>> {
        let sessions = self.registry().all();
        let mut open = sessions.iter();
        if let Some(session) = open.find(|session| session.sidecar().job_id() == id) {
            self.demand(Right::Ingest, &session.vm())?;
            return Ok(Some(session.reference()));
        }
        match self.served.works().vm_of(id) {
            // Who may start it may stop it.
            Some(vm) => self.demand_to("stop this task", Right::Manage, &vm)?,
            None => self.demand_admin("stop this task")?,
        }
        Ok(None)
    }

    /// Refuses a caller that may not do such work, on a VM or on all of them.
    fn demand_for(&self, kind: TaskKind, vm: Option<&VmName>) -> Result<()> {
        let (what, right) = match kind {
            TaskKind::Backup => ("write restore points", Right::Ingest),
            TaskKind::Forget => ("remove restore points", Right::Manage),
            TaskKind::Merge => ("merge layers", Right::Manage),
            TaskKind::Copy => ("copy restore points", Right::Read),
            TaskKind::Verify => ("verify restore points", Right::Read),
            TaskKind::Restore => ("restore", Right::Restore),
            TaskKind::Repair => ("repair restore points", Right::Manage),
            TaskKind::RebuildCatalog => ("rebuild the catalog", Right::Admin),
            TaskKind::EmptyTrash => ("empty the trash", Right::Admin),
        };
        match vm {
            Some(vm) => self.demand_to(what, right, vm),
            None if self.caller.may(right, None, &self.access()) => Ok(()),
            None => Err(self.denied(what, right)),
        }
    }

    /// Whether the caller sees an event.
    pub(super) fn may_see(&self, happening: &Happening) -> bool {
        let vm = match happening {
            Happening::Task { task } => task.subject.vm.as_ref(),
            Happening::Session { session, .. } => Some(&session.vm),
            Happening::Point { vm, .. } | Happening::Repository { vm } => Some(vm),
            Happening::Reset => return true,
        };
        self.caller.may(Right::Read, vm, &self.access())
    }

    /// Ends the tasks of a caller that has gone away. The call writes to the history.
    pub(super) fn leave(&self) {
        let left = std::mem::take(&mut *self.announced.lock());
        for task in left {
            let reason = "interrupted: the command that did it went away";
            let ended = self
                .served
                .tasks()
                .end(task, TaskState::Failed, Some(reason.to_owned()));
            if let Some(report) = ended {
                self.served.note_task(&report);
            }
        }
    }

    /// Whether this caller began the task and has not ended it.
    fn is_announced(&self, task: JobId) -> Result<()> {
        match self.announced.lock().contains(&task) {
            true => Ok(()),
            false => Err(no_such_task(task)),
        }
    }

    fn run<T>(
        &self,
        kind: TaskKind,
        vm: Option<&VmName>,
        points: &[PointName],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let subject = TaskSubject {
            kind,
            vm: vm.cloned(),
            session: None,
            point: match points {
                [point] => Some(point.clone()),
                _ => None,
            },
        };
        let changed = |report: &TaskReport| match report.state.is_end() {
            true => self.served.note_task(report),
            false => self.served.note_begin(report),
        };
        let tasks = self.served.tasks();
        tasks.run(subject, false, &changed, |_| work())
    }
}

impl Service for LocalOperations {
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        let session = self.begin_session(request)?;
        Ok(self.served.begin_answer(&session))
    }

    fn disk_target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget> {
        let session = self.open(session)?;
        let writer = session.disk(&disk.name)?;
        Ok(DiskTarget::Writer(session, writer))
    }

    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()> {
        self.open(session)?.attach(name, content)
    }

    fn renew(&self, session: &SessionRef) -> Result<()> {
        self.open(session)?.touch();
        Ok(())
    }

    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<CommitAnswer> {
        let vm = self.open(session)?.vm();
        let sessions = self.registry();
        let point = sessions.commit(&vm, &session.session, request, self.telling())?;
        Ok(CommitAnswer { vm, point })
    }

    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()> {
        self.demand(Right::Ingest, &session.vm)?;
        let ending = failure.map_or_else(Ending::aborted, Ending::failed);
        let sessions = self.registry();
        sessions.end(&session.vm, &session.session, &ending, self.telling())
    }

    fn forget(
        &self,
        vm: &VmName,
        points: &[PointName],
        is_retention: bool,
    ) -> Result<ForgetAnswer> {
        self.demand(Right::Manage, vm)?;
        let owner = &self.registry().engine().owner;
        if is_retention && points.is_empty() {
            owner.note_retained(vm)?;
            return Ok(ForgetAnswer::default());
        }
        let mut answer = None;
        let ran = self.run(TaskKind::Forget, Some(vm), points, || {
            let done = self.registry().forget_points(vm, points, self.telling())?;
            answer = Some(ForgetAnswer::from(&done));
            // The history calls a task failed that has forgotten nothing.
            match done.kept.into_iter().next() {
                Some((_, error)) if done.forgotten.is_empty() => Err(error),
                _ => Ok(()),
            }
        });
        if is_retention
            && answer.is_some()
            && let Err(e) = owner.note_retained(vm)
        {
            tracing::error!(vm = %vm, error = %e.report(), "points are forgotten, but what retention has kept could not be recorded");
        }
        answer.map_or_else(|| ran.map(|()| ForgetAnswer::default()), Ok)
    }

    fn replace(&self, replacement: &Replacement) -> Result<()> {
        self.demand_to("merge layers", Right::Manage, &replacement.vm)?;
        self.registry().engine().owner.replace(replacement)
    }

    fn put_back(&self, what: &PutBack) -> Result<()> {
        self.demand_to("put files back", Right::Manage, what.vm())?;
        self.registry().engine().owner.put_back(what)
    }

    fn label(&self, vm: &VmName, which: &Which, change: &LabelChange) -> Result<PointEntry> {
        self.demand_to("label restore points", Right::Manage, vm)?;
        self.registry()
            .label_point(vm, which, change, self.telling())
    }

    fn rename_vm(&self, vm: &VmName, to: &VmName) -> Result<VmName> {
        self.demand_to("rename a VM", Right::Manage, vm)?;
        self.demand_to("rename a VM", Right::Manage, to)?;
        self.registry().rename_vm(vm, to, self.telling())
    }

    fn remove_vm(&self, vm: &VmName) -> Result<()> {
        // The VM has no restore point: the caller could have created what is removed.
        self.demand(Right::Ingest, vm)?;
        self.registry().remove_vm(vm, self.telling())
    }

    fn undelete(&self, vm: &VmName, point: &PointName) -> Result<PointEntry> {
        self.demand_to("bring restore points back", Right::Manage, vm)?;
        self.registry().undelete(vm, point, self.telling())
    }

    fn note_checks(&self, vm: &VmName, notes: &CheckNotes) -> Result<()> {
        self.demand_to("keep results of verifying", Right::Manage, vm)?;
        self.registry().note_checks(vm, notes, self.telling())
    }

    fn note_copies(&self, vm: &VmName, copies: &[(PointId, PointCopy)]) -> Result<()> {
        self.demand_to("record copies", Right::Manage, vm)?;
        self.registry().note_copies(vm, copies, self.telling())
    }

    fn begin_arrival(&self, arrival: &Arrival) -> Result<PointName> {
        self.demand_to("receive copies", Right::Manage, &arrival.vm)?;
        self.registry().engine().owner.begin_arrival(arrival)
    }

    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry> {
        self.demand_to("receive copies", Right::Manage, vm)?;
        self.registry().arrive(vm, session, self.telling())
    }

    fn adopt(&self, vm: &VmName) -> Result<bool> {
        self.demand_to("adopt VMs", Right::Manage, vm)?;
        self.registry().adopt(vm, self.telling())
    }

    fn change_policy(&self, change: &PolicyChange) -> Result<()> {
        let owner = &self.registry().engine().owner;
        match change {
            // A policy has a command, and decides what is forgotten of which VM.
            PolicyChange::Put { policy, .. } => {
                self.demand_admin("change policies")?;
                let terms = Terms::of(policy)?;
                let scene = Scene::of(owner.repository(), Vec::new())?;
                check_overlap(&terms, &scene.terms, &scene.vms)?;
            }
            PolicyChange::Note { runs } => {
                for run in runs {
                    self.demand_to("record runs of policies", Right::Manage, &run.vm)?;
                }
            }
            PolicyChange::Remove { .. }
            | PolicyChange::Assign { .. }
            | PolicyChange::Runner { .. } => self.demand_admin("change policies")?,
        }
        owner.change_policy(change)
    }

    fn empty_trash(&self) -> Result<TrashAnswer> {
        self.demand_admin("empty the trash")?;
        self.run(TaskKind::EmptyTrash, None, &[], || {
            let (entries, freed_bytes) = self.registry().engine().owner.clear_trash()?;
            Ok(TrashAnswer {
                entries,
                freed_bytes,
            })
        })
    }

    fn hold(&self, vm: &VmName, which: &Which, holder: &str) -> Result<PointEntry> {
        self.demand(Right::Read, vm)?;
        let mut holds = self.holds.lock();
        if holds.len() >= HOLDS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a connection holds at most {HOLDS_MAX} restore points"),
            ));
        }
        let (point, held) = self
            .registry()
            .engine()
            .owner
            .use_point(vm, which, holder)?;
        holds.push(held);
        Ok(point)
    }

    fn hold_still(&self, holder: &str) -> Result<()> {
        self.demand_admin("hold the repository")?;
        let owner = &self.registry().engine().owner;
        let mut still = self.still.lock();
        match *still {
            Some(_) => owner.verify_lock(),
            None => {
                *still = Some(owner.hold_still(holder)?);
                Ok(())
            }
        }
    }

    fn sessions(&self) -> Result<Vec<SessionAnswer>> {
        let (sessions, access) = (self.registry().all(), self.access());
        let may_read = |vm: &VmName| self.caller.may(Right::Read, Some(vm), &access);
        let seen = sessions.iter().filter(|one| may_read(&one.vm()));
        Ok(seen.map(|session| SessionAnswer::of(session)).collect())
    }

    fn tasks(&self) -> Result<Vec<TaskReport>> {
        let sessions = self.registry().all();
        let open = sessions.iter().map(|session| task::of_session(session));
        let mut all: Vec<_> = open.chain(self.served.tasks().reports()).collect();
        let access = self.access();
        all.retain(|report| {
            let vm = report.subject.vm.as_ref();
            self.caller.may(Right::Read, vm, &access)
        });
        Ok(all)
    }

    fn begin_task(&self, request: &TaskRequest) -> Result<JobId> {
        let subject = &request.subject;
        if !subject.kind.is_of_command() {
            return Err(Error::invalid(format!(
                "a task of the kind {} is begun by the operation itself",
                subject.kind.as_str()
            )));
        }
        self.demand_for(subject.kind, subject.vm.as_ref())?;
        if subject.kind == TaskKind::Merge {
            // Layers would be built in vain.
            self.registry().engine().owner.check_not_held()?;
        }
        let mut announced = self.announced.lock();
        if announced.len() >= ANNOUNCED_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a connection has at most {ANNOUNCED_MAX} tasks at a time"),
            ));
        }
        let report = self.served.tasks().begin(request);
        announced.push(report.id);
        drop(announced);
        self.served.note_begin(&report);
        Ok(report.id)
    }

    fn tell_task(&self, task: JobId, disks: &[TaskDisk]) -> Result<bool> {
        if disks.len() > DISKS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a task has at most {DISKS_MAX} disks"),
            ));
        }
        self.is_announced(task)?;
        let (is_to_stop, report) = self.served.tasks().tell(task, disks)?;
        if let Some(report) = report {
            self.served.note_task(&report);
        }
        Ok(is_to_stop)
    }

    fn end_task(&self, task: JobId, state: TaskState, reason: Option<&str>) -> Result<()> {
        if !state.is_end() {
            return Err(Error::invalid("a task does not end in this state"));
        }
        self.is_announced(task)?;
        let reason = reason.map(short);
        let ended = self.served.tasks().end(task, state, reason);
        self.announced.lock().retain(|one| *one != task);
        match ended {
            Some(report) => {
                self.served.note_task(&report);
                Ok(())
            }
            None => Err(no_such_task(task)),
        }
    }

    fn cancel(&self, id: JobId) -> Result<()> {
        match self.stoppable(id)? {
            Some(session) => self.abort(&session, None),
            None => self.served.tasks().cancel(id),
        }
    }

    fn note_failure(&self, kind: TaskKind, vm: Option<&VmName>, reason: &str) -> Result<()> {
        self.demand_for(kind, vm)?;
        let owner = &self.registry().engine().owner;
        let now = owner.clock().now();
        owner.keep_job(&Job::of_failure(kind, vm, reason, now, now));
        Ok(())
    }

    fn rebuild_catalog(&self) -> Result<usize> {
        // The operation reads every sidecar while commits wait.
        self.demand_admin("rebuild the catalog")?;
        self.run(TaskKind::RebuildCatalog, None, &[], || {
            self.registry().engine().owner.rebuild_catalog()
        })
    }

    fn login(&self) -> Result<LoginAnswer> {
        self.served.make_login(&self.caller)
    }

    fn status(&self) -> Result<Status> {
        Ok(self.served.status())
    }
}

impl Drop for LocalOperations {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Refuses a file that cannot be attached; returns its size in bytes.
///
/// # Errors
/// `InvalidInput` when it is not a regular file: a pipe may never end, and a device has no end;
/// `TooLarge`; `Io`.
pub fn check_attached(file: &File) -> Result<u64> {
    let metadata = file.metadata().or_io("cannot look at the file to attach")?;
    if !metadata.is_file() {
        return Err(Error::invalid("only regular files can be attached"));
    }
    check_attached_size(metadata.len())?;
    Ok(metadata.len())
}

/// Reads the bytes of a file to attach.
///
/// # Errors
/// As [`check_attached`].
pub fn read_attached(file: &File) -> Result<Vec<u8>> {
    let mut content = vec![0; usize_from_u64(check_attached(file)?)];
    file.read_exact_at(&mut content, 0)
        .or_io("cannot read the file to attach")?;
    Ok(content)
}
