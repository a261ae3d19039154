//! Attributes and times to live in the protocol's form.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType as FuseType, INodeNo};

use crate::guest::fs::{FileType, Time};
use crate::tree::{Attributes, Ino, Ttl};

/// How long the kernel may keep entries that never change. Names above them expire sooner, and then
/// everything below is dropped.
pub(super) const TTL_COMMITTED: Duration = Duration::from_secs(86_400);
/// How long the kernel may keep entries that change, in case a notification is lost.
const TTL_CHANGING: Duration = Duration::from_secs(1);
pub(super) const fn ttl(ttl: Ttl) -> Duration {
    match ttl {
        Ttl::Committed => TTL_COMMITTED,
        Ttl::Changing => TTL_CHANGING,
        Ttl::Nothing => Duration::ZERO,
    }
}

pub(super) fn system_time(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanoseconds.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(super) const fn file_type(file_type: FileType) -> FuseType {
    match file_type {
        FileType::Regular => FuseType::RegularFile,
        FileType::Directory => FuseType::Directory,
        FileType::Symlink => FuseType::Symlink,
        FileType::CharDevice => FuseType::CharDevice,
        FileType::BlockDevice => FuseType::BlockDevice,
        FileType::Fifo => FuseType::NamedPipe,
        FileType::Socket => FuseType::Socket,
    }
}

/// A device number in the protocol's form: `new_encode_dev` of linux/kdev_t.h.
pub(super) const fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(super) fn attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size_bytes,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.crtime.unwrap_or_default()),
        kind: file_type(attributes.file_type),
        perm: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev.map_or(0, device),
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes of an entry of which only the name is known.
pub(super) fn unknown(ino: Ino, kind: FuseType) -> FileAttr {
    FileAttr {
        ino: INodeNo(if ino.0 == 0 { u64::MAX } else { ino.0 }),
        ..nothing(kind)
    }
}

/// Attributes of a missing entry: node id 0 means that there is only a name, or not even a name.
pub(super) fn nothing(kind: FuseType) -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{device, system_time};
    use crate::guest::fs::Time;
    use std::time::{Duration, SystemTime};

    #[test]
    fn times_before_1970_and_devices_keep_their_value() {
        let time = Time {
            seconds: -2,
            nanoseconds: 500_000_000,
        };
        let expected = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(system_time(time), expected);
        assert_eq!(device((8, 1)), 0x801);
        assert_eq!(
            device((259, 0x1_2345)),
            0x45 | (259 << 8) | (0x1_2300 << 12)
        );
    }
}
