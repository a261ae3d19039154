//! The operations on a repository: one function for each, whoever the caller is and through
//! whichever door it comes.
//!
//! A request and its serde form live at the lowest floor that executes it (`ingest::BeginRequest`).
//! This module adds the caller, the caller's rights, and the answers. [`LocalService`] executes
//! operations in the process that owns the repository; `control::Client` implements the same trait
//! in another process. Commands that only read need neither: they open the repository themselves.
//!
//! # Invariants
//! - No door decides anything: rights, defaults and errors are the same for the command line, the
//!   control socket and the mounted tree.
//! - For a caller that may not read a VM, the VM does not exist.
//! - Each operation that changes something or hands out content is noted in the audit log, in one
//!   place ([`LocalService`]), also when it is refused.

mod answer;
mod audited;
pub mod backup;
mod committed;
mod event;
pub mod exposition;
mod follow;
mod host;
mod local;
mod login;
mod look;
mod mount;
mod owned;
pub mod restore;
mod target;
mod task;
pub mod view;

pub use audited::LocalService;
pub mod work;
mod works;

pub use answer::{
    BeginAnswer, CommitAnswer, DiskResult, ForgetAnswer, KeptPoint, SessionAnswer, TrashAnswer,
};
pub use committed::committed;
pub use event::{Event, EventBus, Happening, SessionChange, Subscription};
pub use follow::Follow;
pub use host::{Host, MountAnswer, MountRequest, Status};
pub use local::{check_attached, read_attached};
pub use login::{Login, LoginAnswer};
pub use owned::{DEFAULT_NAME, Destination, Elsewhere, OwnedRepository};
pub use target::DiskTarget;
pub use works::Works;

pub use crate::ingest::{BeginRequest, CommitRequest, DiskRequest};

use crate::error::Result;
use crate::repo::LabelChange;
use crate::repo::arrive::Arrival;
use crate::repo::checks::CheckNotes;
use crate::repo::policy::PolicyChange;
use crate::repo::put_back::PutBack;
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::sidecar::copied::PointCopy;
use crate::repo::sidecar::index::PointEntry;
use crate::task::{TaskDisk, TaskKind, TaskReport, TaskRequest, TaskState};
use crate::types::{JobId, PointId, PointName, SessionRef, VmName};

/// The operations that change a repository, and the queries that only its owner can answer.
///
/// # Errors
/// Besides those of each operation: `NotFound` for a VM that the caller may not read,
/// `PermissionDenied` for what the caller may not do; from a remote implementation `Disconnected`
/// when the owner goes away.
pub trait Service: Send {
    /// Begins a session.
    ///
    /// # Errors
    /// As [`Session::begin`](crate::ingest::Session::begin).
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer>;

    /// The target for the bytes of a session's disk.
    ///
    /// # Errors
    /// `NotFound`; what connecting to an NBD export returns.
    fn disk_target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget>;

    /// Attaches a file of at most 16 MiB to an open session.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` (the name); `TooLarge`, `LimitExceeded`, `NoSpace`, `Io`.
    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()>;

    /// Proves that the holder of a session lives: its time to live counts from now.
    ///
    /// # Errors
    /// `NotFound`.
    fn renew(&self, session: &SessionRef) -> Result<()>;

    /// Makes a restore point of a session.
    ///
    /// # Errors
    /// `NotFound`; as [`Session::commit`](crate::ingest::Session::commit).
    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<CommitAnswer>;

    /// Ends a session without a restore point; `failure` is the reason why it could not be
    /// committed, `None` for an end on request.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while it is being committed; `Io`.
    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()>;

    /// Forgets restore points. The answer lists a point that cannot be forgotten, with the reason.
    /// With `is_retention` the owner also records that retention has kept the other points of the VM.
    ///
    /// # Errors
    /// As [`Owner::forget_points`](crate::repo::Owner::forget_points).
    fn forget(&self, vm: &VmName, points: &[PointName], is_retention: bool)
    -> Result<ForgetAnswer>;

    /// Changes the labels of a restore point; returns the point as it is then.
    ///
    /// # Errors
    /// As [`Owner::label_point`](crate::repo::Owner::label_point).
    fn label(&self, vm: &VmName, which: &Which, change: &LabelChange) -> Result<PointEntry>;

    /// Gives a VM another name; returns the former one.
    ///
    /// # Errors
    /// As [`Owner::rename_vm`](crate::repo::Owner::rename_vm).
    fn rename_vm(&self, vm: &VmName, to: &VmName) -> Result<VmName>;

    /// Removes a VM without restore points.
    ///
    /// # Errors
    /// As [`Owner::remove_vm`](crate::repo::Owner::remove_vm).
    fn remove_vm(&self, vm: &VmName) -> Result<()>;

    /// Brings a forgotten point back from the trash.
    ///
    /// # Errors
    /// As [`Owner::undelete`](crate::repo::Owner::undelete).
    fn undelete(&self, vm: &VmName, point: &PointName) -> Result<PointEntry>;

    /// Keeps results of verifying a VM.
    ///
    /// # Errors
    /// As [`Owner::note_checks`](crate::repo::Owner::note_checks).
    fn note_checks(&self, vm: &VmName, notes: &CheckNotes) -> Result<()>;

