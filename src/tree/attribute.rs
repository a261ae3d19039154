//! Attributes that the tree shows, and the mount options that affect them.

use std::sync::Arc;

use jiff::Timestamp;

use super::harm::Harm;
use super::inode::Ino;
use crate::guest::fs::{self, FileType, Time};
use crate::guest::worker::Isolation;
use crate::types::{Memory, VmName, pattern};

/// Permission bits of a VM's directory without a umask: everything below is as private as the disks
/// themselves.
const VM_MODE: u16 = 0o700;
/// Permission bits of other directories of the tree itself.
const DIRECTORY_MODE: u16 = 0o755;
/// Permission bits of files of the tree itself.
const FILE_MODE: u16 = 0o444;
/// Permission bits of whole disks and volumes: they contain all files of the guest, so only privileged users
/// may read them.
const DISK_MODE: u16 = 0o440;

/// Permission bits of the disks of a session.
const OPEN_DISK_MODE: u16 = 0o600;
/// Permission bits of the other files of a session.
const OPEN_FILE_MODE: u16 = 0o644;

/// Attributes of a node of the mounted tree; the size of a file is exact.
pub type Attributes = fs::Attributes<Ino>;

/// How long a reply stays valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// For ever: committed content.
    Committed,
    /// Until a refresh reports a change: names of VMs and points, `latest`.
    Changing,
    /// Not at all: documents that grow.
    Nothing,
}

/// A node that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its attributes.
    pub attributes: Attributes,
    /// How long the name refers to this node.
    pub entry_ttl: Ttl,
    /// How long the attributes are valid.
    pub attribute_ttl: Ttl,
}

/// How a tree is shown.
#[derive(Debug, Clone, Default)]
pub struct TreeOptions {
    /// Owner of the tree's own nodes; with `single_user` of all nodes.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits to remove from the tree's own nodes; `None` makes VM directories private (0700).
    pub umask: Option<u16>,
    /// A mount by an ordinary user: that user owns every node, with `u+rX`. The true owner and mode of guest
    /// files are in the xattrs `user.restorefs.{uid,gid,mode}`.
    pub single_user: bool,
    /// Symlinks of a guest's tree lead where they would in the guest, and never out of the tree.
    pub rebase: bool,
    /// Hides extended attributes: faster `ls -l`, and `rsync` without `-X`.
    pub noxattr: bool,
    /// Shows only VMs whose name matches one of these patterns; all when there is none.
    pub vms: Vec<String>,
    /// Whether this process owns the repository, and so may write to `cache/`.
    pub writable: bool,
    /// Whether whole disks are opened by passthrough, where they have a flat disk.
    pub passthrough: bool,
    /// Where the readers of guests' filesystems run.
    pub isolation: Isolation,
    /// Memory limits.
    pub memory: Memory,
    /// Harmed parts of disks, which are not read.
    pub harm: Arc<Harm>,
}

/// Kind of appearance of the tree's own nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeLook {
    Directory,
    VmDirectory,
    Symlink,
    File,
    Disk,
    /// A disk of a session.
    OpenDisk,
    /// Another file of a session.
    OpenFile,
}

impl TreeOptions {
    /// Whether a VM is shown; the comparison ignores case.
    pub(super) fn shows(&self, vm: &VmName) -> bool {
        let name = vm.folded();
        let mut patterns = self.vms.iter();
        self.vms.is_empty() || patterns.any(|p| pattern::fits(&p.to_ascii_lowercase(), &name))
    }

    /// Attributes of a node of the tree itself.
    pub(super) fn own(
        &self,
        ino: Ino,
        look: NodeLook,
        size_bytes: u64,
        blocks: u64,
        time: Time,
    ) -> Attributes {
        let (file_type, mode) = match look {
            NodeLook::Directory => (FileType::Directory, DIRECTORY_MODE),
            NodeLook::VmDirectory if self.umask.is_none() => (FileType::Directory, VM_MODE),
            NodeLook::VmDirectory => (FileType::Directory, DIRECTORY_MODE),
            NodeLook::Symlink => (FileType::Symlink, 0o777),
            NodeLook::File => (FileType::Regular, FILE_MODE),
            NodeLook::Disk if self.umask.is_none() => (FileType::Regular, DISK_MODE),
            NodeLook::Disk => (FileType::Regular, FILE_MODE),
            NodeLook::OpenDisk if self.umask.is_none() => (FileType::Regular, OPEN_DISK_MODE),
            NodeLook::OpenDisk | NodeLook::OpenFile => (FileType::Regular, OPEN_FILE_MODE),
        };
        let mode = match look {
            NodeLook::Symlink => mode,
            _ => mode & !self.umask.unwrap_or(0),
        };
        Attributes {
            ino,
            file_type,
            mode,
            uid: self.uid,
            gid: self.gid,
            nlink: if file_type == FileType::Directory {
                2
            } else {
                1
            },
            size_bytes,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            rdev: None,
        }
    }

