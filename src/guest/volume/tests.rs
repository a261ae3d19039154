//! Scans of disks in memory.

use std::sync::Arc;

use super::{Known, Scan, scan_point};
use crate::block::filter::{Fault, OpKind};
use crate::block::{MemoryDisk, ReadAt, WriteAt};
use crate::error::ErrorKind;
use crate::guest::fs::VolumeState;

const SIZE: u64 = 16 << 20;

fn empty() -> MemoryDisk {
    MemoryDisk::sparse(SIZE)
}

/// Writes an MBR at `at` with entries `(type, start, sectors)`.
fn table(disk: &MemoryDisk, at: u64, entries: &[(u8, u32, u32)]) {
    let mut sector = vec![0; 446];
    for (type_byte, start, sectors) in entries {
        sector.extend([0, 0, 0, 0, *type_byte, 0, 0, 0]);
        sector.extend(start.to_le_bytes());
        sector.extend(sectors.to_le_bytes());
    }
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    disk.write_at(at, &sector).unwrap();
}

/// The superblock of a btrfs device on `disk` at `at`.
fn btrfs(disk: &MemoryDisk, at: u64, fsid: u8, devices: u64, number: u64) {
    let mut block = vec![0; 4096];
    block[0x20..0x30].fill(fsid);
    block[0x40..0x48].copy_from_slice(b"_BHRfS_M");
    block[0x88..0x90].copy_from_slice(&devices.to_le_bytes());
    block[0xc9..0xd1].copy_from_slice(&number.to_le_bytes());
    disk.write_at(at + 65_536, &block).unwrap();
}

fn scan(disks: Vec<Arc<dyn ReadAt>>) -> Scan {
    let names = ["vda", "vdb", "vdc", "vdd"];
    let disks: Vec<_> = names.iter().map(|n| (*n).to_owned()).zip(disks).collect();
    scan_point(&disks)
}

fn dynamic(disk: MemoryDisk) -> Arc<dyn ReadAt> {
    Arc::new(disk)
}

fn shown(scan: &Scan) -> Vec<(&str, &Known)> {
    scan.volumes
        .iter()
        .map(|volume| (volume.path.as_str(), &volume.known))
        .collect()
}

#[test]
fn tables_within_partitions_are_looked_into_to_a_depth() {
    let disk = empty();
    // The second partition of each table is the rest, and contains the next table.
    let mut at = 0;
    for level in 0..8u32 {
        let rest = u32::try_from(SIZE / 512).unwrap() - (level + 1) * 100;
        table(&disk, at, &[(0x83, 50, 10), (0x83, 100, rest)]);
        at += 100 * 512;
    }
    disk.write_at(50 * 512 + 1080, b"\x53\xef").unwrap();
    disk.write_at(150 * 512 + 4086, b"SWAPSPACE2").unwrap();
    let found = scan(vec![dynamic(disk)]);
    let paths: Vec<&str> = shown(&found).iter().map(|(path, _)| *path).collect();
    assert_eq!(paths.first(), Some(&"vda/part/1"));
    assert_eq!(shown(&found)[0].1, &Known::Filesystem);
    assert_eq!(shown(&found)[1], ("vda/part/2", &Known::Partitioned));
    assert_eq!(paths[2], "vda/part/2.part/1");
    assert_eq!(paths.last(), Some(&"vda/part/2.part/2.part/2.part/2"));
    assert!(
        found.notes[0].contains("nested deeper than 4"),
        "{:?}",
        found.notes
    );
    // The nested partition's bytes are those of the disk.
    let nested = &found.volumes[2].map;
    assert_eq!((nested.size_bytes(), nested.runs().len()), (5120, 1));
}

#[test]
fn a_filesystem_hides_what_looks_like_a_table() {
    let disk = empty();
    table(&disk, 0, &[(0x83, 100, 10_000)]);
    table(&disk, 100 * 512, &[(0x83, 10, 10)]);
    disk.write_at(100 * 512 + 1080, b"\x53\xef").unwrap();
    assert_eq!(
        shown(&scan(vec![dynamic(disk)])),
        [("vda/part/1", &Known::Filesystem)]
    );
    // A table whose partitions do not exist is not a table either.
    let disk = empty();
    table(&disk, 0, &[(0x83, 100, 10_000)]);
    table(&disk, 100 * 512, &[(0x83, 20_000_000, 10)]);
    assert_eq!(
        shown(&scan(vec![dynamic(disk)])),
        [("vda/part/1", &Known::NoFilesystem)]
    );
}

#[test]
fn devices_of_one_btrfs_are_joined() {
    let (one, two, copy, single) = (empty(), empty(), empty(), empty());
    btrfs(&one, 0, 7, 3, 2);
    one.write_at(65_536 + 0x48, &9u64.to_le_bytes()).unwrap();
    btrfs(&two, 0, 7, 3, 1);
    btrfs(&copy, 0, 7, 3, 2);
    btrfs(&single, 0, 8, 1, 1);
    let found = scan([one, two, copy, single].map(dynamic).to_vec());
    let member = |role: &str| Known::Member(role.to_owned());
    assert_eq!(
        shown(&found),
        [
            ("vda/raw", &member("btrfs of vdb/raw")),
            ("vdb/raw", &Known::Filesystem),
            (
                "vdc/raw",
                &member("btrfs; it is an older copy of vda/raw, which is used")
            ),
            ("vdd/raw", &Known::Filesystem),
        ]
    );
    assert_eq!(
        found.volumes[1].members,
        [Arc::clone(&found.volumes[0].map)]
    );
    assert!(
        found
            .notes
            .iter()
            .any(|note| note.contains("2 of the 3 devices"))
    );
}

