//! Attributes of an inode in the kernel's form, and a limit on its extended attributes.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::HashSet;

use fs_xfs::inode::{Format, Inode, Timestamp};
use fs_xfs::{Filesystem, extent};

use super::Node;
use super::failure::translate;
use super::run::{Fork, extents};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{be16, be32};
use crate::guest::fs::{Attributes, FileType, GuestIno, Time};
use crate::types::width::{u64_from_usize, usize_from_u32};

/// LIMIT: bytes of names and values of one inode's extended attributes (our limit; each value is at most 64
/// KiB).
const XATTR_BYTES_MAX: u64 = 16 << 20;
/// LIMIT: depth of a tree of attributes (Linux: `XFS_DA_NODE_MAXDEPTH`).
const DEPTH_MAX: usize = 5;
/// Magic numbers of nodes of such a tree, v4 and v5.
const NODE_MAGICS: [u16; 2] = [0xfebe, 0x3ebe];
/// Flag of a leaf entry that contains its value (`XFS_ATTR_LOCAL`).
const LOCAL: u8 = 1;

pub(super) fn file_type(inode: &Inode) -> Result<FileType> {
    use fs_xfs::inode::FileType as Xfs;
    Ok(match inode.file_type() {
        Some(Xfs::Regular) => FileType::Regular,
        Some(Xfs::Directory) => FileType::Directory,
        Some(Xfs::Symlink) => FileType::Symlink,
        Some(Xfs::CharDevice) => FileType::CharDevice,
        Some(Xfs::BlockDevice) => FileType::BlockDevice,
        Some(Xfs::Fifo) => FileType::Fifo,
        Some(Xfs::Socket) => FileType::Socket,
        None => {
            return Err(Error::corrupt(
                format!("the type of inode {}", inode.ino),
                "one of seven",
                format!("0x{:x}", inode.mode),
            ));
        }
    })
}

fn time(stamp: Timestamp) -> Time {
    Time {
        seconds: stamp.sec,
        nanoseconds: stamp.nsec.min(999_999_999),
    }
}

/// Device number in System V form: 14 bits of major, 18 of minor.
fn rdev(number: u32) -> (u32, u32) {
    ((number >> 18) & 0x3fff, number & 0x3_ffff)
}

/// Hard links: inodes of version 1 store them in 16 bits at another place.
pub(super) fn links(node: &Node) -> u32 {
    if node.inode.version == 1 {
        be16(&node.raw, 6).map_or(0, u32::from)
    } else {
        node.inode.nlink
    }
}

/// Turns an inode into attributes.
pub(super) fn attributes(ino: GuestIno, node: &Node, block_bytes: u32) -> Result<Attributes> {
    let inode = &node.inode;
    let file_type = file_type(inode)?;
    let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
    let sectors = u64::from(block_bytes.checked_div(512).unwrap_or(0));
    Ok(Attributes {
        ino,
        file_type,
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        nlink: links(node).max(1),
        size_bytes: inode.size,
        blocks: inode.nblocks.saturating_mul(sectors),
        atime: time(inode.atime),
        mtime: time(inode.mtime),
        ctime: time(inode.ctime),
        crtime: (inode.version >= 3).then(|| time(inode.crtime)),
        rdev: if is_device {
            let number = be32(&node.raw, inode.data_fork_offset());
            Some(rdev(number.ok_or_else(|| {
                Error::corrupt("a device's inode", "a number", "none")
            })?))
        } else {
            None
        },
    })
}

/// Sums the claimed sizes in the leaves of an attribute fork before the crate reads it: the entries of a leaf
/// may all name the same bytes, and its chain of leaves may be circular.
pub(super) fn check_xattrs(fs: &Filesystem, node: &Node) -> Result<()> {
    if !matches!(node.inode.aformat, Format::Extents | Format::Btree) {
        return Ok(());
    }
    let sb = fs.superblock();
    let v5 = sb.is_v5();
    let extents = extents(fs, node, Fork::Attribute)?;
    if extents.is_empty() {
        return Ok(());
    }
    let (node_entries, leaf_count, leaf_entries) = if v5 { (64, 56, 80) } else { (16, 12, 32) };
    let (mut block, mut depth, mut sum) = (0, 0usize, 0u64);
    let mut visited = HashSet::new();
    let mut bytes = vec![0; usize_from_u32(sb.blocksize)];
    loop {
        let at = extent::lookup(&extents, block).and_then(|extent| extent.map(block));
        let Some(at) = at.filter(|_| visited.insert(block)) else {
            return Err(Error::corrupt(
                format!("the attributes of inode {}", node.inode.ino),
                "a block of theirs",
                block,
            ));
        };
        fs.device()
            .read_at(sb.fsblock_offset(at), &mut bytes)
            .map_err(|error| translate(error.into()))?;
        if be16(&bytes, 8).is_some_and(|magic| NODE_MAGICS.contains(&magic)) && depth < DEPTH_MAX {
            depth = depth.saturating_add(1);
            block =
                be32(&bytes, usize_from_u32(node_entries).saturating_add(4)).map_or(0, u64::from);
            continue;
        }
        let count = be16(&bytes, leaf_count).unwrap_or(0);
        let entries = bytes
            .get(leaf_entries..)
            .unwrap_or_default()
            .chunks_exact(8);
        for entry in entries.take(usize::from(count)) {
            sum = sum.saturating_add(entry_bytes(&bytes, entry));
        }
        if sum > XATTR_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!(
                    "inode {} has more than {XATTR_BYTES_MAX} bytes of attributes",
                    node.inode.ino
                ),
            ));
        }
        match be32(&bytes, 0) {
            None | Some(0) => return Ok(()),
            Some(next) => block = u64::from(next),
        }
    }
}

/// Claimed size of a leaf entry: itself, its name and its value.
fn entry_bytes(leaf: &[u8], entry: &[u8]) -> u64 {
    let at = be16(entry, 4).map_or(0, usize::from);
    let is_local = entry.get(6).is_some_and(|flags| flags & LOCAL != 0);
    let value = if is_local {
        be16(leaf, at).map_or(0, u64::from)
    } else {
        be32(leaf, at.saturating_add(4)).map_or(0, u64::from)
    };
    value
        .saturating_add(256)
        .saturating_add(u64_from_usize(entry.len()))
}

#[cfg(test)]
mod tests {
    use super::rdev;

    #[test]
    fn device_numbers() {
        assert_eq!(rdev((259 << 18) | 70_000), (259, 70_000));
        assert_eq!(rdev((1 << 18) | 3), (1, 3));
    }
}
