//! Recognises the content of a volume by its magic numbers, and opens it with a reader.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;

use super::bytes::{array, le16, le32, text, uuid};
use super::fs::{GuestFs, OpenFs, VolumeState};
use super::{btrfs, ext, fat, xfs};
use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::types::width::usize_from_u64;

/// LIMIT: bytes at the start of a volume to examine (btrfs: 64 KiB + 4 KiB).
const HEAD_BYTES: u64 = 69_632;
/// Bytes at the end to examine: md 0.90 and 1.0 keep their superblock within the last 128 KiB.
const TAIL_BYTES: u64 = 131_072;

/// Incompatible features of an ext superblock, and the feature of a device that holds another one's journal
/// (Linux, fs/ext4/ext4.h).
const INCOMPAT_AT: usize = 1120;
const JOURNAL_DEV: u32 = 8;

/// Class of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A filesystem.
    Filesystem,
    /// Swap space.
    Swap,
    /// The journal of an ext filesystem on another device; it contains no files.
    Journal,
    /// A container of other volumes: LVM2, LUKS, md.
    Container,
}

/// The recognised content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// `ext`, `xfs`, `LVM2_member`, ... (names as blkid uses them; `ext` stands for ext2, ext3 and ext4).
    pub format: &'static str,
    /// Class.
    pub class: Class,
    /// Label, where it is cheap to find.
    pub label: Option<String>,
    /// UUID or serial number, where it is cheap to find.
    pub uuid: Option<String>,
}

/// A magic number: format, class, offset, bytes, and the offsets of label and UUID (16 bytes).
struct Magic {
    format: &'static str,
    class: Class,
    at: usize,
    bytes: &'static [u8],
    label: Option<(usize, usize)>,
    uuid: Option<usize>,
}

const fn magic(format: &'static str, class: Class, at: usize, bytes: &'static [u8]) -> Magic {
    Magic {
        format,
        class,
        at,
        bytes,
        label: None,
        uuid: None,
    }
}

/// Containers come first: the content of a container may have its own magic at the same place.
const MAGICS: [Magic; 17] = [
    magic("crypto_LUKS", Class::Container, 0, b"LUKS\xba\xbe"),
    magic("LVM2_member", Class::Container, 512 + 24, b"LVM2 001"),
    magic("LVM2_member", Class::Container, 24, b"LVM2 001"),
    Magic {
        uuid: Some(16),
        label: Some((32, 32)),
        ..magic(
            "linux_raid_member",
            Class::Container,
            0,
            b"\xfc\x4e\x2b\xa9",
        )
    },
    Magic {
        uuid: Some(4096 + 16),
        label: Some((4096 + 32, 32)),
        ..magic(
            "linux_raid_member",
            Class::Container,
            4096,
            b"\xfc\x4e\x2b\xa9",
        )
    },
    Magic {
        uuid: Some(4096 - 4072 + 1004),
        label: Some((4096 - 4068, 16)),
        ..magic(
            "bcache",
            Class::Container,
            4096 + 24,
            b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
        )
    },
    magic("BitLocker", Class::Container, 3, b"-FVE-FS-"),
    Magic {
        uuid: Some(32),
        label: Some((108, 12)),
        ..magic("xfs", Class::Filesystem, 0, b"XFSB")
    },
    Magic {
        uuid: Some(1024 + 104),
        label: Some((1024 + 120, 16)),
        ..magic("ext", Class::Filesystem, 1024 + 56, b"\x53\xef")
    },
    Magic {
        uuid: Some(65_536 + 32),
        label: Some((65_536 + 299, 256)),
        ..magic("btrfs", Class::Filesystem, 65_536 + 64, b"_BHRfS_M")
    },
    magic("ntfs", Class::Filesystem, 3, b"NTFS    "),
    magic("exfat", Class::Filesystem, 3, b"EXFAT   "),
    Magic {
        label: Some((32_768 + 40, 32)),
        ..magic("iso9660", Class::Filesystem, 32_769, b"CD001")
    },
    magic("squashfs", Class::Filesystem, 0, b"hsqs"),
    Magic {
        uuid: Some(1024 + 108),
        ..magic("f2fs", Class::Filesystem, 1024, b"\x10\x20\xf5\xf2")
    },
    magic("erofs", Class::Filesystem, 1024, b"\xe2\xe1\xf5\xe0"),
    magic(
        "zfs_member",
        Class::Container,
        16_384 + 112_640,
        b"NVList\0\0",
    ),
];

