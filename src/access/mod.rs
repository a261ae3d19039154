//! Access: which caller may do what.
//!
//! # Invariants
//! What is not explicitly allowed is forbidden. A VM that a caller may not read does not exist for
//! that caller.

mod caller;
mod table;

pub use caller::Caller;
pub use table::Access;

use serde::Deserialize;

/// A right on a VM or on the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read restore points.
    Read,
    /// Write disks of sessions; over TCP this also needs the session's token.
    Ingest,
    /// Remove restore points and VMs.
    #[serde(skip)]
    Manage,
    /// Hand mounts over, rebuild the catalog.
    #[serde(skip)]
    Admin,
}
