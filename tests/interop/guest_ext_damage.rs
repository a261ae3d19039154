//! ext4 with damage that the kernel passes over when it mounts read-only, and with journals that it replays, leaves alone, or does
//! not have.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use restorefs::block::{FileDisk, ReadAt};
use restorefs::error::ErrorKind;
use restorefs::guest::ext;
use restorefs::guest::fs::{GuestFs, GuestIno};
use restorefs::sys::beneath::Access;

use crate::guest_image::{Mount, fill, made, make};
use crate::guest_walk::compare;
use crate::kit::need::{has, need};
use crate::kit::noise::noise;
use crate::tool::run;

fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

fn open(path: &Path) -> restorefs::error::Result<Box<dyn GuestFs>> {
    ext::open(&[volume(path)])
}

/// A byte that becomes another.
fn flip(image: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

fn number_at(image: &Path, at: u64) -> u64 {
    let mut bytes = [0; 4];
    let file = std::fs::File::open(image).unwrap();
    file.read_exact_at(&mut bytes, at).unwrap();
    u32::from_le_bytes(bytes).into()
}

/// A filesystem in blocks of 1 KiB and 12 groups, filled.
fn filled(dir: &Path, options: &[&str]) -> Option<PathBuf> {
    let image = make(dir, "mkfs.ext4", &[&["-b", "1024"], options].concat(), 96)?;
    fill(Mount::new(&image, "rw")?.path(), 1024);
    Some(image)
}

/// Where the descriptor of a group is: behind the superblock's block, 64 bytes each (32 without the feature 64bit).
const fn descriptor(group: u64, bytes: u64) -> u64 {
    2048 + group * bytes
}

/// Wrong checksums of descriptors, bitmaps and copies of the superblock: the kernel mounts it read-only and shows all.
#[test]
fn checksums_that_the_kernel_passes_over_cost_nothing() {
    for (options, bytes) in [
        (&[][..], 64),
        (&["-O", "^metadata_csum,uninit_bg,^64bit"][..], 32),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let Some(image) = filled(temp.path(), options) else {
            return;
        };
        for group in [3, 5] {
            flip(&image, descriptor(group, bytes) + 0x1e);
        }
        let mount = Mount::new(&image, "ro").unwrap();
        let fs = open(&image).unwrap();
        let notes = fs.info().notes.join("; ");
        assert!(notes.contains("block groups 3, 5 have wrong"), "{notes:?}");
        compare(fs, &volume(&image), mount.path());
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = filled(temp.path(), &[]) else {
        return;
    };
    // Both bitmaps of group 4, and the copy of the superblock and of the descriptors in group 1.
    for at in [0, 4] {
        flip(&image, number_at(&image, descriptor(4, 64) + at) * 1024);
    }
    flip(&image, 8193 * 1024 + 0x20);
    flip(&image, 8194 * 1024 + 5);
    let mount = Mount::new(&image, "ro").unwrap();
    compare(open(&image).unwrap(), &volume(&image), mount.path());
}

/// What debugfs prints for a command.
fn debugfs(image: &Path, command: &str) -> String {
    let output = run("debugfs", &["-R", command, image.to_str().unwrap()]);
    String::from_utf8(output.stdout).unwrap()
}

/// A wrong checksum of an inode, of a block of a directory and of a node of a tree of extents: that file and that directory cannot be
/// read, as by the kernel; all else can.
#[test]
fn damage_of_an_inode_or_a_directory_costs_that_alone() {
    let temp = tempfile::tempdir().unwrap();
    if !has("debugfs") {
        return;
    }
    let Some(image) = made(temp.path(), "mkfs.ext4", &["-b", "1024"], 32, |root| {
        std::fs::create_dir(root.join("dir")).unwrap();
        for name in ["good", "bad", "dir/inner"] {
            std::fs::write(root.join(name), noise(1, 3000)).unwrap();
        }
        let pieces = std::fs::File::create(root.join("pieces")).unwrap();
        for n in 0..40 {
            pieces.write_all_at(&noise(n, 10), n * 4096).unwrap();
        }
    }) else {
        return;
    };
    // "Inode 13 is part of block group 0\n\tlocated at block 388, offset 0x0400"
    let place = debugfs(&image, "imap /bad");
    let words: Vec<&str> = place
        .split("located at block ")
        .nth(1)
        .unwrap()
        .split([',', ' ', '\n'])
        .collect();
    let offset = words.iter().find_map(|word| word.strip_prefix("0x"));
    let inode =
        words[0].parse::<u64>().unwrap() * 1024 + u64::from_str_radix(offset.unwrap(), 16).unwrap();
    flip(&image, inode + 0x7c);
    let block: u64 = debugfs(&image, "bmap /dir 0").trim().parse().unwrap();
    flip(&image, block * 1024 + 1023);
    // "(ETB0):1234" is the node of the tree of extents.
    let stat = debugfs(&image, "stat /pieces");
    let node = stat.split("(ETB0):").nth(1).unwrap();
    let node: String = node.chars().take_while(char::is_ascii_digit).collect();
    flip(&image, node.parse::<u64>().unwrap() * 1024 + 1023);
    let mount = Mount::new(&image, "ro").unwrap();
    assert!(mount.path().join("bad").symlink_metadata().is_err());
    assert!(std::fs::read(mount.path().join("pieces")).is_err());
    let fs = open(&image).unwrap();
    let find = |name: &[u8]| fs.lookup(fs.root(), name).unwrap();
    assert_eq!(
        fs.attributes(find(b"bad")).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        fs.entries(find(b"dir")).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        fs.runs(find(b"pieces")).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    let good = mount.path().join("good");
    assert_eq!(
        find(b"good"),
        GuestIno(good.symlink_metadata().unwrap().ino())
    );
    let mut bytes = vec![0; 3000];
    fs.read_encoded(find(b"good"), 0, &mut bytes).unwrap();
    assert!(bytes == std::fs::read(&good).unwrap());
}

/// A copy of an image while it is mounted and has changes in its journal only.
fn dirty(temp: &Path, options: &[&str], change: impl FnOnce(&Path)) -> Option<[PathBuf; 2]> {
    let image = make(temp, "mkfs.ext4", options, 96)?;
    let mount = Mount::new(&image, "rw")?;
    std::fs::write(mount.path().join("old"), noise(1, 100_000)).unwrap();
    run("sync", &["-f", mount.path().to_str().unwrap()]);
    change(mount.path());
    let copies = ["ours", "theirs"].map(|name| temp.join(name));
    for copy in &copies {
        std::fs::copy(&image, copy).unwrap();
    }
    Some(copies)
}

fn rename(root: &Path) {
    std::fs::rename(root.join("old"), root.join("new")).unwrap();
    std::fs::File::open(root).unwrap().sync_all().unwrap();
}

/// The kernel replays only what the superblock asks for.
#[test]
fn a_journal_that_the_superblock_does_not_ask_for_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    if !has("debugfs") {
        return;
    }
    let Some([ours, theirs]) = dirty(temp.path(), &[], rename) else {
        return;
    };
    for image in [&ours, &theirs] {
        let command = "feature -needs_recovery";
        run("debugfs", &["-w", "-R", command, image.to_str().unwrap()]);
    }
    let mount = Mount::new(&theirs, "rw,noatime").unwrap();
    let fs = open(&ours).unwrap();
    let notes = fs.info().notes.join("; ");
    assert!(notes.contains("does not ask for it"), "{notes:?}");
    compare(fs, &volume(&ours), mount.path());
}

/// Fast commits are refused by name; a journal that may have them and has none is replayed.
#[test]
fn fast_commits_are_replayed_or_refused_by_name() {
    let options = ["-O", "fast_commit"];
    let temp = tempfile::tempdir().unwrap();
    let full = dirty(temp.path(), &options, |root| {
        std::fs::rename(root.join("old"), root.join("new")).unwrap();
        run("sync", &["-f", root.to_str().unwrap()]);
        std::fs::write(root.join("more"), noise(2, 3)).unwrap();
        run("sync", &["-f", root.to_str().unwrap()]);
    });
    let Some([ours, theirs]) = full else { return };
    let mount = Mount::new(&theirs, "rw,noatime").unwrap();
    let fs = open(&ours).unwrap();
    let notes = fs.info().notes.join("; ");
    assert!(notes.contains("journal was replayed"), "{notes:?}");
    compare(fs, &volume(&ours), mount.path());
    drop(mount);
    let temp = tempfile::tempdir().unwrap();
    let fast = dirty(temp.path(), &options, |root| {
        std::fs::write(root.join("more"), noise(2, 3)).unwrap();
        let file = std::fs::File::open(root.join("more")).unwrap();
        file.sync_all().unwrap();
    });
    let Some([ours, _]) = fast else { return };
    let error = open(&ours).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let report = error.report();
    assert!(
        report.contains("fast_commit") && report.contains("map --scratch"),
        "{report}"
    );
}

/// A loop device, undone when dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["-f", "--show", file.to_str().unwrap()])
            .output()
            .ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A journal on a device of its own: in use, the filesystem cannot be shown without it, and is not; unmounted, it can.
#[test]
fn a_journal_on_another_device_is_not_passed_over() {
    if !has("mkfs.ext4") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let [image, log, copy] = ["image", "log", "copy"].map(|name| temp.path().join(name));
    for path in [&image, &log] {
        std::fs::File::create(path)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
    }
    let (Some(data), Some(journal)) = (Loop::new(&image), Loop::new(&log)) else {
        need(false, "loop devices");
        return;
    };
    let mkfs = |options: &[&str]| {
        run(
            "mkfs.ext4",
            &[&["-q", "-F", "-b", "4096"], options].concat(),
        )
    };
    mkfs(&["-O", "journal_dev", &journal.0]);
    mkfs(&["-J", &format!("device={}", journal.0), &data.0]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    run("mount", &[&data.0, at]);
    std::fs::write(dir.path().join("file"), noise(1, 10_000)).unwrap();
    run("sync", &["-f", at]);
    rename_file(dir.path());
    std::fs::copy(&image, &copy).unwrap();
    run("umount", &[at]);
    let error = open(&copy).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let uuid = run("blkid", &["-p", "-s", "UUID", "-o", "value", &journal.0]);
    let uuid = String::from_utf8(uuid.stdout).unwrap();
    let report = error.report();
    assert!(
        report.contains(uuid.trim()) && report.contains("another device"),
        "{report}"
    );
    run("mount", &["-o", "ro", &data.0, at]);
    compare(open(&image).unwrap(), &volume(&image), dir.path());
    run("umount", &[at]);
}

fn rename_file(root: &Path) {
    std::fs::rename(root.join("file"), root.join("renamed")).unwrap();
    std::fs::File::open(root).unwrap().sync_all().unwrap();
}

/// Files that are open and have no name any more, in a list of orphans or in the file of them (`orphan_file`), and one that is being
/// truncated: what the kernel shows once it has recovered is shown.
#[test]
fn files_without_names_and_a_frozen_filesystem() {
    if !has("fsfreeze") || !has("python3") {
        return;
    }
    for feature in ["orphan_file", "^orphan_file"] {
        let temp = tempfile::tempdir().unwrap();
        let mut held = Vec::new();
        let frozen = temp.path().join("frozen");
        let image = temp.path().join("image");
        let copies = dirty(temp.path(), &["-O", feature], |root| {
            for n in 0..3 {
                let path = root.join(format!("deleted {n}"));
                std::fs::write(&path, noise(n, 20_000)).unwrap();
                held.push(std::fs::File::open(&path).unwrap());
                std::fs::remove_file(&path).unwrap();
            }
            let temporary = std::process::Command::new("python3")
                .args([
                    "-c",
                    "import os, sys; os.write(os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR), b'x' * 9000); os.sync()",
                    root.to_str().unwrap(),
                ])
                .status();
            assert!(temporary.is_ok_and(|status| status.success()));
            std::fs::hard_link(root.join("old"), root.join("again")).unwrap();
            run("sync", &["-f", root.to_str().unwrap()]);
            run("fsfreeze", &["-f", root.to_str().unwrap()]);
            std::fs::copy(&image, &frozen).unwrap();
            run("fsfreeze", &["-u", root.to_str().unwrap()]);
            rename(root);
            held.clear();
        });
        let Some([ours, theirs]) = copies else { return };
        for (ours, theirs) in [(&ours, &theirs), (&frozen, &temp.path().join("recovered"))] {
            if !theirs.exists() {
                std::fs::copy(ours, theirs).unwrap();
            }
            drop(Mount::new(theirs, "rw,noatime").unwrap());
            let mount = Mount::new(theirs, "ro").unwrap();
            compare(open(ours).unwrap(), &volume(ours), mount.path());
        }
    }
}

/// A committed block in the journal with another checksum: the kernel does not mount it, and it is refused.
#[test]
fn a_journal_with_a_bad_block_is_damage() {
    if !has("debugfs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some([ours, theirs]) = dirty(temp.path(), &["-b", "4096"], rename) else {
        return;
    };
    let place = |block: u64| -> u64 {
        let found = debugfs(&ours, &format!("bmap <8> {block}"));
        found.trim().parse::<u64>().unwrap() * 4096
    };
    // The journal's superblock has the first block of the log at 28, big-endian; that is a descriptor, and the next one data.
    let mut start = [0; 4];
    let file = std::fs::File::open(&ours).unwrap();
    file.read_exact_at(&mut start, place(0) + 28).unwrap();
    let first = u64::from(u32::from_be_bytes(start));
    assert_ne!(first, 0);
    let at = place(first + 1) + 2000;
    for image in [&ours, &theirs] {
        flip(image, at);
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-o", "loop,ro"])
        .args([theirs.as_path(), dir.path()])
        .status()
        .unwrap();
    assert!(!mounted.success());
    let error = open(&ours).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.report().contains("journal"), "{}", error.report());
}

/// A filesystem that its kernel has marked as having errors is shown, as the kernel does, and that is noted.
#[test]
fn a_filesystem_with_errors_is_noted() {
    if !has("debugfs") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = filled(temp.path(), &[]) else {
        return;
    };
    let command = "set_super_value state 2";
    run("debugfs", &["-w", "-R", command, image.to_str().unwrap()]);
    let mount = Mount::new(&image, "ro").unwrap();
    let fs = open(&image).unwrap();
    let notes = fs.info().notes.join("; ");
    assert!(notes.contains("having errors"), "{notes:?}");
    compare(fs, &volume(&image), mount.path());
}