/// Whether a first sector is the boot sector of a filesystem rather than a partition table: both end with 55 AA.
pub(super) fn is_boot_sector_of_filesystem(sector: &[u8]) -> bool {
    let named: Option<[u8; 8]> = array(sector, 3);
    matches!(
        named.as_ref(),
        Some(b"NTFS    " | b"EXFAT   " | b"-FVE-FS-" | b"ReFS\0\0\0\0")
    ) || fat_boot(sector).is_some()
}

/// FAT has no magic number: the check uses its type string, and the consistency of the boot sector.
fn fat_boot(sector: &[u8]) -> Option<Content> {
    let fat32 = array(sector, 82)? == *b"FAT32   ";
    let fat16 = matches!(
        &array::<8>(sector, 54)?,
        b"FAT12   " | b"FAT16   " | b"FAT     "
    );
    let bytes_per_sector = le16(sector, 11)?;
    let clusters = *sector.get(13)?;
    let tables = *sector.get(16)?;
    let sound = matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && clusters.is_power_of_two()
        && (1..=2).contains(&tables)
        && le16(sector, 14)? > 0;
    if !sound || !(fat32 || fat16) {
        return None;
    }
    let (serial, label) = if fat32 { (67, 71) } else { (39, 43) };
    let number = le32(sector, serial)?;
    let (high, low) = (number >> 16, number & 0xffff);
    Some(Content {
        format: "vfat",
        class: Class::Filesystem,
        label: text(sector.get(label..)?.get(..11)?).filter(|name| name != "NO NAME"),
        uuid: (number != 0).then(|| format!("{high:04X}-{low:04X}")),
    })
}

/// Swap: its magic is at the end of the first page, whose size is that of the machine that made it.
fn swap(head: &[u8]) -> Option<Content> {
    [4096usize, 8192, 16_384, 65_536]
        .iter()
        .any(|page| {
            let found: Option<[u8; 10]> = page.checked_sub(10).and_then(|at| array(head, at));
            matches!(found.as_ref(), Some(b"SWAPSPACE2" | b"SWAP-SPACE"))
        })
        .then(|| Content {
            format: "swap",
            class: Class::Swap,
            label: head.get(1052..1068).and_then(text),
            uuid: array(head, 1036).and_then(uuid),
        })
}

fn parse(head: &[u8], tail: &[u8]) -> Option<Content> {
    for magic in &MAGICS {
        let end = magic.at.checked_add(magic.bytes.len())?;
        if head.get(magic.at..end) != Some(magic.bytes) {
            continue;
        }
        let field = |(at, length): (usize, usize)| text(head.get(at..)?.get(..length)?);
        let is_journal = magic.format == "ext"
            && super::bytes::le32(head, INCOMPAT_AT).is_some_and(|bits| bits & JOURNAL_DEV != 0);
        let (format, class) = match is_journal {
            true => ("jbd", Class::Journal),
            false => (magic.format, magic.class),
        };
        return Some(Content {
            format,
            class,
            label: magic.label.and_then(field),
            uuid: match magic.format {
                "crypto_LUKS" => field((168, 40)),
                "ntfs" => super::bytes::le64(head, 72).map(|n| format!("{n:016X}")),
                _ => magic.uuid.and_then(|at| array(head, at)).and_then(uuid),
            },
        });
    }
    if let Some(content) = swap(head).or_else(|| fat_boot(head)) {
        return Some(content);
    }
    md_at_end(tail).then_some(Content {
        format: "linux_raid_member",
        class: Class::Container,
        label: None,
        uuid: None,
    })
}

/// Finds md superblocks at the end: 0.90 at the last 64 KiB boundary that leaves 64 KiB, 1.0 at the last 4
/// KiB boundary that leaves 8 KiB. `tail` ends at the end of the volume.
fn md_at_end(tail: &[u8]) -> bool {
    const MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
    tail.chunks_exact(4096)
        .any(|block| array(block, 0) == Some(MAGIC))
}

/// Recognises the content of a volume; `None` when it is unknown.
///
/// # Errors
/// `Io`, and other errors of reading.
pub fn probe(volume: &dyn ReadAt) -> Result<Option<Content>> {
    let size = volume.size_bytes();
    let mut head = vec![0; usize_from_u64(HEAD_BYTES.min(size))];
    volume.read_at(0, &mut head)?;
    // The tail begins at a 4 KiB boundary, so that superblocks have their expected offsets.
    let from = size.saturating_sub(TAIL_BYTES) & !4095;
    let mut tail = vec![0; usize_from_u64(size.saturating_sub(from))];
    volume.read_at(from, &mut tail)?;
    let mut content = parse(&head, &tail);
    if let Some(content) = content.as_mut().filter(|content| content.format == "vfat") {
        content.label = fat::label(volume).or_else(|| content.label.take());
    }
    Ok(content)
}

