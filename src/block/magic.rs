//! Image formats by their magic numbers: a look that *refuses*, and never chooses a format.
//!
//! # Why
//! An image under another name (`.img` of cloud images, `disk` of OpenStack, UUIDs of oVirt, `.snap1` of libvirt) would be stored as a raw
//! disk: its container instead of its content, and of an overlay nothing of what lies in its backing file. Whoever names such a file has
//! to write how it is arranged. LUKS is never listed: guests encrypt their disks.
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
//!
//! The numbers are those of QEMU's `block/*.c` (`bdrv_probe`).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::ReadAt;
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes of the head and of the tail that are looked at.
const LOOK_BYTES: u64 = 512;

/// The image format that a disk's first or last bytes are those of.
///
/// # Errors
/// What reading returns.
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
    // Before Virtual PC 2004 the footer had 511 bytes.
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
    None
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
    fn both_footers_of_a_fixed_vhd_are_known() {
        assert_eq!(parse_magic(&[0; 512], b"conectix"), Some("vpc"));
        assert_eq!(parse_magic(&[0; 512], b"\0conectix"), Some("vpc"));
    }
}
