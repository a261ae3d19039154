//! The writer's lock: one process at a time changes a repository.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sys::host;

/// Seconds between heartbeats.
pub const HEARTBEAT_SECONDS: u64 = 15;

/// What the lock file says of its holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Host name.
    pub host: String,
    /// The kernel's boot id: a pid means something only within one boot.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Random, so that two locks of one process differ.
    pub nonce: String,
    /// What the process is: `serve`, `backup`, ...
    pub role: String,
    /// The socket on which it takes requests, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<PathBuf>,
    /// When the lock was taken.
    pub taken_at: Timestamp,
    /// When it was last seen alive.
    pub heartbeat: Timestamp,
}

impl Note {
    /// The note of this process, which takes requests on the socket `control`.
    #[must_use]
    pub fn of_this_process(role: &str, control: Option<PathBuf>, now: Timestamp) -> Self {
        Self {
            host: host::name(),
            boot_id: host::boot_id().unwrap_or_else(|_| "unknown".to_owned()),
            pid: std::process::id(),
            nonce: crate::types::SessionId::random().to_string(),
            role: role.to_owned(),
            control,
            taken_at: now,
            heartbeat: now,
        }
    }

    /// Whether its process is one of this machine, since it was started.
    #[must_use]
    pub fn is_of_this_machine(&self) -> bool {
        self.host == host::name() && host::boot_id().is_ok_and(|id| id == self.boot_id)
    }

    /// As bytes of the lock file.
    ///
    /// # Errors
    /// None in practice.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|e| Error::invalid("the lock's note cannot be encoded").caused_by(e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// From bytes of the lock file; `None` when they are not a note.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
