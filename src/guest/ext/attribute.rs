//! Attributes and extended attributes of an inode, in the kernel's form.

use fs_ext4::acl::{self, AclEntry};
use fs_ext4::inode::{self, Inode, InodeFlags};
use fs_ext4::xattr::XattrEntry;

use super::device::translate;
use crate::error::{Error, Result};
use crate::guest::bytes::{le16, le32};
use crate::guest::fs::{Attributes, FileType, GuestIno, Time, Xattr};

/// `EXT4_FEATURE_RO_COMPAT_HUGE_FILE`.
const RO_COMPAT_HUGE_FILE: u32 = 0x8;
/// Version of the kernel's ACL attribute (`POSIX_ACL_XATTR_VERSION`), and the id in entries without one.
const KERNEL_ACL_VERSION: u32 = 2;
const ACL_ID_NONE: u32 = u32::MAX;

pub(super) fn file_type(inode: &Inode) -> Result<FileType> {
    Ok(match inode.file_type() {
        inode::S_IFREG => FileType::Regular,
        inode::S_IFDIR => FileType::Directory,
        inode::S_IFLNK => FileType::Symlink,
        inode::S_IFCHR => FileType::CharDevice,
        inode::S_IFBLK => FileType::BlockDevice,
        inode::S_IFIFO => FileType::Fifo,
        inode::S_IFSOCK => FileType::Socket,
        other => {
            return Err(Error::corrupt(
                "the type of an inode",
                "one of seven",
                format!("0x{other:x}"),
            ));
        }
    })
}

fn time(seconds: i64, nanoseconds: u32) -> Time {
    Time {
        seconds,
        nanoseconds: nanoseconds.min(999_999_999),
    }
}

/// Device number (Linux, fs/ext4/inode.c): the old 16-bit form in the first word of `i_block`, else the new one in the second.
fn rdev(block: &[u8]) -> Option<(u32, u32)> {
    let (old, new) = (le32(block, 0)?, le32(block, 4)?);
    Some(if old == 0 {
        (
            (new & 0xf_ff00) >> 8,
            (new & 0xff) | ((new >> 12) & 0xf_ff00),
        )
    } else {
        ((old >> 8) & 0xff, old & 0xff)
    })
}

/// Turns an inode into attributes; `raw` are its bytes, `ro_compat` the filesystem's features.
pub(super) fn attributes(
    ino: GuestIno,
    inode: &Inode,
    raw: &[u8],
    ro_compat: u32,
    block_bytes: u32,
) -> Result<Attributes> {
    let file_type = file_type(inode)?;
    let huge =
        ro_compat & RO_COMPAT_HUGE_FILE != 0 && inode.flags & InodeFlags::HUGE_FILE.bits() != 0;
    let unit = if huge {
        u64::from(block_bytes / 512)
    } else {
        1
    };
    // Inline data take no block; the kernel reports a size anyway, so that tools do not take the file for a
    // hole.
    let inline = if file_type == FileType::Regular && inode.has_inline_data() {
        inode.size.div_ceil(512)
    } else {
        0
    };
    // The creation time ends 24 bytes into the extra part of the inode, if that is long enough.
    let has_crtime = le16(raw, 128).is_some_and(|extra| extra >= 24);
    Ok(Attributes {
        ino,
        file_type,
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        nlink: u32::from(inode.links_count).max(1),
        size_bytes: inode.size,
        blocks: inode.blocks.saturating_mul(unit).saturating_add(inline),
        atime: time(inode.atime, inode.atime_nsec),
        mtime: time(inode.mtime, inode.mtime_nsec),
        ctime: time(inode.ctime, inode.ctime_nsec),
        crtime: has_crtime.then(|| time(inode.crtime, inode.crtime_nsec)),
        rdev: match file_type {
            FileType::CharDevice | FileType::BlockDevice => rdev(&inode.block),
            _ => None,
        },
    })
}

fn kernel_acl(entries: &[AclEntry]) -> Vec<u8> {
    let mut value = KERNEL_ACL_VERSION.to_le_bytes().to_vec();
    for entry in entries {
        // The discriminant of the tag is its number in both forms.
        let tag: u16 = match entry.tag {
            acl::AclTag::UserObj => 0x01,
            acl::AclTag::User => 0x02,
            acl::AclTag::GroupObj => 0x04,
            acl::AclTag::Group => 0x08,
            acl::AclTag::Mask => 0x10,
            acl::AclTag::Other => 0x20,
        };
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&entry.perm.to_le_bytes());
        value.extend_from_slice(&entry.id.unwrap_or(ACL_ID_NONE).to_le_bytes());
    }
    value
}

/// The attributes that the kernel would list: ACLs converted, the attribute with inline data hidden.
pub(super) fn xattrs(entries: Vec<XattrEntry>) -> Result<Vec<Xattr>> {
    let mut xattrs = Vec::new();
    for entry in entries {
        let value = match entry.name.as_str() {
            "system.posix_acl_access" | "system.posix_acl_default" => {
                kernel_acl(&acl::decode(&entry.value).map_err(translate)?)
            }
            name if name.starts_with("system.") => continue,
            _ => entry.value,
        };
        xattrs.push(Xattr {
            name: entry.name.into_bytes(),
            value,
        });
    }
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::{kernel_acl, rdev};
    use fs_ext4::acl::{AclEntry, AclTag};

    #[test]
    fn device_numbers_of_both_forms() {
        let block = |old: u32, new: u32| [old.to_le_bytes(), new.to_le_bytes()].concat();
        assert_eq!(rdev(&block(0x0103, 0)), Some((1, 3)));
        assert_eq!(rdev(&block(0, 0x1234_5678)), Some((0x456, 0x12378)));
    }

    #[test]
    fn acls_take_the_kernels_form() {
        let entry = |tag, perm, id| AclEntry { tag, perm, id };
        let value = kernel_acl(&[
            entry(AclTag::UserObj, 6, None),
            entry(AclTag::User, 4, Some(1000)),
        ]);
        assert_eq!(
            value,
            [
                2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0
            ]
        );
    }
}
