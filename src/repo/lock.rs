//! The writer's lock: one process at a time changes a repository.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout;
use super::repository::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Identity, Key, Lock};
use crate::sys::host;

/// Seconds between heartbeats.
pub const HEARTBEAT_SECONDS: u64 = 15;

/// Identity of the repository that a process uses: its directory and its lock. A copy has other identities,
/// even with the same repository id; a hard link of the lock alone lies in another directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The repository's directory.
    pub directory: Identity,
    /// Its lock.
    pub lock: Identity,
}

impl Site {
    /// The site of a repository; `None` when it has no lock file, or is not a local directory.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    pub fn of(repository: &Repository) -> Result<Option<Self>> {
        let store = repository.store();
        let directory = store.identity(&Key::root())?;
        let lock = store.identity(&layout::lock()?)?;
        Ok(directory
            .zip(lock)
            .map(|(directory, lock)| Self { directory, lock }))
    }
}

/// Takes the lock.
///
/// # Errors
/// `Locked` naming the present holder; `Io`.
pub(super) fn take(repository: &Repository, note: &Note) -> Result<Arc<dyn Lock>> {
    let taken = repository.store().lock(&layout::lock()?, &note.encode()?);
    taken.map(Arc::from).map_err(|e| {
        if e.kind() != ErrorKind::Locked {
            return e;
        }
        let holder = match Holder::of(repository) {
            Holder::Process(Some(n)) => format!(
                "restorefs {} (pid {} on {}, since {})",
                n.role, n.pid, n.host, n.taken_at
            ),
            _ => "another process".to_owned(),
        };
        Error::new(
            ErrorKind::Locked,
            format!("the repository is being written by {holder}"),
        )
        .advise("wait for it to end, or stop it")
    })
}

/// The holder of the lock.
#[derive(Debug, Clone)]
pub enum Holder {
    /// No process; so no daemon serves the repository either.
    Nobody,
    /// A process, with its note if that can be read.
    Process(Option<Note>),
    /// The lock cannot be read.
    Unknown,
}

/// The note about the holder, in the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Host name.
    pub host: String,
    /// The kernel's boot id: a pid has a meaning only within one boot.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// Random, so that two locks of one process differ.
    pub nonce: String,
    /// What the process is: `serve`, `backup`, ...
    pub role: String,
    /// The socket on which it takes requests, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<PathBuf>,
    /// When the lock was taken.
    pub taken_at: Timestamp,
    /// Time of the last heartbeat.
    pub heartbeat: Timestamp,
}

impl Holder {
    /// The present holder of a repository's lock.
    #[must_use]
    pub fn of(repository: &Repository) -> Self {
        let note = layout::lock().and_then(|key| repository.store().lock_note(&key));
        match note {
            Ok(None) => Self::Nobody,
            Ok(Some(bytes)) => Self::Process(Note::parse(&bytes)),
            // A user without permission to read the lock may still be admitted by the daemon.
            Err(_) => Self::Unknown,
        }
    }
}

impl Note {
    /// The note of this process when it takes no requests.
    #[must_use]
    pub fn of_this_process(role: &str, now: Timestamp) -> Self {
        Self {
            host: host::name(),
            boot_id: host::boot_id().unwrap_or_else(|_| "unknown".to_owned()),
            pid: std::process::id(),
            nonce: crate::types::SessionId::random().to_string(),
            role: role.to_owned(),
            control: None,
            taken_at: now,
            heartbeat: now,
        }
    }

    /// Whether its process runs on this machine, in its present boot.
    #[must_use]
    pub fn is_of_this_machine(&self) -> bool {
        self.host == host::name() && host::boot_id().is_ok_and(|id| id == self.boot_id)
    }

    /// Encodes the note for the lock file.
    ///
    /// # Errors
    /// None in practice.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|e| Error::invalid("the lock's note cannot be encoded").caused_by(e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Decodes the bytes of the lock file; `None` when they are not a note.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
