//! Facts about a name or an open file.

use std::os::fd::AsFd;

use crate::error::{Error, Result};

/// Kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link, never followed.
    Symlink,
    /// Device, FIFO, socket.
    Other,
}

/// Facts about a name or an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind.
    pub kind: Kind,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Allocated bytes.
    pub allocated_bytes: u64,
    /// Permission bits (0o7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Device of the filesystem.
    pub device: u64,
    /// Inode number; equal `device` and `inode` mean the same file.
    pub inode: u64,
}

impl Stat {
    /// Facts about an open file.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(file: impl AsFd) -> Result<Self> {
        rustix::fs::fstat(file)
            .map(|stat| Self::from_raw(&stat))
            .map_err(|e| Error::io("cannot stat an open file", e.into()))
    }

    pub(super) fn from_raw(stat: &rustix::fs::Stat) -> Self {
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Directory => Kind::Directory,
            rustix::fs::FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        };
        Self {
            kind,
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    /// Whether both are the same file.
    #[must_use]
    pub const fn same_file(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}
