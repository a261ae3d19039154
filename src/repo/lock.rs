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

/// Which repository a process means: its directory and its lock. A copy has others, whatever it says of itself; a hard link of the lock
/// alone lies in another directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The repository's directory.
    pub directory: Identity,
    /// Its lock.
    pub lock: Identity,
}

impl Site {
    /// The site of a repository whose lock is there; `None` when there is no lock, or the repository is no local directory.
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
        let who = match Holder::of(repository) {
            Holder::Process(Some(n)) => format!(
                "restorefs {} (pid {} on {}, since {})",
                n.role, n.pid, n.host, n.taken_at
            ),
            _ => "another process".to_owned(),
        };
        Error::new(
            ErrorKind::Locked,
            format!("the repository is being written by {who}"),
        )
        .advise("wait for it to end, or stop it")
    })
}

/// Who holds the lock.
#[derive(Debug, Clone)]
pub enum Holder {
    /// Nobody: there is no daemon either.
    Nobody,
    /// A process, with its note if that can be read.
    Process(Option<Note>),
    /// The lock cannot be looked at.
    Unknown,
}

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

impl Holder {
    /// Who holds the lock of a repository now.
    #[must_use]
    pub fn of(repository: &Repository) -> Self {
        let note = layout::lock().and_then(|key| repository.store().lock_note(&key));
        match note {
            Ok(None) => Self::Nobody,
            Ok(Some(bytes)) => Self::Process(Note::parse(&bytes)),
            // Who may not read the lock may still be let in by the daemon.
            Err(_) => Self::Unknown,
        }
    }
}

impl Note {
    /// The note of this process, which takes no requests.
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
