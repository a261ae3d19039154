//! Writes to the files of a session.

use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{DiskWriter, Door, SessionState};
use crate::tree::Tree;
use crate::tree::inode::Ino;
use crate::tree::refusal::not_permitted;
use crate::tree::session_node::{Part, SessionNode};
use crate::types::width::u64_from_usize;

/// The effect of `fallocate` on a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Allocates space, and the file grows. Nothing is reserved: a later write may still find no space.
    Grow,
    /// Allocates space, also beyond the end.
    Keep,
    /// The range reads as zero and takes no space (PUNCH_HOLE).
    Punch,
    /// The range reads as zero; with `true` the file grows (ZERO_RANGE).
    Zero(bool),
}

/// Calls `change` with a disk's present writer, once the session takes writes. No commit seals anything meanwhile.
pub(super) fn with_writer<T>(
    node: &SessionNode,
    disk: &DiskWriter,
    change: impl FnOnce(&DiskWriter) -> Result<T>,
) -> Result<T> {
    let _open = node.session.enter_write()?;
    // A commit that has failed since the node was looked up has opened its disks anew.
    let number = disk.meta().number;
    let disk = node.session.numbered(number).ok_or_else(super::stale)?;
    disk.claim(Door::Tree)?;
    node.session.touch();
    change(&disk)
}

fn no_file(part: &Part) -> Error {
    match part {
        Part::Top | Part::Disks | Part::Attached => {
            Error::new(ErrorKind::IsADirectory, "it is a directory")
        }
        _ => not_permitted("this file is made by the daemon"),
    }
}

impl Tree {
    /// Writes bytes; the file grows.
    ///
    /// # Errors
    /// `ReadOnly` for committed nodes; `Busy` while the session is being committed, or when the disk is being
    /// written over NBD; `TooLarge`, `NoSpace`, `Io`, `Corrupt` (the parent).
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<()> {
        let node = self.open_node(ino)?;
        let written = match &node.part {
            Part::Disk(disk) => with_writer(&node, disk, |disk| {
                let _writing = disk.begin_write()?;
                let written = disk.write_growing(offset, bytes);
                disk.note_handed_in(offset, u64_from_usize(bytes.len()), written)
            }),
            Part::File(name) => node
                .session
                .write_attached(name, offset, bytes)
                .and_then(|()| self.wrote_attached(&node)),
            part => Err(no_file(part)),
        };
        Self::noted(&node.session, written)
    }

    /// Performs a `fallocate`.
    ///
    /// # Errors
    /// As [`Tree::write`].
    pub fn allocate(
        &self,
        ino: Ino,
        offset: u64,
        length_bytes: u64,
        how: Allocation,
    ) -> Result<()> {
        let node = self.open_node(ino)?;
        let done = match &node.part {
            Part::Disk(disk) => with_writer(&node, disk, |disk| {
                let _writing = disk.begin_write()?;
                let done = allocate_disk(disk, offset, length_bytes, how);
                let is_written = matches!(how, Allocation::Punch | Allocation::Zero(_));
                let length_bytes = if is_written { length_bytes } else { 0 };
                disk.note_handed_in(offset, length_bytes, done)
            }),
            Part::File(name) => self.allocate_attached(&node, name, offset, length_bytes, how),
            part => Err(no_file(part)),
        };
        Self::noted(&node.session, done)
    }

    fn allocate_attached(
        &self,
        node: &SessionNode,
        name: &str,
        offset: u64,
        length_bytes: u64,
        how: Allocation,
    ) -> Result<()> {
        let size = node.session.read_attached(name)?.size_bytes();
        let end = offset.saturating_add(length_bytes);
        if matches!(how, Allocation::Grow | Allocation::Zero(true)) && end > size {
            node.session.resize_attached(name, end)?;
        }
        if matches!(how, Allocation::Punch | Allocation::Zero(_)) && offset < size {
            let inside = length_bytes.min(size - offset);
            node.session.zero_attached(name, offset, inside)?;
        }
        self.wrote_attached(node)
    }

    /// Makes written data durable; committed nodes need nothing.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: data written since the last sync may then be lost; `Stale` when the session was
    /// aborted.
    pub fn sync(&self, ino: Ino) -> Result<()> {
        if self.open_sessions.is_none() || ino.volume() != 0 {
            return Ok(());
        }
        let Ok(node) = self.session_node(ino) else {
            let ended = self.open_sessions()?.sessions().ended(ino.serial());
            return match ended {
                Some((_, SessionState::Aborted)) => Err(super::stale()),
                _ => Ok(()),
            };
        };
        let synced = match &node.part {
            Part::Disk(disk) => disk.sync_file(),
            Part::File(name) => node.session.flush_attached(name),
            Part::Top | Part::Disks => node.session.flush(),
            Part::Attached => node.session.flush_attached_names(),
            Part::Status | Part::Targets => Ok(()),
        };
        // An abort ends disks without storing their data.
        let synced = synced.and_then(|()| match node.session.state() {
            SessionState::Aborted => node.session.check_open(),
            _ => Ok(()),
        });
        Self::noted(&node.session, synced)
    }
}

fn allocate_disk(disk: &DiskWriter, offset: u64, length_bytes: u64, how: Allocation) -> Result<()> {
    let grow = || disk.grow(offset, length_bytes);
    let zero = || {
        let left = disk.source_bytes().saturating_sub(offset);
        disk.zero(offset, length_bytes.min(left))
    };
    match how {
        Allocation::Grow => grow(),
        Allocation::Keep => Ok(()),
        Allocation::Zero(true) => grow().and_then(|()| zero()),
        Allocation::Punch | Allocation::Zero(false) => {
            if offset < disk.source_bytes() {
                zero()
            } else {
                Ok(())
            }
        }
    }
}

/// A disk of a session as a file: as long as its source, without padding.
pub(in crate::tree) struct WriterContent(pub(in crate::tree) std::sync::Arc<DiskWriter>);

impl ReadAt for WriterContent {
    fn size_bytes(&self) -> u64 {
        self.0.source_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        crate::block::check_range(self.size_bytes(), offset, u64_from_usize(buf.len()))?;
        self.0.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<crate::block::Extent> {
        self.0.extent_at(offset, length_max)
    }
}
