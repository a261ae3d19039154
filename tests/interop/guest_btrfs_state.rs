//! btrfs whose devices, superblocks or copies are not all of one time, and features that a reader need not know.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use restorefs::guest::btrfs;

use crate::guest_btrfs::{Loops, number, pool, read_all, volume, volumes};
use crate::guest_image::{Mount, fill, made, make};
use crate::guest_walk::compare_from;
use crate::kit::need::has;
use crate::kit::noise::noise;
use crate::tool::run;

const SIZE_MIB: u64 = 256;

/// Compares what both show of an image of one device, and answers what ours notes.
fn check(image: &Path) -> Option<String> {
    let mount = Mount::new(image, "ro,subvolid=5")?;
    let disk = volume(image);
    let fs = btrfs::open(&[Arc::clone(&disk)]).unwrap();
    let (notes, root) = (fs.info().notes.join("; "), fs.root());
    compare_from(fs, &disk, root, &number, mount.path());
    Some(notes)
}

/// A device that missed commits, beside the one that went on: what the kernel shows of the latter alone is shown, in files without
/// checksums too, where nothing tells that a copy is old.
#[test]
fn a_device_that_missed_commits_is_read_last() {
    let temp = tempfile::tempdir().unwrap();
    let Some(files) = pool(temp.path(), 2, &["-d", "raid1", "-m", "raid1"]) else {
        return;
    };
    let Some(loops) = Loops::attach(&files) else {
        return;
    };
    loops.mount("rw,nodatacow", |root| {
        std::fs::write(root.join("unchecked"), noise(1, 300_000)).unwrap();
    });
    drop(loops);
    for current in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let copies = [0, 1].map(|n| dir.path().join(format!("copy{n}")));
        for (copy, file) in copies.iter().zip(&files) {
            std::fs::copy(file, copy).unwrap();
        }
        let Some(loops) = Loops::attach(&copies[current..=current]) else {
            return;
        };
        run("btrfs", &["device", "scan", "--forget"]);
        loops.mount("rw,degraded", |root| {
            let file = std::fs::File::options()
                .write(true)
                .open(root.join("unchecked"))
                .unwrap();
            file.write_all_at(&noise(2, 300_000), 0).unwrap();
            file.sync_all().unwrap();
            for _ in 0..3 {
                std::fs::create_dir(root.join("new")).unwrap();
                run("sync", &["-f", root.to_str().unwrap()]);
                std::fs::remove_dir(root.join("new")).unwrap();
            }
            std::fs::write(root.join("last"), noise(3, 50_000)).unwrap();
        });
        let disks = volumes(&copies);
        for order in [[0, 1], [1, 0]] {
            let given = order.map(|n| Arc::clone(&disks[n]));
            let fs = btrfs::open(&given).unwrap();
            let notes = fs.info().notes.join("; ");
            let stale = format!("device {} has missed", 2 - current);
            assert!(notes.contains(&stale), "{notes:?}");
            let unchecked = read_all(fs, &given[0], b"unchecked");
            assert!(unchecked == noise(2, 300_000));
            let fs = btrfs::open(&given).unwrap();
            loops.mount("ro,degraded", |root| {
                let top = fs.root();
                compare_from(fs, &given[0], top, &number, root);
            });
        }
        run("btrfs", &["device", "scan", "--forget"]);
    }
}

/// One copy of a leaf is bad and the other good: the kernel shows all, and so do we.
#[test]
fn a_bad_copy_of_a_node_is_healed_from_the_other() {
    if !has("btrfs-map-logical") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = made(
        temp.path(),
        "mkfs.btrfs",
        &["-m", "dup"],
        SIZE_MIB,
        |root| {
            fill(root, 4096);
        },
    ) else {
        return;
    };
    let name = image.to_str().unwrap();
    let tree = run("btrfs", &["inspect-internal", "dump-tree", "-t", "5", name]);
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    // Each leaf has a second line, with its flags.
    let leaves: Vec<&str> = tree
        .lines()
        .filter(|line| line.contains(" items "))
        .filter_map(|line| line.strip_prefix("leaf ")?.split(' ').next())
        .collect();
    assert!(leaves.len() > 3);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for (leaf, bad) in leaves.iter().zip([0, 1].into_iter().cycle()) {
        let map = run("btrfs-map-logical", &["-l", leaf, name]);
        let map = String::from_utf8_lossy(&map.stdout).into_owned();
        // "mirror 1 logical 30441472 physical 38830080 device image"
        let places: Vec<u64> = map
            .lines()
            .filter_map(|line| {
                line.split("physical ")
                    .nth(1)?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        file.write_all_at(&[0x77; 64], places[bad] + 200).unwrap();
    }
    check(&image);
}

/// Of superblocks the kernel reads the first: a copy of another time, with a higher generation, changes nothing. A damaged first one is
/// noted.
#[test]
fn the_first_superblock_counts() {
    let temp = tempfile::tempdir().unwrap();
    let Some(image) = make(temp.path(), "mkfs.btrfs", &["-L", "old"], SIZE_MIB) else {
        return;
    };
    const COPY: u64 = 64 << 20;
    {
        let Some(mount) = Mount::new(&image, "rw") else {
            return;
        };
        for n in 0..20 {
            std::fs::write(mount.path().join(format!("old {n}")), b"old").unwrap();
            run("sync", &["-f", mount.path().to_str().unwrap()]);
        }
    }
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let mut old = vec![0; 4096];
    file.read_exact_at(&mut old, COPY).unwrap();
    let name = image.to_str().unwrap();
    run("mkfs.btrfs", &["-q", "-f", "-L", "new", name]);
    {
        let mount = Mount::new(&image, "rw").unwrap();
        fill(mount.path(), 4096);
    }
    let mut new = vec![0; 4096];
    file.read_exact_at(&mut new, COPY).unwrap();
    file.write_all_at(&old, COPY).unwrap();
    assert_eq!(check(&image).as_deref(), Some(""));
    file.write_all_at(&new, COPY).unwrap();
    file.write_all_at(&[9; 8], 65_536 + 0x200).unwrap();
    let disk = volume(&image);
    let fs = btrfs::open(&[disk]).unwrap();
    assert!(fs.info().notes.join("; ").contains("superblock is damaged"));
    assert!(fs.lookup(fs.root(), b"large").is_ok());
}

/// Simple quotas, which need no tool: the kernel's own call enables them.
#[test]
fn simple_quotas() {
    let temp = tempfile::tempdir().unwrap();
    for checksum in ["crc32c", "xxhash", "sha256", "blake2"] {
        let options = ["--csum", checksum];
        let Some(image) = make(temp.path(), "mkfs.btrfs", &options, SIZE_MIB) else {
            return;
        };
        if !has("python3") {
            return;
        }
        {
            let Some(mount) = Mount::new(&image, "rw") else {
                return;
            };
            // BTRFS_IOC_QUOTA_CTL with BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA.
            let script = "import fcntl, os, struct, sys\n\
                          fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0xC0109428, struct.pack('QQ', 4, 0))";
            let enabled = Command::new("python3")
                .args(["-c", script, mount.path().to_str().unwrap()])
                .output()
                .unwrap();
            if !enabled.status.success() {
                println!("SKIP: this kernel has no simple quotas");
                return;
            }
            fill(mount.path(), 4096);
        }
        let mut bits = [0; 8];
        let file = std::fs::File::open(&image).unwrap();
        file.read_exact_at(&mut bits, 65_536 + 188).unwrap();
        assert_ne!(u64::from_le_bytes(bits) & 1 << 16, 0);
        assert_eq!(check(&image).as_deref(), Some(""));
    }
}
