//! Names of devices that udev derives from their hardware: `/dev/disk/by-id/...`, `/dev/disk/by-path/...`.
//!
//! # Why
//! The disks do not contain the machine's buses and serial numbers. The key of a disk is its serial number,
//! if the backup received one. Otherwise the name gives only the number of the partition; a volume that alone
//! matches is inferred, with a note.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::collections::BTreeSet;

use super::lookup::Found;
use super::{Class, Refusal, VolumeFacts};
use crate::guest::volume::Origin;

/// Characters of a serial number that virtio passes on (Linux, `VIRTIO_BLK_ID_BYTES`).
const VIRTIO_SERIAL_CHARS: usize = 20;

/// Whether a source is a name derived from hardware.
pub(super) fn is_name(source: &str) -> bool {
    ["/dev/disk/by-id/", "/dev/disk/by-path/"]
        .iter()
        .filter_map(|dir| source.strip_prefix(dir))
        .any(|name| !name.starts_with("dm-") && !name.starts_with("md-"))
}

/// The number of the partition at the end of a name: `...-part2`.
fn partition(name: &str) -> (&str, Option<u32>) {
    match name.rsplit_once("-part") {
        Some((disk, number)) => match number.parse() {
            Ok(number) => (disk, Some(number)),
            Err(_) => (name, None),
        },
        None => (name, None),
    }
}

/// A serial number in udev's form (`udev_replace_chars`).
fn written(serial: &str) -> String {
    serial
        .trim()
        .chars()
        .map(|c| match c {
            _ if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) => c,
            _ => '_',
        })
        .collect()
}

/// Whether the name of a disk ends with its serial number.
fn has_serial(name: &str, serial: &str) -> bool {
    let serial = written(serial);
    let short: String = serial.chars().take(VIRTIO_SERIAL_CHARS).collect();
    if serial.is_empty() {
        return false;
    }
    let ends = name
        .strip_suffix(&serial)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '_']));
    ends || name.strip_prefix("virtio-") == Some(&short)
}

/// Whether the name may refer to a volume.
fn fits(facts: &VolumeFacts, number: Option<u32>) -> bool {
    match (&facts.origin, number) {
        (Origin::Disk(_), None) => true,
        (
            Origin::Partition {
                disk: Some(_),
                number,
            },
            Some(wanted),
        ) => *number == wanted,
        _ => false,
    }
}

/// Whether a filesystem can be mounted as that type.
fn is_type(facts: &VolumeFacts, fs_type: &str) -> bool {
    let format = facts.format.as_deref().unwrap_or_default();
    fs_type.split(',').any(|wanted| match wanted {
        "auto" => true,
        "ext2" | "ext3" | "ext4" => format.starts_with("ext"),
        "msdos" => format == "vfat",
        other => other == format,
    })
}

/// The volume of a name below `/dev/disk/by-id/` or `by-path/`; `taken` are the volumes of other entries.
pub(super) fn find(
    volumes: &[VolumeFacts],
    name: &str,
    fs_type: &str,
    taken: &BTreeSet<usize>,
) -> Found {
    let (disk, number) = partition(name);
    let fitting = || {
        volumes
            .iter()
            .enumerate()
            .filter(|(_, facts)| fits(facts, number))
    };
    let has = |facts: &VolumeFacts| {
        facts
            .serial
            .as_ref()
            .is_some_and(|serial| has_serial(disk, serial))
    };
    let by_serial: Vec<usize> = fitting()
        .filter(|(_, facts)| has(facts))
        .map(|(at, _)| at)
        .collect();
    if !by_serial.is_empty() {
        return Ok((by_serial, None));
    }
    let candidates: Vec<(usize, &VolumeFacts)> = fitting()
        .filter(|(at, facts)| facts.may_open && is_type(facts, fs_type) && !taken.contains(at))
        .collect();
    match candidates.as_slice() {
        [] => Err(Refusal::new(
            Class::Missing,
            "no disk has such a serial number, and no volume fits",
        )),
        [(at, facts)] => Ok((
            vec![*at],
            Some(format!("inferred: {} alone fits", facts.path)),
        )),
        many => {
            let paths: Vec<&str> = many.iter().map(|(_, facts)| facts.path.as_str()).collect();
            let list = paths.join(", ");
            Err(Refusal::new(
                Class::Unreadable,
                format!(
                    "no disk has such a serial number, and several volumes fit: {list}; back up with --key DISK=SERIAL"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{has_serial, is_name, partition};

    #[test]
    fn names_end_with_serial_numbers() {
        for (name, serial) in [
            ("virtio-vol-0abc", "vol-0abc"),
            ("scsi-0QEMU_QEMU_HARDDISK_vol-0abc", "vol-0abc"),
            ("ata-QEMU_HARDDISK_QM00001", "QM00001"),
            ("nvme-Amazon_Elastic_Block_Store_vol0a1", "vol0a1"),
            (
                "virtio-0a1b2c3d-4e5f-6071-8",
                "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            ),
            ("ata-X_a_b", "a b"),
        ] {
            assert!(has_serial(name, serial), "{name} {serial}");
        }
        for (name, serial) in [
            ("virtio-xvol", "vol"),
            ("virtio-vol", ""),
            ("virtio-vol", "other"),
        ] {
            assert!(!has_serial(name, serial), "{name} {serial}");
        }
        assert_eq!(partition("a-part12"), ("a", Some(12)));
        assert_eq!(partition("a-partx"), ("a-partx", None));
        assert!(is_name("/dev/disk/by-path/pci-0"));
        assert!(!is_name("/dev/disk/by-id/dm-name-a-b"));
    }
}
