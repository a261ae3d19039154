//! What a server serves.

use std::sync::Arc;

use super::survey::Surveyor;
use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::ingest::{Connection, DiskWriter, Session};
use crate::nbd::proto::flag::TransmissionFlags;
use crate::nbd::proto::option::ExportInfo;
use crate::types::DiskName;

/// What an export name stands for.
#[derive(Clone)]
pub enum Export {
    /// Bytes that never change.
    Read {
        /// The bytes.
        disk: Arc<dyn ReadAt>,
        /// Meta contexts beside `base:allocation`.
        surveyor: Option<Arc<dyn Surveyor>>,
    },
    /// A disk of an open session.
    Write {
        /// The session.
        session: Arc<Session>,
        /// Which of its disks.
        disk: DiskName,
        /// Meta contexts beside `base:allocation`.
        surveyor: Option<Arc<dyn Surveyor>>,
    },
}

/// Who knows what there is to serve. Methods run on blocking threads.
pub trait Exports: Send + Sync {
    /// All exports, those to write first.
    fn list(&self) -> Vec<ExportInfo>;

    /// The export of that name.
    ///
    /// # Errors
    /// `NotFound` or `InvalidInput` when there is none; what opening it returns.
    fn open(&self, name: &str) -> Result<Export>;
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
    pub(super) surveyor: Option<Arc<dyn Surveyor>>,
}

impl Opened {
    /// Opens the export. Blocks.
    pub(super) fn open(exports: &dyn Exports, name: &str) -> Result<Self> {
        Ok(match exports.open(name)? {
            Export::Read { disk, surveyor } => Self {
                target: Target::Read(disk),
                surveyor,
            },
            Export::Write {
                session,
                disk: name,
                surveyor,
            } => {
                let disk = session.disk(&name)?;
                let target = Target::Write {
                    session,
                    disk,
                    name,
                };
                Self { target, surveyor }
            }
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
