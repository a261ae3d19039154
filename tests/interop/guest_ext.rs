//! ext2, ext3 and ext4: our reader against the kernel's.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use restorefs::block::{FileDisk, MemoryDisk, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::guest::conformance::check_guest_fs;
use restorefs::guest::ext;
use restorefs::guest::fs::{GuestFs, GuestIno};
use restorefs::sys::beneath::Access;

use crate::guest_image::{Mount, fill, made, make};
use crate::guest_walk::{Counts, compare, content};
use crate::kit::noise::noise;

fn volume(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(FileDisk::open(path, Access::Read).unwrap())
}

/// Fills an image through the kernel and compares what both then show.
fn check(mkfs: &str, options: &[&str], block_bytes: u64) -> Option<Counts> {
    let temp = tempfile::tempdir().unwrap();
    let image = make(temp.path(), mkfs, options, 160)?;
    fill(Mount::new(&image, "rw")?.path(), block_bytes);
    let mount = Mount::new(&image, "ro")?;
    let volume = volume(&image);
    let fs = ext::open(std::slice::from_ref(&volume)).unwrap();
    assert!(fs.info().notes.is_empty(), "{:?}", fs.info().notes);
    assert!(check_guest_fs(&*fs, &volume) > 2000);
    Some(compare(fs, &volume, mount.path()))
}

#[test]
fn ext4_as_it_is_made_by_default() {
    if let Some(counts) = check("mkfs.ext4", &[], 4096) {
        assert!(counts.plain > 1500 && counts.encoded == 0, "{counts:?}");
    }
}

#[test]
fn ext4_with_blocks_of_1k_and_small_inodes() {
    check(
        "mkfs.ext4",
        &["-b", "1024", "-I", "128", "-O", "^metadata_csum"],
        1024,
    );
}

#[test]
fn ext4_with_inline_data() {
    if let Some(counts) = check("mkfs.ext4", &["-O", "inline_data", "-I", "256"], 4096) {
        assert!(counts.inline > 1000, "{counts:?}");
    }
}

#[test]
fn ext4_with_clusters() {
    check(
        "mkfs.ext4",
        &["-O", "bigalloc", "-C", "16384", "-N", "4000"],
        4096,
    );
}

#[test]
fn ext2_and_ext3_with_block_maps() {
    check("mkfs.ext2", &["-b", "1024"], 1024);
    check("mkfs.ext3", &["-b", "4096"], 4096);
}

/// Directories that find names without regard to case: they are listed as they are, and here found as they are written. Few kernels
/// mount such a filesystem, so it is made by the tools alone.
#[test]
fn ext4_with_names_regardless_of_case() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    std::fs::create_dir_all(tree.join("folded")).unwrap();
    for n in 0..1500u64 {
        let name = format!("folded/Ünder {n} SCORE");
        std::fs::write(tree.join(name), noise(n, 20)).unwrap();
    }
    let from = tree.to_str().unwrap();
    let options = ["-O", "casefold", "-E", "encoding=utf8", "-d", from];
    let Some(image) = make(temp.path(), "mkfs.ext4", &options, 64) else {
        return;
    };
    // EXT4_CASEFOLD_FL and EXT4_EXTENTS_FL; then the index is made anew, of folded names.
    let image = image.to_str().unwrap();
    let flag = "set_inode_field /folded flags 0x40080000";
    crate::tool::run("debugfs", &["-w", "-R", flag, image]);
    let repaired = std::process::Command::new("e2fsck")
        .args(["-fyD", image])
        .output()
        .unwrap();
    assert!(
        matches!(repaired.status.code(), Some(0 | 1)),
        "{repaired:?}"
    );
    crate::tool::run("e2fsck", &["-fn", image]);
    let volume = volume(Path::new(image));
    let fs: Arc<dyn GuestFs> = ext::open(std::slice::from_ref(&volume)).unwrap().into();
    assert!(check_guest_fs(&*fs, &volume) > 1500);
    let folded = fs.lookup(fs.root(), b"folded").unwrap();
    assert_eq!(fs.entries(folded).unwrap().len(), 1500);
    for n in 0..1500u64 {
        let name = format!("Ünder {n} SCORE");
        let ino = fs.lookup(folded, name.as_bytes()).unwrap();
        let bytes = content(&fs, &volume, ino, &mut Counts::default()).unwrap();
        assert!(bytes == noise(n, 20), "{name}");
    }
}

