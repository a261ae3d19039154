//! The operations for one caller, each noted in the audit log.
//!
//! # Invariants
//! This is the one place where operations of [`Service`] are noted, whichever door they come through.
//! Not noted are questions about what runs (`sessions`, `tasks`, `status`) and the progress of a task
//! that was noted at its begin.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Service;
use super::answer::{
    BeginAnswer, CommitAnswer, DiskResult, ForgetAnswer, SessionAnswer, TrashAnswer,
};
use super::event::Happening;
use super::host::{MountRequest, Status};
use super::local::LocalOperations;
use super::login::LoginAnswer;
use super::owned::OwnedRepository;
use super::target::DiskTarget;
use crate::access::{Access, Act, Caller, Origin, Right};
use crate::error::{Error, Result};
use crate::ingest::{BeginRequest, CommitRequest, Registry, Session};
use crate::repo::LabelChange;
use crate::repo::arrive::Arrival;
use crate::repo::checks::CheckNotes;
use crate::repo::lock::Site;
use crate::repo::policy::PolicyChange;
use crate::repo::put_back::PutBack;
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::sidecar::copied::PointCopy;
use crate::repo::sidecar::index::PointEntry;
use crate::task::{TaskDisk, TaskKind, TaskReport, TaskRequest, TaskState};
use crate::types::{JobId, PointId, PointName, PolicyName, SessionRef, VmName};

/// LIMIT: points that a note of `forget` names.
const POINTS_NAMED_MAX: usize = 8;

/// The operations on a repository for one caller: a command, a connection, or a mount.
pub struct LocalService {
    operations: LocalOperations,
    origin: Origin,
}

/// What is asked for.
struct Asked<'a> {
    operation: &'a str,
    vm: Option<&'a VmName>,
    subject: Option<String>,
}

fn asked<'a>(operation: &'a str, vm: &'a VmName, subject: &impl ToString) -> Asked<'a> {
    Asked {
        operation,
        vm: Some(vm),
        subject: Some(subject.to_string()),
    }
}

/// An operation on a VM as a whole.
const fn of_vm<'a>(operation: &'a str, vm: &'a VmName) -> Asked<'a> {
    Asked {
        operation,
        vm: Some(vm),
        subject: None,
    }
}

/// An operation on the repository as a whole.
const fn of_repository(operation: &str, subject: Option<String>) -> Asked<'_> {
    Asked {
        operation,
        vm: None,
        subject,
    }
}

/// Some of the names, and the number of the others.
fn names(points: &[PointName]) -> String {
    let shown: Vec<&str> = points
        .iter()
        .take(POINTS_NAMED_MAX)
        .map(PointName::as_str)
        .collect();
    match points.len().saturating_sub(POINTS_NAMED_MAX) {
        0 => shown.join(","),
        more => format!("{} and {more} more", shown.join(",")),
    }
}

/// What a change of the policies is about.
fn of_policy(change: &PolicyChange) -> Asked<'_> {
    match change {
        PolicyChange::Put { policy, .. } => {
            of_repository("put-policy", Some(policy.name.to_string()))
        }
        PolicyChange::Remove { name } => of_repository("remove-policy", Some(name.to_string())),
        PolicyChange::Assign { vm, policy } => {
            let policy = policy.as_ref().map_or("none", |name| name.as_str());
            asked("assign-policy", vm, &policy)
        }
        PolicyChange::Note { runs } => {
            of_repository("note-policy-runs", Some(runs.len().to_string()))
        }
        PolicyChange::Runner { .. } => of_repository("name-policy-runner", None),
    }
}

impl OwnedRepository {
    /// The operations for one caller.
    #[must_use]
    pub fn of_caller(self: &Arc<Self>, caller: Caller, origin: Origin) -> LocalService {
        LocalService {
            operations: LocalOperations::new(Arc::clone(self), caller),
            origin,
        }
    }
}