    /// Records copies of points of a VM at another repository.
    ///
    /// # Errors
    /// As [`Owner::note_copies`](crate::repo::Owner::note_copies).
    fn note_copies(&self, vm: &VmName, copies: &[(PointId, PointCopy)]) -> Result<()>;

    /// Begins to receive a copy of a point, or goes on with it; returns the name of the session.
    ///
    /// # Errors
    /// As [`Owner::begin_arrival`](crate::repo::Owner::begin_arrival).
    fn begin_arrival(&self, arrival: &Arrival) -> Result<PointName>;

    /// Makes a restore point of a copy that has arrived.
    ///
    /// # Errors
    /// As [`Owner::arrive`](crate::repo::Owner::arrive).
    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry>;

    /// Makes a VM that is copied from another repository a VM of this one; returns whether it was a copy.
    ///
    /// # Errors
    /// As [`Owner::adopt`](crate::repo::Owner::adopt).
    fn adopt(&self, vm: &VmName) -> Result<bool>;

    /// Changes the policies: writes, removes or assigns one, records results of runs, or names the machine that runs them.
    ///
    /// # Errors
    /// `InvalidInput` for a policy that contradicts itself or overlaps with another; as
    /// [`Owner::change_policy`](crate::repo::Owner::change_policy).
    fn change_policy(&self, change: &PolicyChange) -> Result<()>;

    /// Deletes all that is in the trash.
    ///
    /// # Errors
    /// As [`Owner::clear_trash`](crate::repo::Owner::clear_trash).
    fn empty_trash(&self) -> Result<TrashAnswer>;

    /// Puts a layer that was built into its slot.
    ///
    /// # Errors
    /// As [`Owner::replace`](crate::repo::Owner::replace).
    fn replace(&self, replacement: &Replacement) -> Result<()>;

    /// Puts a file back that is lost or damaged.
    ///
    /// # Errors
    /// As [`Owner::put_back`](crate::repo::Owner::put_back).
    fn put_back(&self, what: &PutBack) -> Result<()>;

    /// Holds a use of a restore point: the point is not forgotten as long as this value lives.
    /// `holder` describes what needs it.
    ///
    /// # Errors
    /// `NotFound`.
    fn hold(&self, vm: &VmName, which: &Which, holder: &str) -> Result<PointEntry>;

    /// Holds the whole repository as long as this value lives: no layer is replaced, no point is forgotten, and the trash
    /// keeps what it has; restore points are committed all the same. Waits for such changes that are under way. `holder`
    /// describes the holder. A repeated call proves that the hold goes on.
    ///
    /// # Errors
    /// As [`Owner::hold_still`](crate::repo::Owner::hold_still).
    fn hold_still(&self, holder: &str) -> Result<()>;

    /// The sessions that are open in the owner.
    ///
    /// # Errors
    /// None of its own.
    fn sessions(&self) -> Result<Vec<SessionAnswer>>;

    /// The owner's tasks: first the running ones, then those that have ended, the newest first.
    ///
    /// # Errors
    /// None of its own.
    fn tasks(&self) -> Result<Vec<TaskReport>>;

    /// Begins a task whose work the caller does itself: a merge, a verification, a restore. It ends with
    /// [`Service::end_task`], or as failed when the caller goes away.
    ///
    /// # Errors
    /// `InvalidInput` for work that the owner does; `LimitExceeded`.
    fn begin_task(&self, request: &TaskRequest) -> Result<JobId>;

    /// Reports the progress of a task that this caller began; returns whether it is to stop.
    ///
    /// # Errors
    /// `NotFound`; `LimitExceeded`.
    fn tell_task(&self, task: JobId, disks: &[TaskDisk]) -> Result<bool>;

    /// Ends a task that this caller began; `reason` is why it failed.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for a state in which a task goes on.
    fn end_task(&self, task: JobId, state: TaskState, reason: Option<&str>) -> Result<()>;

    /// Asks a task to stop. A stopped backup is aborted.
    ///
    /// # Errors
    /// `NotFound`; `NotPermitted` for a task that cannot be stopped half-way.
    fn cancel(&self, task: JobId) -> Result<()>;

    /// Records in the job history that work failed before its session or task began.
    ///
    /// # Errors
    /// None of its own.
    fn note_failure(&self, kind: TaskKind, vm: Option<&VmName>, reason: &str) -> Result<()>;

    /// Rebuilds the catalog from the sidecars; returns the number of VMs.
    ///
    /// # Errors
    /// As [`Owner::rebuild_catalog`](crate::repo::Owner::rebuild_catalog).
    fn rebuild_catalog(&self) -> Result<usize>;

    /// A login to the web pages of the daemon, with the rights of this caller.
    ///
    /// # Errors
    /// `NotFound` where no daemon serves pages; `LimitExceeded`.
    fn login(&self) -> Result<LoginAnswer>;

    /// The owner's process, and the addresses where it serves the repository.
    ///
    /// # Errors
    /// None of its own.
    fn status(&self) -> Result<Status>;
}
