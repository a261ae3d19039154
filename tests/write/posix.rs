//! What a file is expected to do, on a disk of an open session.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::stand::{Stand, ready};

#[test]
fn files_behave_as_files() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("");
    fs::create_dir(stand.at("vm")).unwrap();
    stand.begin("s");
    let path = stand.disk("s");
    // O_EXCL.
    let new = || fs::File::options().write(true).create_new(true).open(&path);
    new().unwrap();
    assert_eq!(new().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    // O_APPEND.
    for part in ["one ", "two ", "three"] {
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(part.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "one two three");
    // A write past the end leaves a hole.
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all_at(b"far", 1_000_000).unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 1_000_003);
    let mut hole = vec![9; 70_000];
    file.read_exact_at(&mut hole, 13).unwrap();
    assert!(hole.iter().all(|byte| *byte == 0));
    // Reads end at the end, and not at the end of a sector.
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(999_999)).unwrap();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"\0far");
    // O_TRUNC.
    fs::write(&path, "short").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 5);
    assert_eq!(fs::read(&path).unwrap(), b"short");
    // Times follow writes.
    let before = fs::metadata(&path).unwrap();
    file.write_all_at(b"S", 0).unwrap();
    let after = fs::metadata(&path).unwrap();
    let time = |m: &fs::Metadata| (m.mtime(), m.mtime_nsec());
    assert!(time(&after) > time(&before));
    // A directory's time changes with its names.
    let dir = stand.at("vm/s.partial/disks");
    let before = fs::metadata(&dir).unwrap();
    fs::write(dir.join("vdb.raw"), "x").unwrap();
    assert!(time(&fs::metadata(&dir).unwrap()) > time(&before));
    // A copy between files of the mount.
    fs::copy(&path, dir.join("vdb.raw")).unwrap();
    assert_eq!(fs::read(dir.join("vdb.raw")).unwrap(), b"Short");
    // Locks are the kernel's own.
    file.lock().unwrap();
    let other = fs::File::open(&path).unwrap();
    assert!(other.try_lock().is_err());
    file.unlock().unwrap();
    stand.commit("s", "p").unwrap();
    assert_eq!(stand.point("p"), b"Short");
}

/// `status` is as long as stat says, whenever it is read.
#[test]
fn documents_have_their_exact_size() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    stand.begin("s");
    let disk = fs::File::options()
        .write(true)
        .open(stand.disk("s"))
        .unwrap();
    for n in 0..20 {
        disk.write_all_at(&bytes[..70_000 * n / 19], 0).unwrap();
        let mut file = fs::File::open(stand.at("vm/s.partial/status")).unwrap();
        let size = file.metadata().unwrap().len();
        disk.write_all_at(b"between", 0).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, size);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["state"], "open");
    }
}
