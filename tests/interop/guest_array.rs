//! Mirrors of md: superblocks as `tests/images/md-superblock` writes them (checked by blkid, and by mdadm where it is
//! there), with ext4 in them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt, WriteAt};
use restorefs::guest::fs::VolumeState;
use restorefs::guest::system::Files;
use restorefs::guest::volume::{Known, Scan, Volume, scan_point};
use restorefs::sys::beneath::Access;

use crate::kit::need::has;
use crate::tool::run;

const MIB: u64 = 1 << 20;
const UUID: &str = "0123456789abcdef0123456789abcdef";

/// A directory in which halves are made.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Option<Self> {
        let is_ready = has("python3") && has("mkfs.ext4") && has("blkid") && has("sfdisk");
        is_ready.then(|| Self(tempfile::tempdir().unwrap()))
    }

    /// A disk of 24 MiB in an array: `start` MiB of it are before its only partition (0: it is whole), which holds the superblock and an
    /// ext4 with that label.
    fn half(&self, version: &str, start: u64, label: &str, keys: &str) -> Arc<dyn ReadAt> {
        let name = format!(
            "half-{label}-{version}-{start}-{}",
            keys.replace([' ', ','], "-")
        );
        let path = self.0.path().join(name);
        let device = self.0.path().join("device");
        std::fs::File::create(&device)
            .unwrap()
            .set_len((24 - start) * MIB)
            .unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/md-superblock");
        let uuid = format!("uuid={UUID}");
        let mut arguments = vec![device.to_str().unwrap(), version, &uuid, "name=host:root"];
        arguments.extend(keys.split(' '));
        let place = run(script.to_str().unwrap(), &arguments);
        let place = String::from_utf8(place.stdout).unwrap();
        let mut numbers = place.split_whitespace().map(|n| n.parse::<u64>().unwrap());
        let (data, length) = (numbers.next().unwrap(), numbers.next().unwrap());
        let image = self.ext4(label, length / 1024);
        let disk = FileDisk::open(&device, Access::ReadWrite).unwrap();
        disk.write_at(data, &std::fs::read(image).unwrap()).unwrap();
        if version != "1.1" && version != "1.2" {
            // What blkid prefers is the filesystem; the superblock is there nevertheless.
            let found = Command::new("mdadm")
                .args(["--examine"])
                .arg(&device)
                .output();
            if let Ok(found) = found {
                let text = String::from_utf8_lossy(&found.stdout).into_owned();
                assert!(text.contains("- correct"), "{text}");
            }
        } else {
            let kind = run(
                "blkid",
                &["-p", "-s", "TYPE", "-o", "value", device.to_str().unwrap()],
            );
            assert_eq!(kind.stdout, b"linux_raid_member\n");
        }
        let bytes = std::fs::read(&device).unwrap();
        std::fs::write(&path, vec![]).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(24 * MIB)
            .unwrap();
        if start > 0 {
            // MBR: what follows it reaches the end of the disk.
            crate::guest_lvm::table(&path, &format!("label: dos\nstart={start}MiB, type=fd\n"));
        }
        let disk = FileDisk::open(&path, Access::ReadWrite).unwrap();
        disk.write_at(start * MIB, &bytes).unwrap();
        Arc::new(FileDisk::open(&path, Access::Read).unwrap())
    }

    fn ext4(&self, label: &str, size_kib: u64) -> PathBuf {
        let root = self.0.path().join(format!("root-{label}"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("name"), label).unwrap();
        let image = self.0.path().join("image");
        let _ = std::fs::remove_file(&image);
        let size = format!("{size_kib}k");
        let (root, image_name) = (root.to_str().unwrap(), image.to_str().unwrap());
        run(
            "mkfs.ext4",
            &["-q", "-F", "-L", label, "-d", root, image_name, &size],
        );
        image
    }
}

