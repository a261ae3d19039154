//! Who may do what.
//!
//! # Invariants
//! What nobody has allowed is not allowed. A VM that a caller may not read does not exist for that caller.

mod caller;
mod table;

pub use caller::Caller;
pub use table::Access;

use serde::Deserialize;

/// What may be done, with a VM or with the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Restore points may be read.
    Read,
    /// Disks of sessions may be written, over TCP by whoever knows the session's token.
    Ingest,
    /// Restore points and VMs may be removed.
    #[serde(skip)]
    Manage,
    /// Mounts may be handed over, the catalog rebuilt.
    #[serde(skip)]
    Admin,
}
