//! The exports of a backup job of libvirt.

use std::path::PathBuf;

use super::xml::CHANGES;
use crate::capture::reopen::Again;
use crate::capture::virsh::Virsh;
use crate::capture::virsh::job::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::{Bitmap, Client};
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

    fn uri(&self) -> Result<Uri> {
        self.prove()?;
        Ok(Uri::unix(&self.socket, self.name.as_str()))
    }
}

/// The content of an export.
pub(super) struct Content(pub(super) Export);

impl Again for Content {
    type Source = Client;

    fn open(&self) -> Result<Client> {
        Client::connect(&self.0.uri()?)
    }
}

/// The bitmap of an export.
pub(super) struct Changed(pub(super) Export);

impl Again for Changed {
    type Source = Bitmap;

    fn open(&self) -> Result<Bitmap> {
        Bitmap::connect(&self.0.uri()?, CHANGES)
    }
}
