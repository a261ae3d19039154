//! Where a backup makes its restore point: in this process, at the owner's, or at a daemon elsewhere.

use super::made::Made;
use crate::error::Result;
use crate::ingest::{BeginRequest, CommitRequest};
use crate::service::{BeginAnswer, DiskResult, DiskTarget, Service};
use crate::types::SessionRef;

/// The operations that a backup needs.
pub trait Desk {
    /// Begins a session.
    ///
    /// # Errors
    /// As [`Service::begin`].
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer>;

    /// The target for the bytes of a disk.
    ///
    /// # Errors
    /// As [`Service::disk_target`].
    fn target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget>;

    /// Attaches bytes.
    ///
    /// # Errors
    /// As [`Service::attach`].
    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()>;

    /// Proves that the backup lives.
    ///
    /// # Errors
    /// As [`Service::renew`].
    fn renew(&self, session: &SessionRef) -> Result<()>;

    /// Makes the restore point.
    ///
    /// # Errors
    /// As [`Service::commit`].
    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<Made>;

    /// Ends the session without a restore point.
    ///
    /// # Errors
    /// As [`Service::abort`].
    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()>;
}

/// The desk of a service that cannot be lost: it is in this process.
pub struct Direct<'a>(pub &'a dyn Service);

impl Desk for Direct<'_> {
    fn begin(&self, request: &BeginRequest) -> Result<BeginAnswer> {
        self.0.begin(request)
    }

    fn target(&self, session: &SessionRef, disk: &DiskResult) -> Result<DiskTarget> {
        self.0.disk_target(session, disk)
    }

    fn attach(&self, session: &SessionRef, name: &str, content: &[u8]) -> Result<()> {
        self.0.attach(session, name, content)
    }

    fn renew(&self, session: &SessionRef) -> Result<()> {
        self.0.renew(session)
    }

    fn commit(&self, session: &SessionRef, request: &CommitRequest) -> Result<Made> {
        Made::of(&self.0.commit(session, request)?)
    }

    fn abort(&self, session: &SessionRef, failure: Option<&str>) -> Result<()> {
        self.0.abort(session, failure)
    }
}
