//! Exports: the objects that a server serves.

use std::sync::Arc;

use super::meta_context::MetaContexts;
use crate::access::{Caller, Origin};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{Connection, DiskWriter, Session};
use crate::nbd::proto::flag::TransmissionFlags;
use crate::nbd::proto::option::ExportInfo;

/// The object behind an export name, as it was when it was opened.
#[derive(Clone)]
pub struct Export {
    /// Its bytes.
    pub content: Content,
    /// Description for people; at most 4,096 bytes.
    pub description: String,
    /// Meta contexts beside `base:allocation`.
    pub contexts: Option<Arc<dyn MetaContexts>>,
}

/// The bytes of an export.
#[derive(Clone)]
pub enum Content {
    /// Bytes that never change.
    Read(Arc<dyn ReadAt>),
    /// A disk of an open session: this object, even when its name later refers to another.
    Write {
        /// The session.
        session: Arc<Session>,
        /// Its disk.
        disk: Arc<DiskWriter>,
    },
}

/// Finds the exports of a server. Methods run on blocking threads.
pub trait Exports: Send + Sync {
    /// Exports that the caller may list, writable ones first; at most `most`.
    fn list(&self, caller: &Caller, most: usize) -> Vec<ExportInfo>;

    /// The export of that name. An export that the caller may not use appears not to exist.
    ///
    /// # Errors
    /// `NotFound` or `InvalidInput` when there is none; errors of opening it.
    fn open(&self, name: &str, caller: &Caller) -> Result<Export>;

    /// Notes that a client has got an export, or was refused one.
    fn note(&self, _opening: &Opening<'_>) {}
}

/// An export that a client has got, or was refused.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The name that the client gave. It may contain the token of a session.
    pub name: &'a str,
    /// The client.
    pub caller: &'a Caller,
    /// The client's address or process.
    pub origin: &'a Origin,
    /// Whether it is for writing; `None` when it could not be opened.
    pub is_write: Option<bool>,
    /// The refusal.
    pub error: Option<&'a Error>,
}

impl Content {
    /// Connects to the session's disk. How the connection ends decides whether the disk is finished.
    pub(super) fn connect(&self) -> Result<Option<Connection>> {
        match self {
            Self::Read(_) => Ok(None),
            Self::Write { session, disk } => session.enter(disk).map(Some),
        }
    }

    /// Whether both are the same disk of a session, or the same read-only disk.
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

    /// Records a failed write for the session's `status`.
    pub(super) fn note<T>(&self, result: Result<T>) -> Result<T> {
        match (self, &result) {
            // A mistake of the client is not a fault of the session.
            (Self::Write { session, .. }, Err(e)) if e.kind() != ErrorKind::InvalidInput => {
                session.note_error(result)
            }
            _ => result,
        }
    }
}
