//! Finds the mounts of a block device in `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Result, ResultExt};

/// A mount of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its mountpoint.
    pub mountpoint: PathBuf,
    /// Whether its filesystem is writable, even if this mount is not.
    pub is_writable: bool,
}

/// Members of btrfs filesystems. The device number of a btrfs mount is not that of a block device.
const BTRFS: &str = "/sys/fs/btrfs";

/// Mounts whose filesystem lies on one of the block devices `numbers` (as in `st_rdev`).
///
/// # Errors
/// `Io`.
pub fn of_devices(numbers: &[u64]) -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").or_io("cannot read the mounts")?;
    let mut all = numbers.to_vec();
    all.extend(btrfs_companions(numbers));
    Ok(text
        .lines()
        .filter_map(parse_line)
        .filter(|line| {
            all.contains(&line.number)
                || source_number(&line.source).is_some_and(|n| all.contains(&n))
        })
        .map(|line| line.mount)
        .collect())
}

struct Line {
    number: u64,
    source: PathBuf,
    mount: Mount,
}

/// Field 3 is major:minor, field 5 the mountpoint; after the lone hyphen come type, source and the filesystem's own options.
fn parse_line(line: &str) -> Option<Line> {
    let (fields, filesystem) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut filesystem = filesystem.split(' ').skip(1);
    let source = unescape(filesystem.next()?);
    let is_writable = filesystem.next()?.split(',').any(|option| option == "rw");
    Some(Line {
        number: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
        source,
        mount: Mount {
            mountpoint,
            is_writable,
        },
    })
}

fn source_number(source: &Path) -> Option<u64> {
    if !source.is_absolute() {
        return None;
    }
    let metadata = std::fs::metadata(source).ok()?;
    metadata
        .file_type()
        .is_block_device()
        .then(|| metadata.rdev())
}

/// The other devices of btrfs filesystems that have one of `numbers` as a member.
fn btrfs_companions(numbers: &[u64]) -> Vec<u64> {
    let mut found = Vec::new();
    let filesystems = std::fs::read_dir(BTRFS).into_iter().flatten().flatten();
    for filesystem in filesystems {
        let devices = std::fs::read_dir(filesystem.path().join("devices"));
        let members: Vec<u64> = devices
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|member| source_number(&Path::new("/dev").join(member.file_name())))
            .collect();
        if members.iter().any(|member| numbers.contains(member)) {
            found.extend(members);
        }
    }
    found
}

/// A path without the kernel's escapes: its tables have spaces, tabs, newlines and backslashes in octal.
#[must_use]
pub fn unescape(field: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = match octal {
            Some(_) => tail.get(3..).unwrap_or_default(),
            None => tail,
        };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::{parse_line, unescape};
    use std::path::Path;

    #[test]
    fn the_filesystems_own_options_tell_whether_it_takes_writes() {
        // A read-only bind mount of a filesystem that is writable elsewhere.
        let line = parse_line(
            "36 35 8:3 / /mnt/a\\040b ro,nosuid shared:1 - ext4 /dev/sda3 rw,errors=remount-ro",
        )
        .unwrap();
        assert_eq!(line.number, libc::makedev(8, 3));
        assert_eq!(line.mount.mountpoint, Path::new("/mnt/a b"));
        assert!(line.mount.is_writable);
        let line = parse_line("40 35 0:31 /@ /mnt rw - btrfs /dev/sdb ro,subvol=/@").unwrap();
        assert_eq!(line.source, Path::new("/dev/sdb"));
        assert!(!line.mount.is_writable);
        assert!(parse_line("nonsense").is_none());
        assert_eq!(unescape("a\\134\\x\\04"), Path::new("a\\\\x\\04"));
    }
}