/// A snapshot of a running guest: the image is copied while it is mounted, with committed transactions only in the journal.
fn check_dirty(mode: &str) -> Option<Counts> {
    let temp = tempfile::tempdir().unwrap();
    let image = make(temp.path(), "mkfs.ext4", &[], 96)?;
    let (ours, theirs) = (temp.path().join("ours"), temp.path().join("theirs"));
    {
        let mount = Mount::new(&image, mode)?;
        fill(mount.path(), 4096);
        crate::tool::run("sync", &["-f", mount.path().to_str().unwrap()]);
        std::fs::remove_file(mount.path().join("tiny")).unwrap();
        std::fs::rename(mount.path().join("block"), mount.path().join("moved")).unwrap();
        std::fs::write(mount.path().join("new"), noise(98, 30_000)).unwrap();
        // In place, and committed by fsync alone: what syncs the whole filesystem would also write it where it belongs.
        let odd = std::fs::File::options()
            .write(true)
            .open(mount.path().join("large"))
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&odd, &noise(99, 500_000), 1_000_000).unwrap();
        odd.sync_all().unwrap();
        std::fs::copy(&image, &ours).unwrap();
        std::fs::copy(&image, &theirs).unwrap();
    }
    let mount = Mount::new(&theirs, "rw,noatime")?;
    let volume = volume(&ours);
    let fs = ext::open(std::slice::from_ref(&volume)).unwrap();
    let notes = fs.info().notes.join("; ");
    assert!(notes.contains("journal was replayed"), "{notes:?}");
    Some(compare(fs, &volume, mount.path()))
}

#[test]
fn a_dirty_journal_is_replayed_in_memory() {
    check_dirty("rw");
}

/// Data in the journal: the bytes on the volume are old, so the runs must not point at them.
#[test]
fn data_that_lies_in_the_journal_is_read_from_there() {
    if let Some(counts) = check_dirty("data=journal") {
        assert!(counts.encoded > 0, "{counts:?}");
    }
}

/// Goes everywhere; errors are answers, panics and hangs are not.
fn walk(fs: &Arc<dyn GuestFs>, volume: &Arc<dyn ReadAt>) {
    let mut todo = vec![fs.root()];
    let mut budget = 5000;
    let mut seen = std::collections::HashSet::new();
    while let Some(ino) = todo.pop() {
        if !seen.insert(ino) {
            continue;
        }
        budget -= 1;
        if budget == 0 {
            return;
        }
        // Damage may make a file as large as it likes; what is read of it is bounded by the caller.
        let small = fs.attributes(ino).is_ok_and(|a| a.size_bytes < 64 << 20);
        let _ = fs.xattrs(ino);
        let _ = fs.symlink_target(ino);
        if small {
            if let Err(error) = content(fs, volume, ino, &mut Counts::default()) {
                assert_ne!(error.kind(), ErrorKind::ReadOnly);
            }
        } else {
            let _ = fs.runs(ino);
        }
        if let Ok(entries) = fs.entries(ino) {
            todo.extend(entries.iter().map(|entry| entry.ino));
        }
    }
}

