//! Free space and type of a filesystem.

use std::os::fd::AsFd;

use crate::error::{Error, Result};

/// Space on a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this process can still write.
    pub free_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
}

/// Space on the filesystem of an open file or directory.
///
/// # Errors
/// `Io`.
pub fn room(file: impl AsFd) -> Result<Room> {
    let stat = rustix::fs::fstatvfs(file)
        .map_err(|e| Error::io("cannot ask the filesystem for its room", e.into()))?;
    Ok(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Name of the filesystem of an open file or directory (statfs(2) magic numbers), or its magic in hexadecimal.
///
/// # Errors
/// `Io`.
pub fn type_name(file: impl AsFd) -> Result<String> {
    let stat = rustix::fs::fstatfs(file)
        .map_err(|e| Error::io("cannot ask the filesystem for its type", e.into()))?;
    let name = match u32::try_from(stat.f_type & 0xffff_ffff).unwrap_or(0) {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "smb",
        0x794c_7630 => "overlay",
        0x2fc1_2fc1 => "zfs",
        0x6573_5546 => "fuse",
        0xca45_1a4e => "bcachefs",
        0xf2f5_2010 => "f2fs",
        0x00c3_6400 => "ceph",
        0x0102_1997 => "9p",
        other => return Ok(format!("0x{other:x}")),
    };
    Ok(name.to_owned())
}

/// Whether a filesystem of this type lies on another machine, so that look-ups of names are answered from a cache.
#[must_use]
pub fn is_network(type_name: &str) -> bool {
    matches!(type_name, "nfs" | "smb" | "ceph" | "9p")
}

#[cfg(test)]
mod tests {
    use super::{room, type_name};

    #[test]
    fn tells_room_and_type() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        let room = room(&dir).unwrap();
        assert!(room.total_bytes > 0 && room.free_bytes <= room.total_bytes);
        assert!(!type_name(&dir).unwrap().is_empty());
    }
}
