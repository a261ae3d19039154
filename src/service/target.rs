//! The target for the bytes of a session's disk.

use std::sync::Arc;

use crate::block::ReadAt;
use crate::block::piece::CopySource;
use crate::capture::transfer::Export;
use crate::error::Result;
use crate::ingest::{DiskWriter, Session, copy};
use crate::task::Monitor;

/// A writable disk of a session.
pub enum DiskTarget {
    /// A writer in this process.
    Writer(Arc<Session>, Arc<DiskWriter>),
    /// An export of the owner's NBD server.
    Export(Box<Export>),
}

impl DiskTarget {
    /// Copies a source to the disk and finishes the disk.
    ///
    /// # Errors
    /// What reading the source and writing the disk return; `Cancelled`.
    pub fn fill(self, source: CopySource<'_>, monitor: &Monitor) -> Result<()> {
        match self {
            Self::Writer(session, disk) => copy::copy_into(&session, &disk, source, monitor),
            Self::Export(export) => export.fill(source, monitor),
        }
    }

    /// Reads the disk as it is now: the parent's content, where nothing was written yet. After a lost connection it is read again.
    ///
    /// # Errors
    /// Those of `read`; `Disconnected`; `Cancelled`.
    pub fn read<T>(
        &mut self,
        monitor: &Monitor,
        mut read: impl FnMut(&dyn ReadAt) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Writer(_, disk) => read(disk),
            Self::Export(export) => export.insist(monitor, |client| read(client)),
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