/// Flips bytes of metadata and walks what is left.
fn check_hostile(mkfs: &str, options: &[&str], rounds: u64) {
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = made(temp.path(), mkfs, options, 8, |root| {
        let at = root;
        std::fs::create_dir_all(at.join("a/b")).unwrap();
        for n in 0..100u64 {
            std::fs::write(at.join(format!("a/file {n}")), noise(n, 2000)).unwrap();
        }
        let holes = std::fs::File::create(at.join("a/b/holes")).unwrap();
        for n in 0..400u64 {
            std::os::unix::fs::FileExt::write_all_at(&holes, &[9; 10], n * 8192).unwrap();
        }
        std::os::unix::fs::symlink("t".repeat(100), at.join("link")).unwrap();
        crate::tool::run(
            "setfattr",
            &["-n", "user.x", "-v", "y", at.join("a").to_str().unwrap()],
        );
    }) else {
        return;
    };
    let clean = std::fs::read(&image).unwrap();
    // Metadata: what is not zero and is no file's noise, roughly; the first MiB has the tables of group 0.
    let targets: Vec<u64> = (0u64..)
        .zip(&clean)
        .filter(|(at, byte)| **byte != 0 && (1024..1 << 20).contains(at))
        .map(|(at, _)| at)
        .collect();
    assert!(targets.len() > 1000, "only {} bytes", targets.len());
    let disk = MemoryDisk::from_bytes(&clean);
    for round in 0..rounds {
        let damaged = disk.clone();
        for chunk in noise(round, 64).chunks_exact(16) {
            let pick = u64::from_le_bytes(chunk.first_chunk().copied().unwrap());
            let count = u64::try_from(targets.len()).unwrap();
            let at = targets.get(usize::try_from(pick % count).unwrap()).unwrap();
            damaged.write_at(*at, chunk.get(8..9).unwrap()).unwrap();
            if round % 2 == 0 {
                break;
            }
        }
        let (done, wait) = mpsc::channel();
        let volume: Arc<dyn ReadAt> = Arc::new(damaged);
        let walker = std::thread::spawn(move || {
            if let Ok(fs) = ext::open(std::slice::from_ref(&volume)) {
                walk(&fs.into(), &volume);
            }
            let _ = done.send(());
        });
        match wait.recv_timeout(Duration::from_secs(60)) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("round {round} of {mkfs} hangs"),
            _ => assert!(walker.join().is_ok(), "round {round} of {mkfs} panicked"),
        }
    }
}

#[test]
fn damaged_metadata_never_panics_or_hangs() {
    check_hostile("mkfs.ext4", &["-O", "^metadata_csum"], 150);
    check_hostile("mkfs.ext4", &["-O", "inline_data"], 50);
    check_hostile("mkfs.ext2", &["-b", "1024"], 100);
}

/// An extent tree whose inner node names itself: 340^5 leaves, if one were to follow it.
#[test]
fn a_circular_extent_tree_is_damage() {
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.ext4", &["-O", "^metadata_csum"], 16) else {
        return;
    };
    let ino = {
        let Some(mount) = Mount::new(&image, "rw") else {
            return;
        };
        let path = mount.path().join("extents");
        let file = std::fs::File::create(&path).unwrap();
        for n in 0..500u64 {
            std::os::unix::fs::FileExt::write_all_at(&file, &[9; 10], n * 8192).unwrap();
        }
        GuestIno(std::os::unix::fs::MetadataExt::ino(
            &path.metadata().unwrap(),
        ))
    };
    let bytes = std::fs::read(&image).unwrap();
    let sound = ext::open(&[Arc::new(MemoryDisk::from_bytes(&bytes))]).unwrap();
    assert!(sound.runs(ino).unwrap().runs().len() > 500);
    // Leaves of the tree begin with the magic F30A, entries, maximum, and depth 0; make one say that it is an inner node of itself.
    let leaf = (0..bytes.len() / 4096)
        .rev()
        .find(|n| {
            let block = bytes.get(n * 4096..n * 4096 + 8).unwrap();
            block.starts_with(&[0x0a, 0xf3]) && block.ends_with(&[0, 0])
        })
        .unwrap();
    let disk = MemoryDisk::from_bytes(&bytes);
    let at = u64::try_from(leaf).unwrap() * 4096;
    let mut node = vec![0x0a, 0xf3];
    for n in [340u16, 340, 0] {
        node.extend(n.to_le_bytes());
    }
    node.extend([0; 4]);
    for _ in 0..340 {
        node.extend([0; 4]);
        node.extend(u32::try_from(leaf).unwrap().to_le_bytes());
        node.extend([0; 4]);
    }
    disk.write_at(at, &node).unwrap();
    let fs = ext::open(&[Arc::new(disk)]).unwrap();
    assert_eq!(fs.runs(ino).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A superblock on a huge sparse disk that claims more groups than memory holds descriptors.
#[test]
fn a_filesystem_of_too_many_groups_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.ext4", &["-O", "^metadata_csum"], 16) else {
        return;
    };
    let disk = MemoryDisk::from_bytes(&std::fs::read(&image).unwrap());
    disk.set_size(1 << 50).unwrap();
    // s_blocks_count_lo, s_blocks_per_group, s_blocks_count_hi (linux/fs/ext4/ext4.h).
    for (at, value) in [(4u64, 0u32), (32, 256), (0x150, 16)] {
        disk.write_at(1024 + at, &value.to_le_bytes()).unwrap();
    }
    let error = ext::open(&[Arc::new(disk)]).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
}
