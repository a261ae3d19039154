//! A node of an open session, and the suffixes of its names.

use std::sync::Arc;

use super::inode::Ino;
use crate::ingest::{DiskWriter, Session};

/// Suffix of a session's directory name.
pub(super) const SUFFIX: &str = ".partial";
/// Suffix of a disk's file name.
pub(super) const DISK_SUFFIX: &str = ".raw";

/// Kind of a node in a session.
#[derive(Clone)]
pub(super) enum Part {
    /// Its directory.
    Top,
    /// `disks/`.
    Disks,
    /// A disk, or a file that is written beside one.
    Disk(Arc<DiskWriter>),
    /// `attached/`.
    Attached,
    /// An attached file.
    File(String),
    /// `status`.
    Status,
    /// `nbd-targets`.
    Targets,
}

/// A node of a session.
#[derive(Clone)]
pub(super) struct SessionNode {
    pub(super) session: Arc<Session>,
    pub(super) part: Part,
}

impl SessionNode {
    pub(super) fn serial(&self) -> u32 {
        self.session.serial()
    }

    pub(super) fn ino(&self, low: u32) -> Ino {
        Ino::pack(self.serial(), 0, low)
    }
}
