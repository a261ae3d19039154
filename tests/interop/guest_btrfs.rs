//! btrfs: our reader against the kernel's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, MemoryDisk, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::guest::btrfs;
use restorefs::guest::conformance::check_guest_fs;
use restorefs::guest::fs::{GuestFs, GuestIno, Subvolume};
use restorefs::sys::beneath::Access;

use crate::guest_image::{Mount, fill, make};
use crate::guest_walk::{Counts, by_many, compare_from, content};
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::tool::run;

const SIZE_MIB: u64 = 256;

pub(crate) fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

fn open(volume: &Arc<dyn ReadAt>) -> Box<dyn GuestFs> {
    btrfs::open(std::slice::from_ref(volume)).unwrap()
}

/// The kernel's inode number within a subvolume.
pub(crate) fn number(ino: GuestIno) -> u64 {
    if ino.0 >> 63 == 0 {
        ino.0 & 0xff_ffff
    } else {
        ino.0 & 0xfff_ffff_ffff
    }
}

fn path(root: &Path, name: &str) -> String {
    root.join(name).to_str().unwrap().to_owned()
}

/// Compares what both show of an image.
fn compare(image: &Path) -> Option<Counts> {
    let mount = Mount::new(image, "ro,subvolid=5")?;
    let volume = volume(image);
    let fs = open(&volume);
    assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
    assert!(check_guest_fs(&*fs, &volume) > 2);
    let root = fs.root();
    Some(compare_from(fs, &volume, root, &number, mount.path()))
}

/// Fills an image that is mounted with `options` through the kernel and `more`, and compares.
fn check_more(
    mkfs: &[&str],
    options: &str,
    more: impl FnOnce(&Path),
) -> Option<(tempfile::TempDir, PathBuf, Counts)> {
    let temp = tempfile::tempdir().unwrap();
    let image = make(temp.path(), "mkfs.btrfs", mkfs, SIZE_MIB)?;
    {
        let mount = Mount::new(&image, &format!("rw,{options}"))?;
        fill(mount.path(), 4096);
        // What compresses, more than one extent of it.
        let text: String = (0..60_000)
            .map(|n| format!("line {n} of a text\n"))
            .collect();
        std::fs::write(mount.path().join("text"), text).unwrap();
        std::fs::write(mount.path().join("short text"), "x".repeat(1500)).unwrap();
        more(mount.path());
    }
    let counts = compare(&image)?;
    Some((temp, image, counts))
}

fn check(mkfs: &[&str], options: &str) -> Option<Counts> {
    check_more(mkfs, options, |_| ()).map(|(_, _, counts)| counts)
}

#[test]
fn btrfs_as_it_is_made_by_default() {
    if let Some((_temp, image, counts)) = check_more(&["-L", "a label"], "noatime", |_| ()) {
        let volume = volume(&image);
        assert!(by_many(&*open(&volume), &volume) > 2000);
        assert!(counts.plain == 0 && counts.inline > 1500, "{counts:?}");
        assert!(counts.encoded > 500, "{counts:?}");
    }
}

/// Also extents that ended their file when they were compressed, in files that have grown since: they decode to less than they cover.
#[test]
fn compressed_files() {
    for kind in ["zlib", "lzo", "zstd:3"] {
        check_more(&[], &format!("compress-force={kind}"), |root| {
            for (name, size) in [("grown", 300_000), ("cut and grown", 140_000)] {
                let text: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
                let file = std::fs::File::create(root.join(name)).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &text.as_bytes()[..70_001], 0)
                    .unwrap();
                file.sync_all().unwrap();
                if name.starts_with("cut") {
                    file.set_len(33_333).unwrap();
                }
                file.set_len(size).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"end", size - 3).unwrap();
            }
        });
    }
}

#[test]
fn all_checksums() {
    for kind in ["xxhash", "sha256", "blake2"] {
        check(&["--csum", kind], "compress=zstd");
    }
}

#[test]
fn sizes_of_nodes_and_mixed_groups() {
    check(&["--nodesize", "4096"], "noatime");
    check(&["--nodesize", "65536"], "noatime");
    check(&["--mixed"], "noatime");
}

#[test]
fn holes_with_items_and_without() {
    check(&["-O", "^no-holes"], "noatime");
    check(&["-O", "no-holes"], "noatime");
}

