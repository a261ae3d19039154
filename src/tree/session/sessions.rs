//! What a writable tree asks of the repository's owner.

use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Result;
use crate::ingest::{BeginRequest, CommitRequest, Session, SessionState};
use crate::types::{PointName, VmName};

/// The open sessions and the operations on them, with the rights of one mount.
///
/// # Why
/// A mount is one door of several: what it does to sessions and points is the same operation as at the others, and is executed in one
/// place above the tree. Operations do not wait until other mounts show the change, since the caller holds a directory of this one.
pub trait Sessions: Send + Sync {
    /// All open sessions, by VM and name.
    fn all(&self) -> Vec<Arc<Session>>;

    /// The open sessions of a VM, by name.
    fn of_vm(&self, vm: &VmName) -> Vec<Arc<Session>>;

    /// The open session of that serial.
    fn by_serial(&self, serial: u32) -> Option<Arc<Session>>;

    /// How the session of that serial ended, and of which VM it was.
    fn ended(&self, serial: u32) -> Option<(VmName, SessionState)>;

    /// Counts changes, for the times of directories.
    fn generation(&self) -> u64;

    /// The present instant.
    fn now(&self) -> Timestamp;

    /// Where the disks of a session can be written over NBD: the content of `nbd-targets`.
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
    /// As [`Session::abort`].
    fn abort(&self, session: &Session) -> Result<()>;

    /// Forgets a restore point.
    ///
    /// # Errors
    /// `NotPermitted` where restore points are not removed through the tree; `Busy` while it is in use; `NoSpace`, `Io`.
    fn forget(&self, vm: &VmName, point: &PointName) -> Result<()>;
}