/// Readers by format.
const READERS: [(&str, OpenFs); 4] = [
    ("btrfs", btrfs::open),
    ("ext", ext::open),
    ("vfat", fat::open),
    ("xfs", xfs::open),
];

/// Opens the filesystem on a volume; `devices` includes the other devices that it spans. Never fails: damage
/// is a state.
#[must_use]
pub fn open_fs(devices: &[Arc<dyn ReadAt>]) -> (VolumeState, Option<Box<dyn GuestFs>>) {
    let Some(volume) = devices.first() else {
        return (VolumeState::NoFilesystem, None);
    };
    let content = match probe(volume) {
        Ok(Some(content)) => content,
        Ok(None) => return (VolumeState::NoFilesystem, None),
        Err(error) => return (VolumeState::Damaged(error.report()), None),
    };
    match (
        content.class,
        READERS.iter().find(|(format, _)| *format == content.format),
    ) {
        (Class::Swap | Class::Journal | Class::Container, _) => (VolumeState::NoFilesystem, None),
        (Class::Filesystem, None) => (VolumeState::Unsupported(content.format.to_owned()), None),
        (Class::Filesystem, Some((_, open))) => match open(devices) {
            Ok(fs) => (VolumeState::Readable, Some(fs)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Unsupported | ErrorKind::LimitExceeded
                ) =>
            {
                (VolumeState::Unsupported(error.report()), None)
            }
            Err(error) => (VolumeState::Damaged(error.report()), None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, open_fs, probe};
    use crate::block::filter::{Fault, OpKind};
    use crate::block::{MemoryDisk, ReadAt, WriteAt};
    use crate::error::ErrorKind;
    use crate::guest::fs::VolumeState;
    use std::sync::Arc;

    fn with(at: u64, bytes: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::sparse(1 << 20);
        disk.write_at(at, bytes).unwrap();
        disk
    }

    #[test]
    fn formats_are_told_by_their_magic() {
        for (at, bytes, format, class) in [
            (0, &b"XFSB"[..], "xfs", Class::Filesystem),
            (1080, b"\x53\xef", "ext", Class::Filesystem),
            (65_600, b"_BHRfS_M", "btrfs", Class::Filesystem),
            (3, b"NTFS    ", "ntfs", Class::Filesystem),
            (3, b"EXFAT   ", "exfat", Class::Filesystem),
            (32_769, b"CD001", "iso9660", Class::Filesystem),
            (0, b"hsqs", "squashfs", Class::Filesystem),
            (536, b"LVM2 001", "LVM2_member", Class::Container),
            (0, b"LUKS\xba\xbe", "crypto_LUKS", Class::Container),
            (
                4096,
                b"\xfc\x4e\x2b\xa9",
                "linux_raid_member",
                Class::Container,
            ),
            (
                (1 << 20) - 65_536,
                b"\xfc\x4e\x2b\xa9",
                "linux_raid_member",
                Class::Container,
            ),
            (4086, b"SWAPSPACE2", "swap", Class::Swap),
        ] {
            let content = probe(&with(at, bytes)).unwrap().unwrap();
            assert_eq!((content.format, content.class), (format, class));
        }
        assert_eq!(probe(&with(0, b"nothing")).unwrap(), None);
        assert_eq!(probe(&MemoryDisk::new()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let state = |disk: Arc<dyn ReadAt>| open_fs(&[disk]).0;
        assert_eq!(
            state(Arc::new(with(0, b"hsqs"))),
            VolumeState::Unsupported("squashfs".to_owned())
        );
        assert_eq!(
            state(Arc::new(with(4086, b"SWAPSPACE2"))),
            VolumeState::NoFilesystem
        );
        let damaged = state(Arc::new(with(1080, b"\x53\xef")));
        assert!(matches!(damaged, VolumeState::Damaged(_)), "{damaged:?}");
        let faulty = Fault::new(Arc::new(MemoryDisk::sparse(4096)));
        faulty.fail_range(OpKind::Read, 0, 1, ErrorKind::Io);
        let damaged = state(Arc::new(faulty));
        assert!(matches!(damaged, VolumeState::Damaged(_)), "{damaged:?}");
    }
}
