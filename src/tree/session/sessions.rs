//! The operations of the repository's owner that a writable tree needs.

use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Result;
use crate::ingest::{BeginRequest, CommitRequest, Session, SessionState};
use crate::types::{PointName, VmName};

/// The open sessions and the operations on them, with the rights of one mount.
///
/// # Why
/// A mount is one door of several: its operations on sessions and points are the same as those of the other
/// doors, and are executed in one place above the tree. They do not wait until other mounts show the change,
/// because the caller holds the lock of a directory of this mount.
pub trait Sessions: Send + Sync {
    /// All open sessions, by VM and name.
    fn all(&self) -> Vec<Arc<Session>>;

    /// The open sessions of a VM, by name.
    fn of_vm(&self, vm: &VmName) -> Vec<Arc<Session>>;

    /// The open session of that serial.
    fn by_serial(&self, serial: u32) -> Option<Arc<Session>>;

    /// How the session with that serial ended, and its VM.
    fn ended(&self, serial: u32) -> Option<(VmName, SessionState)>;

    /// Number of changes, for the times of directories.
    fn generation(&self) -> u64;

    /// The present instant.
    fn now(&self) -> Timestamp;

    /// The NBD targets of a session's disks: the content of `nbd-targets`.
    fn nbd_targets(&self, session: &Session) -> String;

    /// Makes a VM without restore points.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidInput`, `NoSpace`, `Io`.
    fn make_vm(&self, vm: &VmName) -> Result<()>;

    /// Removes a VM that has neither a restore point nor a session.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `Busy`, `Io`.
    fn remove_vm(&self, vm: &VmName) -> Result<()>;

    /// Begins a session.
    ///
    /// # Errors
    /// As [`Session::begin`].
    fn begin(&self, request: &BeginRequest) -> Result<Arc<Session>>;

    /// Makes a restore point of a session.
    ///
    /// # Errors
    /// As [`Session::commit`].
    fn commit(&self, session: &Session, request: &CommitRequest) -> Result<()>;

    /// Ends a session without a restore point.
    ///
    /// # Errors
    /// As [`Session::end`].
    fn abort(&self, session: &Session) -> Result<()>;

    /// Forgets a restore point.
    ///
    /// # Errors
    /// `NotPermitted` where the mount does not allow it; `Busy` while the point is in use; `NoSpace`, `Io`.
    fn forget(&self, vm: &VmName, point: &PointName) -> Result<()>;
}
