//! A new identity for a repository that was copied: two repositories with one id would be taken for one.

use super::layout;
use super::owner::Owner;
use super::sidecar::encode;
use crate::error::Result;
use crate::store::PutMode;
use crate::types::RepositoryId;

impl Owner {
    /// Gives the repository a new random id, and returns it. Nothing else in the repository depends on the id: the catalog follows, and
    /// is rebuilt by the next owner where it does not.
    ///
    /// # Errors
    /// `Locked` when the lock is lost; `Io`.
    pub fn renew_id(&self) -> Result<RepositoryId> {
        self.verify_lock()?;
        let mut format = self.repository().format_now()?;
        format.repository_id = RepositoryId::random();
        let (key, bytes) = (layout::format()?, encode(&format)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        if let Err(e) = self.catalog().renew_id(format.repository_id) {
            tracing::debug!(error = %e.report(), "the catalog keeps the old id, and is rebuilt");
        }
        Ok(format.repository_id)
    }
}