    /// Attributes of a guest's file.
    pub(super) fn guest(&self, ino: Ino, guest: &fs::Attributes) -> Attributes {
        let mut attributes = guest.clone().with_ino(ino);
        attributes.mode &= 0o7777;
        attributes.nlink = attributes.nlink.max(1);
        if self.single_user {
            attributes.uid = self.uid;
            attributes.gid = self.gid;
            attributes.mode |= 0o400;
            if guest.file_type == FileType::Directory || guest.mode & 0o111 != 0 {
                attributes.mode |= 0o100;
            }
        }
        attributes
    }
}

/// A timestamp of a sidecar as a file time.
pub(super) fn time(at: Timestamp) -> Time {
    let nanoseconds = at.subsec_nanosecond();
    match u32::try_from(nanoseconds) {
        Ok(nanoseconds) => Time {
            seconds: at.as_second(),
            nanoseconds,
        },
        // jiff's fraction is negative before 1970.
        Err(_) => Time {
            seconds: at.as_second().saturating_sub(1),
            nanoseconds: u32::try_from(1_000_000_000 + nanoseconds).unwrap_or(0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{NodeLook, TreeOptions, time};
    use crate::guest::fs::{Attributes, FileType, GuestIno, Time};
    use crate::tree::Ino;

    fn guest(file_type: FileType, mode: u16) -> Attributes {
        Attributes {
            ino: GuestIno(5),
            file_type,
            mode,
            uid: 33,
            gid: 34,
            nlink: 0,
            size_bytes: 1,
            blocks: 8,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            crtime: None,
            rdev: None,
        }
    }

    #[test]
    fn vm_directories_are_private_unless_widened() {
        let mut options = TreeOptions::default();
        let mode =
            |options: &TreeOptions, look| options.own(Ino::ROOT, look, 0, 0, Time::default()).mode;
        assert_eq!(mode(&options, NodeLook::VmDirectory), 0o700);
        assert_eq!(mode(&options, NodeLook::Disk), 0o440);
        options.umask = Some(0o027);
        assert_eq!(mode(&options, NodeLook::VmDirectory), 0o750);
        assert_eq!(mode(&options, NodeLook::Disk), 0o440);
        options.umask = Some(0);
        assert_eq!(mode(&options, NodeLook::VmDirectory), 0o755);
        assert_eq!(mode(&options, NodeLook::Disk), 0o444);
        assert_eq!(mode(&options, NodeLook::Symlink), 0o777);
    }

    #[test]
    fn an_ordinary_user_owns_and_reads_all() {
        let options = TreeOptions {
            uid: 1000,
            gid: 1000,
            single_user: true,
            ..TreeOptions::default()
        };
        let shown = options.guest(Ino(9), &guest(FileType::Regular, 0o000));
        assert_eq!((shown.uid, shown.gid, shown.mode), (1000, 1000, 0o400));
        assert_eq!(shown.nlink, 1);
        let shown = options.guest(Ino(9), &guest(FileType::Directory, 0o000));
        assert_eq!(shown.mode, 0o500);
        let shown = options.guest(Ino(9), &guest(FileType::Regular, 0o4011));
        assert_eq!(shown.mode, 0o4511);
        let plain = TreeOptions::default().guest(Ino(9), &guest(FileType::Regular, 0o4755));
        assert_eq!((plain.uid, plain.mode), (33, 0o4755));
    }

    #[test]
    fn times_before_1970_keep_their_order() {
        let at = jiff::Timestamp::new(-5, -250_000_000).unwrap();
        assert_eq!(
            time(at),
            Time {
                seconds: -6,
                nanoseconds: 750_000_000
            }
        );
    }
}
