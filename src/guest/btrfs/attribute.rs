//! Attributes of an inode, in the kernel's form.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use fs_btrfs::inode::{self, Inode, Timestamp};

use crate::error::{Error, Result};
use crate::guest::fs::{Attributes, FileType, GuestIno, Time};

pub(super) fn file_type(inode: &Inode) -> Result<FileType> {
    use inode::FileType as Btrfs;
    Ok(match inode.file_type() {
        Some(Btrfs::Regular) => FileType::Regular,
        Some(Btrfs::Directory) => FileType::Directory,
        Some(Btrfs::Symlink) => FileType::Symlink,
        Some(Btrfs::CharDevice) => FileType::CharDevice,
        Some(Btrfs::BlockDevice) => FileType::BlockDevice,
        Some(Btrfs::Fifo) => FileType::Fifo,
        Some(Btrfs::Socket) => FileType::Socket,
        None => {
            return Err(Error::corrupt(
                format!("the type of inode {}", inode.ino),
                "one of seven",
                format!("0x{:x}", inode.mode),
            ));
        }
    })
}

/// Whether the sectors of a file have checksums.
pub(super) fn is_checked(inode: &Inode) -> bool {
    inode.flags & (inode::INODE_NODATASUM | inode::INODE_NODATACOW) == 0
}

fn time(stamp: Timestamp) -> Time {
    Time {
        seconds: stamp.sec,
        nanoseconds: stamp.nsec.min(999_999_999),
    }
}

/// Turns an inode into attributes.
pub(super) fn attributes(ino: GuestIno, inode: &Inode, sector_bytes: u32) -> Result<Attributes> {
    let file_type = file_type(inode)?;
    // The kernel's form in memory: 12 bits of major, 20 of minor.
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
    let whole = inode
        .nbytes
        .checked_next_multiple_of(u64::from(sector_bytes.max(1)));
    Ok(Attributes {
        ino,
        file_type,
        mode: u16::try_from(inode.mode & 0o7777).unwrap_or(0),
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink.max(1),
        size_bytes: inode.size,
        blocks: whole.unwrap_or(inode.nbytes) >> 9,
        atime: time(inode.atime),
        mtime: time(inode.mtime),
        ctime: time(inode.ctime),
        crtime: Some(time(inode.otime)),
        rdev: is_device.then(|| (number(inode.rdev >> 20), number(inode.rdev & 0xf_ffff))),
    })
}

/// The empty directory in place of a subvolume, with owner and times of the root directory.
pub(super) fn empty_directory(ino: GuestIno, root: &Attributes) -> Attributes {
    Attributes {
        ino,
        mode: 0o755,
        nlink: 1,
        size_bytes: 0,
        blocks: 0,
        ..root.clone()
    }
}