#[test]
fn shared_extents() {
    for options in ["noatime", "compress-force=zstd"] {
        check_more(&[], options, |root| {
            for name in ["shared", "shared in part"] {
                run(
                    "cp",
                    &["--reflink=always", &path(root, "large"), &path(root, name)],
                );
            }
            let file = std::fs::File::options()
                .write(true)
                .open(root.join("shared in part"))
                .unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &noise(5, 9000), 1_000_001).unwrap();
            file.set_len(3_000_001).unwrap();
        });
    }
}

/// Files that are written in place have no checksums, and one copy: their bytes are plain.
#[test]
fn files_without_checksums() {
    let options = "nodatacow";
    if let Some(counts) = check(&["-d", "single", "-m", "single"], options) {
        assert!(counts.plain > 1000, "{counts:?}");
    }
    if let Some(counts) = check(&["-d", "dup", "-m", "dup"], options) {
        assert!(counts.plain == 0, "{counts:?}");
    }
}

/// Subvolumes in each other, snapshots with empty places, and the default one.
#[test]
fn subvolumes_and_snapshots() {
    let made = check_more(&[], "noatime", |root| {
        let btrfs = |arguments: &[&str]| run("btrfs", arguments);
        btrfs(&["subvolume", "create", &path(root, "sub")]);
        btrfs(&["subvolume", "create", &path(root, "sub/inner")]);
        std::fs::write(root.join("sub/file"), noise(1, 10_000)).unwrap();
        std::fs::write(root.join("sub/inner/file"), noise(2, 10_000)).unwrap();
        std::fs::create_dir(root.join("snapshots")).unwrap();
        let (from, to) = (path(root, "sub"), path(root, "snapshots/one"));
        btrfs(&["subvolume", "snapshot", "-r", &from, &to]);
        std::fs::write(root.join("sub/file"), noise(3, 20_000)).unwrap();
        let to = path(root, "sub/inner/two");
        btrfs(&["subvolume", "snapshot", &from, &to]);
        std::fs::rename(root.join("sub/inner"), root.join("sub/renamed")).unwrap();
        btrfs(&["subvolume", "create", &path(root, "gone")]);
        btrfs(&["subvolume", "delete", &path(root, "gone")]);
        let to = path(root, "snapshots/all");
        btrfs(&["subvolume", "snapshot", root.to_str().unwrap(), &to]);
        btrfs(&["subvolume", "set-default", &path(root, "sub/renamed/two")]);
    });
    let Some((_temp, image, _)) = made else {
        return;
    };
    let volume = volume(&image);
    let fs = open(&volume);
    for (which, options) in [
        (Subvolume::Default, "ro".to_owned()),
        (Subvolume::Path(b"sub".to_vec()), "ro,subvol=sub".to_owned()),
        (
            Subvolume::Path(b"/snapshots/one/".to_vec()),
            "ro,subvol=/snapshots/one".to_owned(),
        ),
        (Subvolume::Id(257), "ro,subvolid=257".to_owned()),
        (Subvolume::Id(5), "ro,subvolid=5".to_owned()),
    ] {
        let root = fs.subvolume(&which).unwrap();
        let Some(mount) = Mount::new(&image, &options) else {
            return;
        };
        compare_from(open(&volume), &volume, root, &number, mount.path());
    }
    assert_ne!(fs.subvolume(&Subvolume::Default).unwrap(), fs.root());
    for which in [
        Subvolume::Path(b"d/d".to_vec()),
        Subvolume::Path(b"nowhere".to_vec()),
        Subvolume::Id(4),
        Subvolume::Id(10_000),
    ] {
        let error = fs.subvolume(&which).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{which:?}");
    }
}

/// Loop devices over files, detached when dropped.
pub(crate) struct Loops(Vec<String>);

impl Loops {
    pub(crate) fn attach(files: &[PathBuf]) -> Option<Self> {
        let mut loops = Self(Vec::new());
        for file in files {
            let output = Command::new("losetup")
                .args(["-f", "--show", file.to_str().unwrap()])
                .output()
                .unwrap();
            if !output.status.success() {
                println!("SKIP: losetup: {}", String::from_utf8_lossy(&output.stderr));
                return None;
            }
            let name = String::from_utf8(output.stdout).unwrap();
            loops.0.push(name.trim().to_owned());
        }
        Some(loops)
    }