impl LocalService {
    /// Whether the caller may cancel a job that runs.
    #[must_use]
    pub fn may_cancel(&self, job: JobId) -> bool {
        self.operations.stoppable(job).is_ok()
    }

    /// Notes what came of an operation.
    fn note(&self, asked: &Asked<'_>, error: Option<&Error>) {
        let served = self.served();
        served.audit().note(&Act {
            at: self.registry().engine().owner.clock().now(),
            origin: &self.origin,
            caller: self.operations.caller(),
            operation: asked.operation,
            repository: Some(served.name()),
            vm: asked.vm.map(VmName::as_str),
            subject: asked.subject.as_deref(),
            error,
        });
    }

    /// Executes an operation, and notes it.
    fn noted<T>(
        &self,
        asked: &Asked<'_>,
        work: impl FnOnce(&LocalOperations) -> Result<T>,
    ) -> Result<T> {
        let result = work(&self.operations);
        self.note(asked, result.as_ref().err());
        result
    }

    pub(super) const fn served(&self) -> &Arc<OwnedRepository> {
        self.operations.served()
    }

    /// The access table as it is now.
    pub(super) fn access(&self) -> Arc<Access> {
        self.operations.access()
    }

    /// The caller.
    pub(super) const fn caller(&self) -> &Caller {
        self.operations.caller()
    }

    /// The operations of a repository, this one or another one, for the same caller who came the same way: for work that goes on after
    /// the request.
    pub(super) fn at(&self, served: &Arc<OwnedRepository>) -> Self {
        served.of_caller(self.caller().clone(), self.origin.clone())
    }

    /// Refuses a caller that does not have the right on a VM; `what` names the refused operation.
    pub(super) fn demand_to(&self, what: &str, right: Right, vm: &VmName) -> Result<()> {
        self.operations.demand_to(what, right, vm)
    }

    /// Refuses a caller that does not administer the repository; `what` names the refused operation.
    pub(super) fn demand_admin(&self, what: &str) -> Result<()> {
        self.operations.demand_admin(what)
    }

    /// Notes what came of an operation that is executed elsewhere: bytes of a point were handed out, work has begun.
    pub(super) fn note_result<T>(
        &self,
        operation: &str,
        vm: &VmName,
        subject: &str,
        result: &Result<T>,
    ) {
        self.note(&asked(operation, vm, &subject), result.as_ref().err());
    }

    /// Refuses a caller that may not change policies, and notes it, before anything is looked up for that caller.
    pub(super) fn demand_policies(&self, name: &PolicyName) -> Result<()> {
        let allowed = self.operations.demand_admin("change policies");
        if let Err(e) = &allowed {
            self.note(
                &of_repository("put-policy", Some(name.to_string())),
                Some(e),
            );
        }
        allowed
    }

    pub(super) fn registry(&self) -> &Registry {
        self.operations.registry()
    }

    /// The lock and the directory that the owner holds; `None` when the lock was taken away.
    #[must_use]
    pub fn site(&self) -> Option<Site> {
        self.operations.site()
    }

    /// Whether the caller sees an event.
    pub(super) fn may_see(&self, happening: &Happening) -> bool {
        self.operations.may_see(happening)
    }

    /// Ends the tasks of a caller that has gone away. The call writes to the history.
    pub fn leave(&self) {
        self.operations.leave();
    }

    /// Begins a session and returns it.
    pub(super) fn begin_session(&self, request: &BeginRequest) -> Result<Arc<Session>> {
        let result = self.operations.begin_session(request);
        let session = match &result {
            Ok(session) => Some(session.name().to_string()),
            Err(_) => {
                let name = request.session.as_ref().or(request.point.as_ref());
                name.map(ToString::to_string)
            }
        };
        let asked = Asked {
            operation: "begin",
            vm: Some(&request.vm),
            subject: session,
        };
        self.note(&asked, result.as_ref().err());
        result
    }

