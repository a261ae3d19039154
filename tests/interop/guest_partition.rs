//! Partition tables as sfdisk writes them, with filesystems in them.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::guest::fs::VolumeState;
use restorefs::guest::volume::{Known, Scan, scan_point};
use restorefs::sys::beneath::Access;

use crate::kit::need::has;
use crate::tool::run;

/// A disk of 64 MiB that sfdisk has partitioned by `script`, with an ext4 labelled `L` at `fs_at` MiB.
fn scan(script: &str, fs_at: u64) -> Option<(Scan, Vec<Arc<dyn ReadAt>>)> {
    if !has("sfdisk") || !has("mkfs.ext4") {
        return None;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("disk");
    let name = path.to_str().unwrap();
    std::fs::File::create(&path)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let mut sfdisk = Command::new("sfdisk")
        .args(["-q", name])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    sfdisk
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let offset = format!("offset={}", fs_at << 20);
    run(
        "mkfs.ext4",
        &["-q", "-F", "-L", "L", "-E", &offset, name, "8M"],
    );
    let disk: Arc<dyn ReadAt> = Arc::new(FileDisk::open(&path, Access::Read).unwrap());
    let scan = scan_point(&[("vda".to_owned(), Arc::clone(&disk))]);
    assert!(scan.complete);
    Some((scan, vec![disk]))
}

fn shown(scan: &Scan) -> Vec<(&str, u64, Known)> {
    scan.volumes
        .iter()
        .map(|volume| {
            (
                volume.path.as_str(),
                volume.map.size_bytes() >> 20,
                volume.known.clone(),
            )
        })
        .collect()
}

#[test]
fn gpt() {
    let script = "label: gpt\nstart=1MiB, size=4MiB, type=uefi\nstart=8MiB, size=16MiB, name=\"root é\"\n\
                  start=32MiB, size=8MiB, type=swap\n";
    let Some((scan, disks)) = scan(script, 8) else {
        return;
    };
    assert_eq!(
        shown(&scan),
        [
            ("vda/part/1", 4, Known::NoFilesystem),
            ("vda/part/2", 16, Known::Filesystem),
            ("vda/part/3", 8, Known::NoFilesystem),
        ]
    );
    let root = scan.volumes.get(1).unwrap();
    assert_eq!(root.part_label.as_deref(), Some("root é"));
    assert_eq!(root.type_name.as_deref(), Some("Linux filesystem"));
    let (state, fs) = root.open(&disks);
    assert_eq!(state, VolumeState::Readable);
    let fs = fs.unwrap();
    let info = fs.info();
    assert_eq!((info.format, info.label.as_deref()), ("ext4", Some("L")));
    assert_eq!(info.uuid, root.content.as_ref().unwrap().uuid);
    assert!(scan.notes.is_empty(), "{:?}", scan.notes);
}

#[test]
fn mbr_with_logical_partitions() {
    let script = "label: dos\nlabel-id: 0x1a2b3c4d\nstart=1MiB, size=4MiB\nstart=6MiB, size=50MiB, type=5\n\
                  start=7MiB, size=4MiB\nstart=20MiB, size=16MiB\n";
    let Some((scan, disks)) = scan(script, 20) else {
        return;
    };
    assert_eq!(
        shown(&scan),
        [
            ("vda/part/1", 4, Known::NoFilesystem),
            ("vda/part/2", 50, Known::NoFilesystem),
            ("vda/part/5", 4, Known::NoFilesystem),
            ("vda/part/6", 16, Known::Filesystem),
        ]
    );
    let root = scan.volumes.get(3).unwrap();
    assert_eq!(root.open(&disks).0, VolumeState::Readable);
    assert_eq!(root.part_uuid.as_deref(), Some("1a2b3c4d-06"));
}

#[test]
fn a_filesystem_without_a_table() {
    if !has("mkfs.ext4") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("disk");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    run("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]);
    let disk: Arc<dyn ReadAt> = Arc::new(FileDisk::open(&path, Access::Read).unwrap());
    let scan = scan_point(&[("vdb".to_owned(), disk)]);
    assert_eq!(shown(&scan), [("vdb/raw", 16, Known::Filesystem)]);
}
