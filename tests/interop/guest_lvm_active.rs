//! LVM volumes in use, captured with a guest's kernel still on them (tests/images/lvm-active): each must read as that kernel read it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use restorefs::block::run::Target;
use restorefs::block::{FileDisk, ReadAt};
use restorefs::guest::fs::{GuestFs, VolumeState};
use restorefs::guest::volume::{Known, Scan, Volume, scan_point};
use restorefs::sys::beneath::Access;

use crate::kit::need::has;

fn images() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/lvm-active")
}

/// Unpacks a disk, sparse, and opens it.
fn disk(dir: &Path, name: &str) -> Arc<dyn ReadAt> {
    let packed = std::fs::read(images().join(format!("{name}.zst"))).unwrap();
    let bytes = zstd::decode_all(&packed[..]).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    Arc::new(FileDisk::open(&path, Access::Read).unwrap())
}

fn sha256(disk: &dyn ReadAt) -> String {
    let mut sum = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sum.stdin.take().unwrap();
    let mut at = 0;
    // Odd, so that reads begin and end within chunks.
    let mut buf = vec![0; 777_777];
    while at < disk.size_bytes() {
        let length = (disk.size_bytes() - at).min(777_777);
        let part = &mut buf[..usize::try_from(length).unwrap()];
        disk.read_at(at, part).unwrap();
        stdin.write_all(part).unwrap();
        at += length;
    }
    drop(stdin);
    let output = sum.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

fn volume<'a>(scan: &'a Scan, name: &str) -> &'a Volume {
    let path = format!("lvm/vg0/{name}");
    scan.volumes
        .iter()
        .find(|volume| volume.path == path)
        .unwrap()
}

/// A file of a guest, as a disk.
struct File(Box<dyn GuestFs>, restorefs::guest::fs::GuestIno);

impl ReadAt for File {
    fn size_bytes(&self) -> u64 {
        self.0.attributes(self.1).unwrap().size_bytes
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> restorefs::error::Result<()> {
        self.0.read_encoded(self.1, offset, buf)
    }
}

#[test]
fn every_volume_reads_as_the_kernel_read_it() {
    if !has("sha256sum") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let disks: Vec<_> = ["vda", "vdb", "vdc"]
        .map(|name| (name.to_owned(), disk(temp.path(), name)))
        .into();
    let scan = scan_point(&disks);
    assert!(scan.complete);
    let known: BTreeMap<&str, &Known> = scan
        .volumes
        .iter()
        .map(|volume| (volume.path.as_str(), &volume.known))
        .collect();
    let paths: Vec<&str> = known.keys().copied().collect();
    assert_eq!(
        paths,
        [
            "lvm/vg0/base",
            "lvm/vg0/early",
            "lvm/vg0/fast",
            "lvm/vg0/late",
            "lvm/vg0/mirrored",
            "lvm/vg0/oldmirror",
            "lvm/vg0/parity",
            "lvm/vg0/pool",
            "lvm/vg0/snap",
            "lvm/vg0/stale",
            "lvm/vg0/thin",
            "vda/raw",
            "vdb/raw",
            "vdc/raw",
        ]
    );
    for name in ["base", "snap", "thin", "early", "late"] {
        assert_eq!(volume(&scan, name).known, Known::Filesystem, "{name}");
    }
    let Known::Unsupported(why) = &volume(&scan, "parity").known else {
        panic!("{known:?}");
    };
    assert!(why.contains("raid5"), "{why}");
    assert!(matches!(volume(&scan, "pool").known, Known::Member(_)));
    let sources: Vec<_> = disks.iter().map(|(_, disk)| Arc::clone(disk)).collect();
    let manifest = std::fs::read_to_string(images().join("manifest")).unwrap();
    let mut checked = 0;
    for line in manifest.lines() {
        let (expected, name) = line.split_once(' ').unwrap();
        let found = match name.split_once('/') {
            None => sha256(&*volume(&scan, name).reader(&sources)),
            Some((name, path)) => {
                let (state, fs) = volume(&scan, name).open(&sources);
                assert_eq!(state, VolumeState::Readable, "{name}");
                let fs = fs.unwrap();
                let ino = path.split('/').fold(fs.root(), |dir, name| {
                    fs.lookup(dir, name.as_bytes()).unwrap()
                });
                sha256(&File(fs, ino))
            }
        };
        assert_eq!(found, expected, "{name}");
        checked += 1;
    }
    assert_eq!(checked, 15);
    // The mirror with a failed leg was read from the other one.
    let stale = "stale: raid1: stale_rimage_0 is not current";
    assert!(
        scan.notes.iter().any(|note| note.contains(stale)),
        "{:?}",
        scan.notes
    );
    // Thin volumes are holes but for what was written.
    let thin = volume(&scan, "thin");
    let runs = thin.map.runs().iter();
    let data = runs.filter(|run| run.target != Target::Hole);
    let data_bytes: u64 = data.map(|run| run.length_bytes).sum();
    assert!(data_bytes < thin.map.size_bytes() / 4);
}

/// Without the second disk the mirrors are whole, and what lies on it is said.
#[test]
fn one_leg_of_a_mirror_is_enough() {
    if !has("sha256sum") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let manifest = std::fs::read_to_string(images().join("manifest")).unwrap();
    for name in ["vda", "vdb"] {
        let disk = disk(temp.path(), name);
        let scan = scan_point(&[(name.to_owned(), Arc::clone(&disk))]);
        for mirror in ["mirrored", "oldmirror"] {
            let volume = volume(&scan, mirror);
            let found = sha256(&*volume.reader(&[Arc::clone(&disk)]));
            let line = format!("{found} {mirror}\n");
            assert!(
                manifest.contains(&line),
                "{name} {mirror}: {:?}",
                volume.known
            );
        }
        // Where the second leg is missing, what the first one says of itself is all that is known.
        let expected = manifest
            .lines()
            .find(|line| line.ends_with(" stale"))
            .unwrap();
        let found = sha256(&*volume(&scan, "stale").reader(&[Arc::clone(&disk)]));
        assert_eq!(expected.starts_with(&found), name == "vdb");
        let noted = |part: &str| scan.notes.iter().any(|note| note.contains(part));
        assert!(
            noted("is missing") && noted("raid1: read from its leg"),
            "{:?}",
            scan.notes
        );
    }
}
