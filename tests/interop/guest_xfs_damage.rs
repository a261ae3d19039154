//! XFS that is damaged, frozen, or has its log elsewhere: our reader against the kernel's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::error::ErrorKind;
use restorefs::guest::fs::GuestFs;
use restorefs::guest::xfs;
use restorefs::sys::beneath::Access;

use crate::guest_image::{Mount, fill, made, make};
use crate::guest_walk::compare;
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::tool::run;

/// The least that mkfs.xfs makes.
const SIZE_MIB: u64 = 320;

fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

fn open(path: &Path) -> restorefs::error::Result<Box<dyn GuestFs>> {
    xfs::open(&[volume(path)])
}

fn database(image: &Path, commands: &[&str]) -> String {
    let mut arguments = vec!["-x"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(image.to_str().unwrap());
    let output = Command::new("xfs_db").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Changes a byte of the sector that `xfs_db` calls by this name.
fn spoil(image: &Path, sector: &str, at: u64) {
    let place = database(image, &[sector, "daddr"]);
    let number: u64 = place.split_whitespace().last().unwrap().parse().unwrap();
    let file = std::fs::File::options().write(true).open(image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa7], number * 512 + at).unwrap();
}

/// Headers of inodes and of space, lists of free blocks and copies of the superblock: what is not needed to read costs nothing. A kernel
/// mounts none with a damaged header, so there what it shows of the sound one is the measure.
#[test]
fn headers_of_groups_are_not_needed_to_read() {
    if !has("xfs_db") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = made(temp.path(), "mkfs.xfs", &[], SIZE_MIB, |root| {
        fill(root, 4096);
    }) else {
        return;
    };
    // As a file that was deleted while open leaves it; 64 lists, by the number's last bits.
    database(&image, &["agi 3", "write unlinked[5] 69"]);
    let copy = temp.path().join("copy");
    for (sector, at, note) in [
        ("agi 1", 300, "allocation groups 1 are damaged"),
        ("agi 0", 2, "allocation groups 0 are damaged"),
        ("agf 2", 100, "free space (AGF) is damaged"),
        ("agfl 1", 100, "without names, in the allocation groups 3"),
        ("sb 2", 100, "without names, in the allocation groups 3"),
    ] {
        std::fs::copy(&image, &copy).unwrap();
        spoil(&copy, sector, at);
        let is_passed = !sector.starts_with("agi") && !sector.starts_with("agf ");
        let mount = Mount::new(if is_passed { &copy } else { &image }, "ro").unwrap();
        let fs = open(&copy).unwrap();
        let notes = fs.info().notes.join("; ");
        assert!(notes.contains(note), "{sector}: {notes:?}");
        compare(fs, &volume(&copy), mount.path());
    }
}

/// What asks for a repair is not mounted by the kernel, and is refused by name.
#[test]
fn what_needs_repair_is_refused() {
    if !has("xfs_db") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.xfs", &[], SIZE_MIB) else {
        return;
    };
    feature(&image, 0x10);
    let error = open(&image).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.report().contains("needsrepair"), "{}", error.report());
}

/// Sets incompatible features.
fn feature(image: &Path, bits: u64) {
    let shown = database(image, &["sb 0", "p features_incompat"]);
    let old = shown.trim().rsplit("0x").next().unwrap();
    let new = u64::from_str_radix(old, 16).unwrap() | bits;
    database(
        image,
        &["sb 0", &format!("write features_incompat {new:#x}")],
    );
}

/// A copy of `image` by the kernel, once it is recovered, is what we show of another copy.
fn recovered(image: &Path, dir: &Path) {
    let theirs = dir.join("theirs");
    std::fs::copy(image, &theirs).unwrap();
    drop(Mount::new(&theirs, "rw,nouuid").unwrap());
    let mount = Mount::new(&theirs, "ro,nouuid").unwrap();
    compare(open(image).unwrap(), &volume(image), mount.path());
}

/// Frozen with files that are open and have no name any more, and the same without the freeze.
#[test]
fn a_frozen_filesystem_and_files_without_names() {
    if !has("fsfreeze") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.xfs", &[], SIZE_MIB) else {
        return;
    };
    let (frozen, dirty) = (temp.path().join("frozen"), temp.path().join("dirty"));
    {
        let Some(mount) = Mount::new(&image, "rw") else {
            return;
        };
        let root = mount.path();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::write(root.join("dir/kept"), noise(1, 50_000)).unwrap();
        let mut held = Vec::new();
        for n in 0..3 {
            let path = root.join(format!("deleted {n}"));
            std::fs::write(&path, noise(n, 20_000)).unwrap();
            held.push(std::fs::File::open(&path).unwrap());
            std::fs::remove_file(&path).unwrap();
        }
        let at = root.to_str().unwrap();
        run("sync", &["-f", at]);
        std::fs::hard_link(root.join("dir/kept"), root.join("again")).unwrap();
        std::fs::File::open(root).unwrap().sync_all().unwrap();
        std::fs::copy(&image, &dirty).unwrap();
        run("fsfreeze", &["-f", at]);
        std::fs::copy(&image, &frozen).unwrap();
        run("fsfreeze", &["-u", at]);
    }
    recovered(&frozen, temp.path());
    recovered(&dirty, temp.path());
}

/// Parent pointers and exchange-range, as the tools make it from 6.10 on, in use.
#[test]
fn parent_pointers_in_use() {
    if !has("xfs_db") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = made(temp.path(), "mkfs.xfs", &[], SIZE_MIB, |root| {
        // The superblock must know attributes of the second form.
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root, "user.a", b"b", flags).unwrap();
    }) else {
        return;
    };
    feature(&image, 0xc0);
    let dirty = temp.path().join("dirty");
    {
        let Some(mount) = Mount::if_known(&image, "rw") else {
            return;
        };
        let root = mount.path();
        std::fs::create_dir(root.join("d")).unwrap();
        for n in 0..600 {
            let path = root.join(format!("d/f{n}"));
            std::fs::write(&path, n.to_string()).unwrap();
            std::fs::hard_link(&path, root.join(format!("l{n}"))).unwrap();
        }
        std::fs::rename(root.join("d"), root.join("e")).unwrap();
        for n in 100..200 {
            std::fs::remove_file(root.join(format!("l{n}"))).unwrap();
        }
        run("sync", &["-f", root.to_str().unwrap()]);
        std::fs::rename(root.join("e/f7"), root.join("e/seven")).unwrap();
        std::fs::File::open(root).unwrap().sync_all().unwrap();
        std::fs::copy(&image, &dirty).unwrap();
    }
    recovered(&dirty, temp.path());
}

/// A log on a device of its own: whether it is clean only that device tells, so it is refused, as the kernel does without it.
#[test]
fn a_log_on_another_device_is_not_passed_over() {
    if !has("mkfs.xfs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let [image, log] = ["image", "log"].map(|name| -> PathBuf { temp.path().join(name) });
    for path in [&image, &log] {
        let file = std::fs::File::create(path).unwrap();
        file.set_len(SIZE_MIB << 20).unwrap();
    }
    let device = format!("logdev={},size=64m", log.display());
    run(
        "mkfs.xfs",
        &["-q", "-f", "-l", &device, image.to_str().unwrap()],
    );
    let error = open(&image).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let report = error.report();
    assert!(report.contains("separate device"), "{report}");
    assert!(report.contains("map --scratch"), "{report}");
}
