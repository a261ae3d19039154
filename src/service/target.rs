//! The target for the bytes of a session's disk.

use std::sync::Arc;

use crate::block::{ReadAt, WriteAt};
use crate::capture::transfer::transfer;
use crate::error::Result;
use crate::ingest::{DiskWriter, Session, copy};
use crate::nbd::client::Client as NbdClient;
use crate::task::Monitor;

/// A writable disk of a session.
pub enum DiskTarget {
    /// A writer in this process.
    Writer(Arc<Session>, Arc<DiskWriter>),
    /// An export of the owner's NBD server.
    Export(Box<NbdClient>),
}

impl DiskTarget {
    /// Copies a whole source to the disk and finishes the disk.
    ///
    /// # Errors
    /// What reading the source and writing the disk return; `Cancelled`.
    pub fn fill(self, source: &dyn ReadAt, monitor: &Monitor) -> Result<()> {
        match self {
            Self::Writer(session, disk) => {
                copy::copy_into(&session, &disk, source, monitor).map(drop)
            }
            Self::Export(client) => {
                transfer(source, client.as_ref(), monitor)?;
                client.flush()?;
                client.disconnect()
            }
        }
    }

    /// The writer, when it is in this process.
    #[must_use]
    pub const fn writer(&self) -> Option<&Arc<DiskWriter>> {
        match self {
            Self::Writer(_, disk) => Some(disk),
            Self::Export(_) => None,
        }
    }
}