/// The order of disks changes nothing. Of two copies with one commit, neither is chosen.
#[test]
fn copies_of_a_device_of_a_btrfs() {
    let device = |number, generation: u64| {
        let disk = empty();
        btrfs(&disk, 0, 7, 2, number);
        disk.write_at(65_536 + 0x48, &generation.to_le_bytes())
            .unwrap();
        dynamic(disk)
    };
    let (first, old, new) = (device(1, 9), device(2, 5), device(2, 9));
    let found = scan(vec![old, Arc::clone(&new), Arc::clone(&first)]);
    assert_eq!(found.volumes[2].known, Known::Filesystem);
    assert_eq!(
        found.volumes[2].members,
        [Arc::clone(&found.volumes[1].map)]
    );
    let found = scan(vec![new, first, device(2, 9)]);
    let Known::Damaged(why) = &found.volumes[1].known else {
        panic!("{:?}", shown(&found));
    };
    assert!(why.contains("vda/raw") && why.contains("vdc/raw"), "{why}");
    assert!(
        shown(&found)
            .iter()
            .all(|(_, known)| **known != Known::Filesystem)
    );
}

/// Two snapshots of a single-device filesystem have its UUID, and are separate filesystems.
#[test]
fn copies_of_a_single_btrfs_stay_alone() {
    let (one, two) = (empty(), empty());
    btrfs(&one, 0, 7, 1, 1);
    btrfs(&two, 0, 7, 1, 1);
    let found = scan([one, two].map(dynamic).to_vec());
    assert!(
        shown(&found)
            .iter()
            .all(|(_, known)| **known == Known::Filesystem)
    );
    assert!(found.notes.is_empty() && found.volumes[0].members.is_empty());
}

#[test]
fn members_and_what_is_not_read_say_so() {
    let disks = [
        (0, &b"LUKS\xba\xbe"[..]),
        (4096, b"\xfc\x4e\x2b\xa9"),
        (3, b"-FVE-FS-"),
        (4086, b"SWAPSPACE2"),
    ];
    let disks = disks.map(|(at, bytes)| {
        let disk = empty();
        disk.write_at(at, bytes).unwrap();
        dynamic(disk)
    });
    let found = scan(disks.to_vec());
    let known: Vec<&Known> = shown(&found).iter().map(|(_, known)| *known).collect();
    assert_eq!(known[0], &Known::Unsupported("crypto_LUKS".to_owned()));
    assert!(matches!(known[1], Known::Unsupported(role) if role.contains("md array")));
    assert_eq!(known[2], &Known::Unsupported("BitLocker".to_owned()));
    assert_eq!(known[3], &Known::NoFilesystem);
    let (state, fs) = found.volumes[0].open(&disks);
    assert!(matches!(state, VolumeState::Unsupported(_)) && fs.is_none());
}

/// An unreadable disk hides no volume of the others; numbers behind it are not settled.
#[test]
fn a_disk_that_cannot_be_read_leaves_the_others() {
    let good = empty();
    table(&good, 0, &[(0x83, 100, 1000), (0x83, 2000, 1000)]);
    let bad = Fault::new(Arc::new(empty()));
    bad.fail_range(OpKind::Read, 0, 512, ErrorKind::Io);
    let found = scan(vec![
        dynamic(good.clone()),
        Arc::new(bad),
        dynamic(good.clone()),
    ]);
    assert_eq!(
        (found.volumes.len(), found.settled, found.complete),
        (4, 2, false)
    );
    assert!(found.notes[0].contains("vdb could not be read"));
    // Only one partition is unreadable.
    let bad = Fault::new(Arc::new(good));
    bad.fail_range(OpKind::Read, 100 * 512, 200 * 512, ErrorKind::Io);
    let found = scan(vec![Arc::new(bad)]);
    assert_eq!(
        (found.volumes.len(), found.settled, found.complete),
        (2, 0, false)
    );
    assert!(matches!(found.volumes[0].known, Known::Damaged(_)));
    assert_eq!(found.volumes[1].known, Known::NoFilesystem);
}

#[test]
fn a_cut_partition_says_so_and_is_still_tried() {
    let disk = empty();
    table(&disk, 0, &[(0x83, 100, u32::MAX), (0x83, 40_000_000, 5)]);
    let found = scan(vec![dynamic(disk.clone())]);
    assert!(
        found
            .volumes
            .iter()
            .all(|v| matches!(v.known, Known::Damaged(_)))
    );
    disk.write_at(100 * 512 + 1080, b"\x53\xef").unwrap();
    let disks = [dynamic(disk)];
    let found = scan(disks.to_vec());
    assert_eq!(found.volumes[0].known, Known::Filesystem);
    let (state, _) = found.volumes[0].open(&disks);
    assert!(matches!(state, VolumeState::Damaged(why) if why.contains("passes the end")));
}

#[test]
fn disks_named_like_groups_collide_with_nothing() {
    let disk = dynamic(empty());
    let scan = scan_point(&[
        ("lvm".to_owned(), Arc::clone(&disk)),
        ("raw".to_owned(), disk),
    ]);
    let paths: Vec<&str> = shown(&scan).iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, ["lvm/raw", "raw/raw"]);
}
