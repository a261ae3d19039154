//! What was removed and is not deleted yet.

use super::View;
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Trashed;

impl View {
    /// The entries of the trash.
    ///
    /// # Errors
    /// `PermissionDenied` for a caller that may not read all VMs: an entry names its VM; `Io`.
    pub fn trash(&self) -> Result<Vec<Trashed>> {
        if !self.may_all(Right::Read) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the trash is shown to callers that may read every VM",
            ));
        }
        self.repository().trash()
    }
}