fn scan(disks: &[&Arc<dyn ReadAt>]) -> (Scan, Vec<Arc<dyn ReadAt>>) {
    let sources: Vec<Arc<dyn ReadAt>> = disks.iter().map(|disk| Arc::clone(disk)).collect();
    let names = ["vda", "vdb", "vdc"].map(str::to_owned);
    let scan = scan_point(&names.into_iter().zip(sources.clone()).collect::<Vec<_>>());
    assert!(scan.complete);
    (scan, sources)
}

fn at<'a>(scan: &'a Scan, path: &str) -> &'a Volume {
    let found = scan.volumes.iter().find(|volume| volume.path == path);
    found.unwrap_or_else(|| panic!("no {path} in {:#?}", scan.volumes))
}

/// Asserts that these disks show one filesystem, that of `label`, in `path`.
fn shows(disks: &[&Arc<dyn ReadAt>], path: &str, label: &str) -> Scan {
    let (scan, sources) = scan(disks);
    let readable: Vec<&str> = scan
        .volumes
        .iter()
        .filter(|volume| volume.open(&sources).0 == VolumeState::Readable)
        .map(|volume| volume.path.as_str())
        .collect();
    assert_eq!(readable, [path], "{:?}", scan.notes);
    let (_, fs) = at(&scan, path).open(&sources);
    let fs = fs.unwrap();
    assert_eq!(fs.info().label.as_deref(), Some(label));
    let name = fs.lookup(fs.root(), b"name").unwrap();
    let mut content = vec![0; label.len()];
    fs.read_encoded(name, 0, &mut content).unwrap();
    assert_eq!(content, label.as_bytes());
    scan
}

fn damage(scan: &Scan, path: &str) -> String {
    match &at(scan, path).known {
        Known::Damaged(why) => why.clone(),
        other => panic!("{path}: {other:?}"),
    }
}

/// Each version, on a whole disk and in a partition; the half that dropped out first or second.
#[test]
fn of_a_mirror_the_half_with_fewer_events_is_refused() {
    let Some(lab) = Lab::new() else { return };
    for (version, name) in [
        ("1.0", "root"),
        ("0.90", "md0"),
        ("1.1", "root"),
        ("1.2", "root"),
    ] {
        for start in [0, 1] {
            let path = format!("md/{name}");
            let leaf = if start == 0 { "raw" } else { "part/1" };
            let old = lab.half(version, start, "old", "number=1 events=10");
            let new = lab.half(version, start, "new", "number=0 events=20 roles=0,f");
            for (disks, stale) in [([&old, &new], "vda"), ([&new, &old], "vdb")] {
                let found = shows(&disks, &path, "new");
                let why = damage(&found, &format!("{stale}/{leaf}"));
                assert!(why.contains("missed writes"), "{version}: {why}");
                assert!(why.contains("(events 20)"), "{version}: {why}");
            }
            // Alone it is shown, and noted.
            let found = shows(&[&old], &path, "old");
            let note = found.notes.iter().find(|note| note.contains("1 of the 2"));
            assert!(note.is_some(), "{version}: {:?}", found.notes);
            // Whole, with a half that was caught between two writes.
            let late = lab.half(version, start, "new", "number=1 events=19");
            let whole = lab.half(version, start, "new", "number=0 events=20");
            let found = shows(&[&late, &whole], &path, "new");
            assert!(found.notes.is_empty(), "{version}: {:?}", found.notes);
            let member = Known::Member(format!("md array {name}"));
            assert_eq!(at(&found, &format!("vda/{leaf}")).known, member);
        }
    }
}

