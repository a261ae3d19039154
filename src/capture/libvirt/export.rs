//! The exports of a backup job of libvirt.

use std::path::PathBuf;

use super::xml::CHANGES;
use crate::capture::reopen::Again;
use crate::capture::virsh::Virsh;
use crate::capture::virsh::job::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::Client;
use crate::nbd::proto::uri::Uri;

/// An export of a disk.
#[derive(Clone)]
pub(super) struct Export {
    pub(super) virsh: Virsh,
    pub(super) domain: String,
    /// The socket of the job, which no other job has.
    pub(super) socket: PathBuf,
    /// The export's name.
    pub(super) name: String,
    /// Whether it shows what has changed.
    pub(super) has_changes: bool,
}

/// The error for a job that is gone.
pub(super) fn gone() -> Error {
    Error::new(
        ErrorKind::Stale,
        "the backup job of the domain has ended: the domain was shut off or killed, or somebody aborted the job",
    )
}

impl Export {
    /// Whether the domain still has the same job.
    ///
    /// # Errors
    /// `Stale` when it does not; as [`Job::of`].
    pub(super) fn prove(&self) -> Result<()> {
        match Job::of(&self.virsh, &self.domain)? {
            Some(job) if job.socket.as_ref() == Some(&self.socket) => Ok(()),
            _ => Err(gone()),
        }
    }
}

impl Again for Export {
    type Source = Client;

    fn open(&self) -> Result<Client> {
        self.prove()?;
        let uri = Uri::unix(&self.socket, self.name.as_str());
        match self.has_changes {
            true => Client::connect_with_bitmap(&uri, CHANGES),
            false => Client::connect(&uri),
        }
    }
}
