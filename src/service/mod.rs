//! What can be asked of a repository: one operation, one function, whoever asks and through whichever door.
//!
//! A request lives, with its serde form, at the lowest floor that executes it (`ingest::BeginRequest`); this module adds the caller, the
//! caller's rights, and the answers. [`LocalService`] executes operations in the process that owns the repository; `control::Client` is the
//! same trait in another process. Commands that only read need neither: they open the repository themselves.
//!
//! # Invariants
//! - Nothing is decided at a door: rights, defaults and errors are the same for the command line, the control socket and the mounted tree.
//! - A caller who may not read a VM is told that there is none.

mod answer;
pub mod backup;
mod event;
mod host;
mod local;
mod mount;
mod owned;
pub mod restore;
mod target;
mod task;

pub use answer::{BeginAnswer, CommitAnswer, DiskResult, ForgetAnswer, SessionAnswer};
pub use event::{Event, EventBus, Happening, Subscription};
pub use host::{Host, MountAnswer, MountRequest, Status};
pub use local::{LocalService, check_attached, read_attached};
pub use owned::OwnedRepository;
pub use target::DiskTarget;

pub use crate::ingest::{BeginRequest, CommitRequest, DiskRequest};

use std::fs::File;

use crate::error::Result;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::PointEntry;
use crate::task::TaskReport;
use crate::types::{JobId, PointName, SessionRef, VmName};

/// The operations that change a repository, and what its owner knows.
///
/// # Errors
/// Besides those that each operation names: `NotFound` for a VM that the caller may not read, `PermissionDenied` for what the caller may
/// not do; of a remote implementation `Disconnected` when the owner goes away.
pub trait Service: Send {
    /// Begins a session.
    ///
    /// # Errors
    /// As [`Session::begin`](crate::ingest::Session::begin).
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer>;

    /// Where the bytes of a session's disk go.
    ///
    /// # Errors
    /// `NotFound`; what connecting to an NBD export answers.
    fn disk_target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget>;

    /// Attaches a regular file, of at most 16 MiB, to an open session.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` (the name, no regular file); `TooLarge`, `LimitExceeded`, `NoSpace`, `Io`.
    fn attach(&self, session: &SessionRef, name: &str, file: &File) -> Result<()>;

    /// Makes a restore point of a session.
    ///
    /// # Errors
    /// `NotFound`; as [`Session::commit`](crate::ingest::Session::commit).
    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<CommitAnswer>;

    /// Ends a session without a restore point; `failure` says what kept it from being committed, when it is not ended on request.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while it is being committed; `Io`.
    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()>;

    /// Forgets restore points. A point that cannot be forgotten is in the answer, with the reason.
    ///
    /// # Errors
    /// As [`Owner::forget_points`](crate::repo::Owner::forget_points).
    fn forget(&self, vm: &VmName, points: &[PointName]) -> Result<ForgetAnswer>;

    /// Holds a use of a restore point, which is not forgotten as long as this value lives. `holder` says in words what needs it.
    ///
    /// # Errors
    /// `NotFound`.
    fn hold(&self, vm: &VmName, which: &Which, holder: &str) -> Result<PointEntry>;

    /// The sessions that are open in the owner.
    ///
    /// # Errors
    /// None of its own.
    fn sessions(&self) -> Result<Vec<SessionAnswer>>;

    /// The tasks of the owner: what is being done, then what has ended, the newest first.
    ///
    /// # Errors
    /// None of its own.
    fn tasks(&self) -> Result<Vec<TaskReport>>;

    /// Asks a task to stop. A backup is aborted.
    ///
    /// # Errors
    /// `NotFound`; `NotPermitted` for one that cannot be stopped half-way.
    fn cancel(&self, task: JobId) -> Result<()>;

    /// Keeps in the job history that a backup failed before a session began.
    ///
    /// # Errors
    /// None of its own.
    fn note_failure(&self, vm: &VmName, reason: &str) -> Result<()>;

    /// Builds the catalog anew from the sidecars; answers the number of VMs.
    ///
    /// # Errors
    /// As [`Owner::rebuild_catalog`](crate::repo::Owner::rebuild_catalog).
    fn rebuild_catalog(&self) -> Result<usize>;

    /// Which process the owner is, and where it serves the repository.
    ///
    /// # Errors
    /// None of its own.
    fn status(&self) -> Result<Status>;
}