    pub(crate) fn mount(&self, options: &str, call: impl FnOnce(&Path)) {
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path().to_str().unwrap();
        let devices: Vec<String> = self.0.iter().map(|d| format!("device={d}")).collect();
        let options = format!("{options},{}", devices.join(","));
        run("mount", &["-t", "btrfs", "-o", &options, &self.0[0], at]);
        call(temp.path());
        run("umount", &[at]);
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("losetup").args(["-d", name]).status();
        }
    }
}

/// A filesystem over several devices, filled; each device is a file.
pub(crate) fn pool(dir: &Path, count: usize, mkfs: &[&str]) -> Option<Vec<PathBuf>> {
    if !has("mkfs.btrfs") || !has("losetup") {
        return None;
    }
    let files: Vec<PathBuf> = (0..count).map(|n| dir.join(format!("device{n}"))).collect();
    for file in &files {
        std::fs::File::create(file)
            .unwrap()
            .set_len(SIZE_MIB << 20)
            .unwrap();
    }
    let mut arguments = [&["-q", "-f"], mkfs].concat();
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    run("mkfs.btrfs", &arguments);
    let loops = Loops::attach(&files)?;
    loops.mount("rw", |root| fill(root, 4096));
    Some(files)
}

pub(crate) fn volumes(files: &[PathBuf]) -> Vec<Arc<dyn ReadAt>> {
    files.iter().map(|file| volume(file)).collect()
}

#[test]
fn several_devices() {
    for (count, profile) in [(2, "raid0"), (2, "raid1"), (4, "raid10"), (2, "single")] {
        let temp = tempfile::tempdir().unwrap();
        let Some(files) = pool(temp.path(), count, &["-d", profile, "-m", "raid1"]) else {
            return;
        };
        let mut volumes = volumes(&files);
        volumes.reverse();
        let Some(loops) = Loops::attach(&files) else {
            return;
        };
        loops.mount("ro", |root| {
            let fs = btrfs::open(&volumes).unwrap();
            assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
            assert!(check_guest_fs(&*fs, &volumes[0]) > 2000);
            let top = fs.root();
            compare_from(fs, &volumes[0], top, &number, root);
        });
    }
}

pub(crate) fn read_all(fs: Box<dyn GuestFs>, volume: &Arc<dyn ReadAt>, name: &[u8]) -> Vec<u8> {
    let fs: Arc<dyn GuestFs> = fs.into();
    let ino = fs.lookup(fs.root(), name).unwrap();
    content(&fs, volume, ino, &mut Counts::default()).unwrap()
}

