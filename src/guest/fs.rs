//! The trait that every guest filesystem reader implements, and its plain data types.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::ReadAt;
use crate::block::run::RunMap;
use crate::error::{Error, Result};

/// Inode number within one volume, as the format numbers them (ext: the root is 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestIno(pub u64);

/// Type of a guest file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileType {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
}

/// A point in time as filesystems store it; it may lie before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Attributes of a file; the inode number is a guest's or the mounted tree's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes<I = GuestIno> {
    /// Inode number.
    pub ino: I,
    /// Type.
    pub file_type: FileType,
    /// Permission bits with setuid, setgid, sticky (0o7777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links, at least 1.
    pub nlink: u32,
    /// Size in bytes (of a symlink: of its target).
    pub size_bytes: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Creation, where the format records it.
    pub crtime: Option<Time>,
    /// Device number (major, minor) of device nodes.
    pub rdev: Option<(u32, u32)>,
}

impl<I> Attributes<I> {
    /// The same attributes under another inode number.
    #[must_use]
    pub fn with_ino<J>(self, ino: J) -> Attributes<J> {
        Attributes {
            ino,
            file_type: self.file_type,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size_bytes: self.size_bytes,
            blocks: self.blocks,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.crtime,
            rdev: self.rdev,
        }
    }
}

/// One name in a directory, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name: bytes, never empty, `.`, `..`, nor with `/` or NUL.
    pub name: Vec<u8>,
    /// Its inode.
    pub ino: GuestIno,
}

/// An extended attribute in the kernel's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name (`user.x`, `security.capability`, `system.posix_acl_access`).
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// Facts about a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// `ext4`, `xfs`, ...
    pub format: &'static str,
    /// Label, if set.
    pub label: Option<String>,
    /// UUID in its usual spelling, if it has one.
    pub uuid: Option<String>,
    /// Block size in bytes.
    pub block_bytes: u32,
    /// Size of the filesystem in bytes.
    pub total_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Total number of inodes, where the format has one.
    pub inodes: Option<u64>,
    /// Number of free inodes, where the format has one.
    pub inodes_free: Option<u64>,
    /// Whether it was in use: its journal or log contains work, which is replayed in memory. `None` when
    /// unknown.
    pub journal_replayed: Option<bool>,
    /// Remarks for people: "the guest has not unmounted the filesystem".
    pub notes: Vec<String>,
}

/// A tree of a filesystem with several (btrfs: mount options `subvol=` and `subvolid=`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subvolume {
    /// The tree that a mount without options shows.
    Default,
    /// By its path below the top level.
    Path(Vec<u8>),
    /// By its number.
    Id(u64),
}

/// A read-only view of one guest filesystem. Calls may come from many threads.
pub trait GuestFs: Send + Sync {
    /// Facts about the filesystem.
    fn info(&self) -> &FsInfo;

    /// The root directory of the whole volume (btrfs: of the top level).
    fn root(&self) -> GuestIno;

    /// The root directory of a subvolume; formats without subvolumes have only the default one, which is
    /// [`GuestFs::root`].
    ///
    /// # Errors
    /// `NotFound` when there is no subvolume of that name; as [`GuestFs::attributes`].
    fn subvolume(&self, which: &Subvolume) -> Result<GuestIno> {
        match which {
            Subvolume::Default => Ok(self.root()),
            Subvolume::Path(_) | Subvolume::Id(_) => {
                Err(Error::not_found("this format has no subvolumes"))
            }
        }
    }

    /// A fault of the reader itself; `None` when there is none.
    fn trouble(&self) -> Option<Trouble> {
        None
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Unsupported`, `Io`.
    fn attributes(&self, ino: GuestIno) -> Result<Attributes>;

    /// All names of a directory, in the directory's own order.
    ///
    /// # Errors
    /// `NotADirectory`; as [`GuestFs::attributes`]; `LimitExceeded`.
    fn entries(&self, ino: GuestIno) -> Result<Arc<[Entry]>>;

    /// The inode of one name; the default searches [`GuestFs::entries`].
    ///
    /// # Errors
    /// `NotFound`, and as [`GuestFs::entries`].
    fn lookup(&self, ino: GuestIno, name: &[u8]) -> Result<GuestIno> {
        self.entries(ino)?
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.ino)
            .ok_or_else(|| Error::not_found("no such file or directory in the guest"))
    }

    /// Target of a symlink, verbatim.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a symlink; as [`GuestFs::attributes`].
    fn symlink_target(&self, ino: GuestIno) -> Result<Vec<u8>>;

    /// All extended attributes, in the kernel's form.
    ///
    /// # Errors
    /// As [`GuestFs::attributes`].
    fn xattrs(&self, ino: GuestIno) -> Result<Arc<[Xattr]>>;

    /// Where a regular file's bytes lie on the volume (source `()`). A range is a plain run only where the
    /// bytes on the volume are those that the kernel would show; the rest is `Encoded`, and read with
    /// [`GuestFs::read_encoded`].
    ///
    /// # Errors
    /// `InvalidInput` when it is not a regular file; as [`GuestFs::attributes`].
    fn runs(&self, ino: GuestIno) -> Result<Arc<RunMap<()>>>;

    /// Reads bytes of a file through the reader itself; fills the whole buffer.
    ///
    /// # Errors
    /// As [`GuestFs::attributes`].
    fn read_encoded(&self, ino: GuestIno, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// A present or past fault of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Whether it works again.
    pub over: bool,
    /// The reason.
    pub reason: String,
}

/// State of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeState {
    /// A reader opened it.
    Readable,
    /// It has no filesystem (swap, an empty partition, an extended partition).
    NoFilesystem,
    /// It uses an unsupported format or feature, named here.
    Unsupported(String),
    /// It is damaged: place and cause.
    Damaged(String),
}

/// Opens the filesystem on a volume. Most formats use the first device only; btrfs may span several.
pub type OpenFs = fn(&[Arc<dyn ReadAt>]) -> Result<Box<dyn GuestFs>>;
