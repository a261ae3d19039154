//! Image formats by their magic numbers. This check only *refuses*; it never chooses a format.
//!
//! # Why
//! An image under another name (`.img` of cloud images, `disk` of OpenStack, UUIDs of oVirt, `.snap1` of
//! libvirt) would be stored as a raw disk: the container instead of its content, and of an overlay nothing
//! that lies in its backing file. A user who names such a file must state its format. LUKS is not listed:
//! guests encrypt their disks.
//!
//! # On-disk layout
//! | format | where | bytes |
//! |---|---|---|
//! | qcow2, qcow | 0 | `QFI\xfb`, version (u32, big-endian) |
//! | qed | 0 | `QED\0` |
//! | vmdk | 0 | `KDMV` (sparse), `COWD` (ESX), `# Disk DescriptorFile` (text), `0xcafebabe` (u64, little-endian: SE sparse) |
//! | vhdx | 0 | `vhdxfile` |
//! | vpc (VHD) | 0 (dynamic) or the last 512 bytes (fixed; 511 of old writers) | `conectix` |
//! | vdi | 64 | `0xbeda107f` (u32, little-endian) |
//! | parallels | 0 | `WithoutFreeSpace`, `WithouFreSpacExt` |
//! | gzip | 0 | `1f 8b 08` |
//! | xz | 0 | `fd`, `7zXZ`, 0 |
//! | zstd | 0 | `28 b5 2f fd` |
//! | bzip2 | 0 | `BZh`, `1` to `9`, `31 41 59 26 53 59` |
//! | vma (Proxmox) | 0 | `VMA\0` |
//! | ova | 0 | a tar (`ustar` at 257) whose first file is called `NAME.ovf`, or `ova.xml` (XVA) |
//!
//! The numbers of images are those of QEMU's `block/*.c` (`bdrv_probe`), the others those of file(1):
//! compressed or archived bytes are not a disk's bytes either. Any other tar is accepted: a guest may use a
//! disk as a tape.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::ReadAt;
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes of the head and of the tail that are checked.
const LOOK_BYTES: u64 = 512;

/// The image format whose magic number the first or last bytes of a disk have.
///
/// # Errors
/// Errors of reading.
pub fn look(disk: &dyn ReadAt) -> Result<Option<&'static str>> {
    let size_bytes = disk.size_bytes();
    let mut head = vec![0; usize_from_u64(size_bytes.min(LOOK_BYTES))];
    disk.read_at(0, &mut head)?;
    let mut tail = vec![0; head.len()];
    disk.read_at(
        size_bytes.saturating_sub(u64_from_usize(tail.len())),
        &mut tail,
    )?;
    Ok(parse_magic(&head, &tail))
}

fn parse_magic(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let begins = |magic: &[u8]| head.starts_with(magic);
    if let Some(version) = head.strip_prefix(b"QFI\xfb") {
        return Some(if version.starts_with(&[0, 0, 0, 1]) {
            "qcow"
        } else {
            "qcow2"
        });
    }
    if begins(b"QED\0") {
        return Some("qed");
    }
    let is_vmdk = [
        &b"KDMV"[..],
        b"COWD",
        b"# Disk DescriptorFile",
        &0xcafe_babe_u64.to_le_bytes(),
    ];
    if is_vmdk.into_iter().any(begins) {
        return Some("vmdk");
    }
    if begins(b"vhdxfile") {
        return Some("vhdx");
    }
    // The footer of writers older than Virtual PC 2004 has 511 bytes.
    let has_footer =
        tail.starts_with(b"conectix") || tail.get(1..).is_some_and(|t| t.starts_with(b"conectix"));
    if begins(b"conectix") || has_footer {
        return Some("vpc");
    }
    if head
        .get(64..)
        .is_some_and(|rest| rest.starts_with(&0xbeda_107f_u32.to_le_bytes()))
    {
        return Some("vdi");
    }
    if begins(b"WithoutFreeSpace") || begins(b"WithouFreSpacExt") {
        return Some("parallels");
    }
    PACKED
        .iter()
        .find(|(magic, _)| begins(magic))
        .map(|(_, format)| *format)
        .or_else(|| is_bzip2(head).then_some("bzip2"))
        .or_else(|| is_appliance(head).then_some("ova"))
}

/// Compression and archive formats: the magic number and the name of each.
const PACKED: [(&[u8], &str); 4] = [
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"VMA\0", "vma"),
];

/// Whether a disk in this format must be unpacked before it can be read.
#[must_use]
pub fn is_packed(format: &str) -> bool {
    matches!(format, "bzip2" | "ova") || PACKED.iter().any(|(_, known)| *known == format)
}

fn is_bzip2(head: &[u8]) -> bool {
    let block = head.strip_prefix(b"BZh").and_then(|rest| {
        rest.split_first()
            .filter(|(level, _)| matches!(level, b'1'..=b'9'))
    });
    block.is_some_and(|(_, rest)| rest.starts_with(b"\x31\x41\x59\x26\x53\x59"))
}

/// Whether a tar is an appliance: its first file is the description.
fn is_appliance(head: &[u8]) -> bool {
    let is_tar = head
        .get(257..)
        .is_some_and(|rest| rest.starts_with(b"ustar"));
    let name = head.get(..100).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    is_tar && (name.to_ascii_lowercase().ends_with(b".ovf") || name == b"ova.xml")
}

#[cfg(test)]
mod tests {
    use super::{look, parse_magic};
    use crate::block::{MemoryDisk, WriteAt};

    #[test]
    fn short_disks_have_none() {
        for size in [0_usize, 1, 3, 7, 511] {
            let disk = MemoryDisk::new();
            disk.write_at(0, &vec![0; size]).unwrap();
            assert_eq!(look(&disk).unwrap(), None);
        }
    }

    #[test]
    fn encryption_of_guests_is_no_image() {
        assert_eq!(parse_magic(b"LUKS\xba\xbe\0\x02", &[]), None);
        assert_eq!(parse_magic(b"SKUL\xba\xbe\0\x02", &[]), None);
    }

    #[test]
    fn a_tar_is_a_disk_unless_it_is_an_appliance() {
        let tar = |name: &[u8]| {
            let mut head = name.to_vec();
            head.resize(257, 0);
            head.extend_from_slice(b"ustar");
            head
        };
        assert_eq!(parse_magic(&tar(b"web01.ovf"), &[]), Some("ova"));
        assert_eq!(parse_magic(&tar(b"ova.xml"), &[]), Some("ova"));
        assert_eq!(parse_magic(&tar(b"etc/passwd"), &[]), None);
        assert_eq!(parse_magic(b"BZh0\x31\x41\x59\x26\x53\x59", &[]), None);
    }

    #[test]
    fn both_footers_of_a_fixed_vhd_are_known() {
        assert_eq!(parse_magic(&[0; 512], b"conectix"), Some("vpc"));
        assert_eq!(parse_magic(&[0; 512], b"\0conectix"), Some("vpc"));
    }
}
