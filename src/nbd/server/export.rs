//! What a server serves.

use std::sync::Arc;

use super::caller::Caller;
use super::survey::Surveyor;
use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::ingest::{Connection, DiskWriter, Session};
use crate::nbd::proto::flag::TransmissionFlags;
use crate::nbd::proto::option::ExportInfo;
use crate::types::DiskName;

/// What an export name stands for.
pub struct Export {
    /// Its bytes.
    pub content: Content,
    /// For people; at most 4,096 bytes.
    pub description: String,
    /// Meta contexts beside `base:allocation`.
    pub surveyor: Option<Arc<dyn Surveyor>>,
}

/// The bytes of an export.
#[derive(Clone)]
pub enum Content {
    /// Bytes that never change.
    Read(Arc<dyn ReadAt>),
    /// A disk of an open session.
    Write {
        /// The session.
        session: Arc<Session>,
        /// Which of its disks.
        disk: DiskName,
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

/// An export that a client has chosen or asks about.
#[derive(Clone)]
pub(super) enum Target {
    /// To read.
    Read(Arc<dyn ReadAt>),
    /// To write as well.
    Write {
        session: Arc<Session>,
        disk: Arc<DiskWriter>,
        name: DiskName,
    },
}

/// An open export.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) target: Target,
    pub(super) description: String,
    pub(super) surveyor: Option<Arc<dyn Surveyor>>,
}

impl Opened {
    /// Opens the export. Blocks.
    pub(super) fn open(exports: &dyn Exports, name: &str, caller: &Caller) -> Result<Self> {
        let export = exports.open(name, caller)?;
        let target = match export.content {
            Content::Read(disk) => Target::Read(disk),
            Content::Write { session, disk } => Target::Write {
                disk: session.disk(&disk)?,
                session,
                name: disk,
            },
        };
        Ok(Self {
            target,
            description: export.description,
            surveyor: export.surveyor,
        })
    }
}

impl Target {
    /// A connection to the session's disk; its end decides whether the disk is finished.
    pub(super) fn connect(&self) -> Result<Option<Connection>> {
        match self {
            Self::Read(_) => Ok(None),
            Self::Write { session, name, .. } => Ok(Some(session.connect(name)?.1)),
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