    pub(super) fn make_vm(&self, vm: &VmName) -> Result<()> {
        self.noted(&of_vm("make-vm", vm), |operations| operations.make_vm(vm))
    }

    /// Serves what a helper has mounted.
    ///
    /// # Errors
    /// `PermissionDenied`; `InvalidInput` without a device; `NotFound` where there is no daemon; as
    /// [`Host::adopt`](super::Host::adopt).
    pub fn adopt_mount(&self, request: &MountRequest, device: Option<OwnedFd>) -> Result<()> {
        let at = request.mountpoint.display().to_string();
        self.noted(&of_repository("mount", Some(at)), |operations| {
            operations.adopt_mount(request, device)
        })
    }
}

impl Service for LocalService {
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        let session = self.begin_session(request)?;
        Ok(self.served().begin_answer(&session))
    }

    fn disk_target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget> {
        let subject = format!("{}/{}", session.session, disk.name);
        self.noted(&asked("write-disk", &session.vm, &subject), |operations| {
            operations.disk_target(session, disk)
        })
    }

    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()> {
        let subject = format!("{}/{name}", session.session);
        self.noted(&asked("attach", &session.vm, &subject), |operations| {
            operations.attach(session, name, content)
        })
    }

    // The begin was noted, and its holder renews it many times: only a refusal is noted.
    fn renew(&self, session: &SessionRef) -> Result<()> {
        let renewed = self.operations.renew(session);
        if let Err(e) = &renewed {
            self.note(&asked("renew", &session.vm, &session.session), Some(e));
        }
        renewed
    }

    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<CommitAnswer> {
        let result = self.operations.commit(session, request);
        let subject = match &result {
            Ok(answer) => format!("{} as {}", session.session, answer.point.name),
            Err(_) => session.session.to_string(),
        };
        self.note(
            &asked("commit", &session.vm, &subject),
            result.as_ref().err(),
        );
        result
    }

    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()> {
        self.noted(
            &asked("abort", &session.vm, &session.session),
            |operations| operations.abort(session, failure),
        )
    }

    fn forget(
        &self,
        vm: &VmName,
        points: &[PointName],
        is_retention: bool,
    ) -> Result<ForgetAnswer> {
        let result = self.operations.forget(vm, points, is_retention);
        let Ok(answer) = &result else {
            self.note(&asked("forget", vm, &names(points)), result.as_ref().err());
            return result;
        };
        if !answer.forgotten.is_empty() || answer.kept.is_empty() {
            self.note(&asked("forget", vm, &names(&answer.forgotten)), None);
        }
        for kept in &answer.kept {
            let error = Error::from(kept.problem.clone());
            self.note(&asked("forget", vm, &kept.point), Some(&error));
        }
        result
    }

    fn replace(&self, replacement: &Replacement) -> Result<()> {
        let asked = asked("replace", &replacement.vm, &replacement.layer);
        self.noted(&asked, |operations| operations.replace(replacement))
    }

    fn put_back(&self, what: &PutBack) -> Result<()> {
        let asked = of_vm("put-back", what.vm());
        self.noted(&asked, |operations| operations.put_back(what))
    }

    fn label(&self, vm: &VmName, which: &Which, change: &LabelChange) -> Result<PointEntry> {
        self.noted(&asked("label", vm, which), |operations| {
            operations.label(vm, which, change)
        })
    }

    fn rename_vm(&self, vm: &VmName, to: &VmName) -> Result<VmName> {
        self.noted(&asked("rename-vm", vm, to), |operations| {
            operations.rename_vm(vm, to)
        })
    }

    fn remove_vm(&self, vm: &VmName) -> Result<()> {
        self.noted(&of_vm("remove-vm", vm), |operations| {
            operations.remove_vm(vm)
        })
    }

    fn undelete(&self, vm: &VmName, point: &PointName) -> Result<PointEntry> {
        self.noted(&asked("undelete", vm, point), |operations| {
            operations.undelete(vm, point)
        })
    }

    fn note_checks(&self, vm: &VmName, notes: &CheckNotes) -> Result<()> {
        self.noted(&of_vm("note-checks", vm), |operations| {
            operations.note_checks(vm, notes)
        })
    }

    fn note_copies(&self, vm: &VmName, copies: &[(PointId, PointCopy)]) -> Result<()> {
        self.noted(&of_vm("note-copies", vm), |operations| {
            operations.note_copies(vm, copies)
        })
    }

    fn begin_arrival(&self, arrival: &Arrival) -> Result<PointName> {
        self.noted(
            &asked("begin-arrival", &arrival.vm, &arrival.name),
            |operations| operations.begin_arrival(arrival),
        )
    }

    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry> {
        self.noted(&asked("arrive", vm, session), |operations| {
            operations.arrive(vm, session)
        })
    }

    fn adopt(&self, vm: &VmName) -> Result<bool> {
        self.noted(&of_vm("adopt", vm), |operations| operations.adopt(vm))
    }

    fn change_policy(&self, change: &PolicyChange) -> Result<()> {
        self.noted(&of_policy(change), |operations| {
            operations.change_policy(change)
        })
    }

    fn empty_trash(&self) -> Result<TrashAnswer> {
        self.noted(&of_repository("empty-trash", None), |operations| {
            operations.empty_trash()
        })
    }

    fn hold(&self, vm: &VmName, which: &Which, holder: &str) -> Result<PointEntry> {
        self.noted(&asked("hold", vm, which), |operations| {
            operations.hold(vm, which, holder)
        })
    }

    fn hold_still(&self, holder: &str) -> Result<()> {
        // A caller that holds it asks again every few seconds, which is no act.
        let is_repeated = self.operations.is_holding_still();
        let result = self.operations.hold_still(holder);
        if !is_repeated || result.is_err() {
            let asked = of_repository("hold-still", Some(holder.to_owned()));
            self.note(&asked, result.as_ref().err());
        }
        result
    }

    fn sessions(&self) -> Result<Vec<SessionAnswer>> {
        self.operations.sessions()
    }

    fn tasks(&self) -> Result<Vec<TaskReport>> {
        self.operations.tasks()
    }

    fn begin_task(&self, request: &TaskRequest) -> Result<JobId> {
        let subject = &request.subject;
        let asked = Asked {
            operation: subject.kind.as_str(),
            vm: subject.vm.as_ref(),
            subject: subject.point.as_ref().map(ToString::to_string),
        };
        self.noted(&asked, |operations| operations.begin_task(request))
    }

    fn tell_task(&self, task: JobId, disks: &[TaskDisk]) -> Result<bool> {
        self.operations.tell_task(task, disks)
    }

    fn end_task(&self, task: JobId, state: TaskState, reason: Option<&str>) -> Result<()> {
        self.operations.end_task(task, state, reason)
    }

    fn cancel(&self, task: JobId) -> Result<()> {
        let asked = of_repository("cancel", Some(task.to_string()));
        self.noted(&asked, |operations| operations.cancel(task))
    }

    fn note_failure(&self, kind: TaskKind, vm: Option<&VmName>, reason: &str) -> Result<()> {
        let asked = Asked {
            operation: "note-failure",
            vm,
            subject: Some(kind.as_str().to_owned()),
        };
        self.noted(&asked, |operations| {
            operations.note_failure(kind, vm, reason)
        })
    }

    fn rebuild_catalog(&self) -> Result<usize> {
        self.noted(&of_repository("rebuild-catalog", None), |operations| {
            operations.rebuild_catalog()
        })
    }

    fn login(&self) -> Result<LoginAnswer> {
        self.noted(&of_repository("make-login", None), |operations| {
            operations.login()
        })
    }

    fn status(&self) -> Result<Status> {
        self.operations.status()
    }
}
