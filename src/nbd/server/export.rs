//! What a server serves.

use std::sync::Arc;

use super::meta_context::MetaContexts;
use crate::access::Caller;
use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::ingest::{Connection, DiskWriter, Session};
use crate::nbd::proto::flag::TransmissionFlags;
use crate::nbd::proto::option::ExportInfo;

/// What an export name stands for, as it was when it was opened.
#[derive(Clone)]
pub struct Export {
    /// Its bytes.
    pub content: Content,
    /// For people; at most 4,096 bytes.
    pub description: String,
    /// Meta contexts beside `base:allocation`.
    pub contexts: Option<Arc<dyn MetaContexts>>,
}

/// The bytes of an export.
#[derive(Clone)]
pub enum Content {
    /// Bytes that never change.
    Read(Arc<dyn ReadAt>),
    /// A disk of an open session: this very one, whatever has its name later.
    Write {
        /// The session.
        session: Arc<Session>,
        /// Its disk.
        disk: Arc<DiskWriter>,
    },
}

/// Who knows what there is to serve. Methods run on blocking threads.
pub trait Exports: Send + Sync {
    /// Exports that the caller is told of, those to write first; no more than `most`.
    fn list(&self, caller: &Caller, most: usize) -> Vec<ExportInfo>;

    /// The export of that name. What the caller may not use is answered as if it were not there.
    ///
    /// # Errors
    /// `NotFound` or `InvalidInput` when there is none; what opening it returns.
    fn open(&self, name: &str, caller: &Caller) -> Result<Export>;
}

impl Content {
    /// A connection to the session's disk; its end decides whether the disk is finished.
    pub(super) fn connect(&self) -> Result<Option<Connection>> {
        match self {
            Self::Read(_) => Ok(None),
            Self::Write { session, disk } => session.enter(disk).map(Some),
        }
    }

    /// Whether both are the same disk of a session, or bytes that never change.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write { disk, .. }, Self::Write { disk: other, .. }) => Arc::ptr_eq(disk, other),
            (Self::Read(disk), Self::Read(other)) => Arc::ptr_eq(disk, other),
            _ => false,
        }
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &dyn ReadAt {
        match self {
            Self::Read(disk) => disk.as_ref(),
            Self::Write { disk, .. } => disk.as_ref(),
        }
    }

    pub(super) fn flags(&self, structured: bool) -> TransmissionFlags {
        let mut flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::CAN_MULTI_CONN;
        flags.set(TransmissionFlags::SEND_DF, structured);
        flags |= match self {
            Self::Read(_) => TransmissionFlags::READ_ONLY,
            Self::Write { .. } => {
                TransmissionFlags::SEND_FUA
                    | TransmissionFlags::SEND_TRIM
                    | TransmissionFlags::SEND_WRITE_ZEROES
                    | TransmissionFlags::SEND_FAST_ZERO
            }
        };
        flags
    }

    /// Notes a failed write for the session's `status`.
    pub(super) fn note<T>(&self, result: Result<T>) -> Result<T> {
        match (self, &result) {
            // What the client did wrong is not the session's trouble.
            (Self::Write { session, .. }, Err(e)) if e.kind() != ErrorKind::InvalidInput => {
                session.note_error(result)
            }
            _ => result,
        }
    }
}