/// Halves that are not current though their events say nothing of it, and those between which nothing can decide.
#[test]
fn what_is_not_current_beyond_doubt_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let half = |label: &str, keys: &str| lab.half("1.0", 1, label, keys);
    let good = half("new", "number=0 events=20");
    for keys in [
        "number=1 events=20 recovery=1",
        "number=1 events=20 roles=0,s",
    ] {
        let bad = half("old", keys);
        let found = shows(&[&bad, &good], "md/root", "new");
        assert!(damage(&found, "vda/part/1").contains("does not hold all data"));
        let (found, _) = scan(&[&bad]);
        assert!(damage(&found, "md/root").contains("vda/part/1"));
    }
    // The newer one has it as failed.
    let failed = half("old", "number=1 events=20");
    let witness = half("new", "number=0 events=20 roles=0,f");
    let found = shows(&[&failed, &witness], "md/root", "new");
    assert!(damage(&found, "vda/part/1").contains("failed or removed"));
    // Each has the other as failed; and two copies of one device.
    let other = half("old", "number=1 events=20 roles=f,1");
    for disks in [[&witness, &other], [&good, &good]] {
        let (found, _) = scan(&disks);
        let why = damage(&found, "md/root");
        assert!(
            why.contains("vda/part/1") && why.contains("vdb/part/1"),
            "{why}"
        );
        assert!(
            !found
                .volumes
                .iter()
                .any(|volume| volume.known == Known::Filesystem)
        );
    }
    // Another level looks like a filesystem at its first device, and is none.
    let stripes = lab.half("1.0", 1, "new", "number=0 level=0");
    let (found, _) = scan(&[&stripes]);
    let Known::Unsupported(role) = &at(&found, "vda/part/1").known else {
        panic!("{:?}", found.volumes);
    };
    assert!(
        role.contains("RAID 0") && role.contains("not assembled"),
        "{role}"
    );
    assert_eq!(found.volumes.len(), 1);
}

/// What a guest calls an array: by the UUID that mdadm prints, by its name, by a number that mdadm.conf gives it, and by its filesystem.
#[test]
fn arrays_are_found_by_every_name() {
    let Some(lab) = Lab::new() else { return };
    if !has("mdadm") {
        return;
    }
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        let half = lab.half(version, 0, "new", "number=0");
        let device = lab.0.path().join("device");
        let told = run("mdadm", &["--examine", "--brief", device.to_str().unwrap()]);
        let told = String::from_utf8(told.stdout).unwrap();
        let uuid = told.split("UUID=").nth(1).unwrap();
        let uuid = uuid.split_whitespace().next().unwrap();
        let mut fstab = format!(
            "/dev/disk/by-id/md-uuid-{uuid} /a ext4\n/dev/md127 /b ext4\nLABEL=new /c ext4\n/dev/md5 /d ext4\n"
        );
        if version != "0.90" {
            fstab.push_str("/dev/md/root /e ext4\n/dev/disk/by-id/md-name-host:root /f ext4\n");
        }
        let root = lab.0.path().join(format!("system-{version}"));
        for dir in ["etc", "a", "b", "c", "d", "e", "f"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("etc/fstab"), &fstab).unwrap();
        let array = format!("ARRAY /dev/md5 metadata={version} UUID={uuid}\n");
        std::fs::write(root.join("etc/mdadm.conf"), array).unwrap();
        let image = lab.0.path().join(format!("image-{version}"));
        let (root, name) = (root.to_str().unwrap(), image.to_str().unwrap());
        run("mkfs.ext4", &["-q", "-F", "-d", root, name, "8M"]);
        let system: Arc<dyn ReadAt> = Arc::new(FileDisk::open(&image, Access::Read).unwrap());
        let disks = [("vda".to_owned(), system), ("vdb".to_owned(), half)];
        let (files, filesystems) = crate::guest_system::plan(&disks);
        let Files::Systems(systems) = files else {
            panic!("no system");
        };
        assert!(
            systems[0].unjoined.is_empty(),
            "{version} {fstab}: {:?}",
            systems[0].unjoined
        );
        assert_eq!(systems[0].mounts.len(), fstab.lines().count());
        for mount in &systems[0].mounts {
            let path = format!("{}/name", String::from_utf8_lossy(&mount.path));
            let path = path.trim_start_matches('/');
            let found = crate::guest_system::read(&systems[0], &filesystems, path);
            assert_eq!(found, "new");
        }
    }
}