/// With a device missing, what has another copy is read; what has none says which device is missing.
#[test]
fn a_missing_device() {
    let temp = tempfile::tempdir().unwrap();
    let Some(files) = pool(temp.path(), 2, &["-d", "raid1", "-m", "raid1"]) else {
        return;
    };
    for volume in volumes(&files) {
        let fs = open(&volume);
        assert!(fs.info().notes.join("; ").contains("1 of 2 devices"));
        assert!(read_all(fs, &volume, b"large") == noise(7, 5_000_000));
    }
    let temp = tempfile::tempdir().unwrap();
    let files = pool(temp.path(), 2, &["-d", "raid0", "-m", "raid1"]).unwrap();
    let first = volume(&files[0]);
    let fs = open(&first);
    let ino = fs.lookup(fs.root(), b"large").unwrap();
    let error = fs.read_encoded(ino, 0, &mut vec![0; 200_000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("device 2 is missing"), "{error}");
    let temp = tempfile::tempdir().unwrap();
    let files = pool(temp.path(), 2, &["-d", "raid0", "-m", "raid0"]).unwrap();
    let error = btrfs::open(&volumes(&files)[..1]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

/// Where bytes of a file are on a device: all places that hold `needle`.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    (0..bytes.len() / 4096)
        .map(|n| n * 4096)
        .filter(|at| bytes[*at..].starts_with(needle))
        .collect()
}

/// One bad copy is healed from the other; without a good one it is damage, of that file alone.
#[test]
fn bad_copies() {
    let temp = tempfile::tempdir().unwrap();
    let Some(files) = pool(temp.path(), 2, &["-d", "raid1", "-m", "raid1"]) else {
        return;
    };
    let large = noise(7, 5_000_000);
    let mut disks: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    for (disk, block) in disks.iter_mut().zip([3, 9]) {
        // Another sector of each.
        let found = places(disk, &large[block * 4096..block * 4096 + 64]);
        assert!(!found.is_empty());
        for at in found {
            disk[at + 100] ^= 1;
        }
    }
    let volumes = |disks: &[Vec<u8>]| -> Vec<Arc<dyn ReadAt>> {
        let disk = |bytes: &Vec<u8>| -> Arc<dyn ReadAt> { Arc::new(MemoryDisk::from_bytes(bytes)) };
        disks.iter().map(disk).collect()
    };
    let healed = volumes(&disks);
    let fs = btrfs::open(&healed).unwrap();
    assert!(read_all(fs, &healed[0], b"large") == large);
    // Now the third sector of the other copy too.
    for at in places(&disks[1], &large[3 * 4096..3 * 4096 + 64]) {
        disks[1][at + 200] ^= 1;
    }
    let bad = volumes(&disks);
    let fs = btrfs::open(&bad).unwrap();
    let ino = fs.lookup(fs.root(), b"large").unwrap();
    let error = fs.read_encoded(ino, 8192, &mut [0; 8192]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let mut after = vec![0; 4096];
    fs.read_encoded(ino, 4 * 4096, &mut after).unwrap();
    assert!(after == large[4 * 4096..5 * 4096]);
}

/// A copy of a filesystem in use, with a log of what was synced: the last committed state is shown, and said to be that.
#[test]
fn a_filesystem_with_a_log() {
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.btrfs", &[], SIZE_MIB) else {
        return;
    };
    let (dirty, committed) = (temp.path().join("dirty"), temp.path().join("committed"));
    {
        let Some(mount) = Mount::new(&image, "rw,commit=3000") else {
            return;
        };
        fill(mount.path(), 4096);
        run("sync", &["-f", mount.path().to_str().unwrap()]);
        std::fs::copy(&image, &committed).unwrap();
        std::fs::write(mount.path().join("synced"), noise(1, 50_000)).unwrap();
        let file = std::fs::File::open(mount.path().join("synced")).unwrap();
        file.sync_all().unwrap();
        std::fs::copy(&image, &dirty).unwrap();
    }
    let volume = volume(&dirty);
    let fs = open(&volume);
    let notes = fs.info().notes.join("; ");
    assert!(notes.contains("last commit"), "{notes:?}");
    assert!(fs.lookup(fs.root(), b"synced").is_err());
    let Some(mount) = Mount::new(&committed, "rw,noatime") else {
        return;
    };
    let root = fs.root();
    compare_from(fs, &volume, root, &number, mount.path());
}

#[test]
fn facts_of_the_filesystem() {
    let temp = tempfile::tempdir().unwrap();
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let arguments = ["-L", "my label", "-U", uuid];
    let Some(image) = make(temp.path(), "mkfs.btrfs", &arguments, SIZE_MIB) else {
        return;
    };
    let fs = open(&volume(&image));
    let info = fs.info();
    assert_eq!(info.label.as_deref(), Some("my label"));
    assert_eq!(info.uuid.as_deref(), Some(uuid));
    assert_eq!((info.block_bytes, info.total_bytes), (4096, SIZE_MIB << 20));
    assert!(info.used_bytes > 0 && info.used_bytes < 1 << 20);
    // The incompatible bits of the superblock, behind a checksum that is then wrong: so with the checksum of what is there.
    let bytes = std::fs::read(&image).unwrap();
    let disk = MemoryDisk::from_bytes(&bytes);
    disk.write_at(65_536 + 3000, &[1]).unwrap();
    let small = MemoryDisk::sparse(1 << 20);
    let mut superblock = vec![0; 4096];
    disk.read_at(65_536, &mut superblock).unwrap();
    small.write_at(65_536, &superblock).unwrap();
    let error = btrfs::open(&[Arc::new(small)]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[test]
fn features_that_are_not_read_are_named() {
    let temp = tempfile::tempdir().unwrap();
    if !has("mkfs.btrfs") {
        return;
    }
    let files: Vec<PathBuf> = (0..3).map(|n| temp.path().join(format!("{n}"))).collect();
    let mut arguments = vec!["-q", "-f", "-d", "raid5", "-m", "raid5"];
    for file in &files {
        std::fs::File::create(file)
            .unwrap()
            .set_len(SIZE_MIB << 20)
            .unwrap();
        arguments.push(file.to_str().unwrap());
    }
    run("mkfs.btrfs", &arguments);
    let error = btrfs::open(&volumes(&files)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("raid56"), "{error}");
}
