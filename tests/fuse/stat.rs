//! stat: sizes, blocks, modes, inode numbers.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use crate::world::{DISK_BYTES, World, ready, run, text, unmount};

/// `du` that says 0, or the whole size, is what others are known for.
#[test]
fn blocks_tell_the_truth() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let disk = std::fs::metadata(world.at("web01/first/disks/vda.raw")).unwrap();
    assert_eq!(disk.len(), DISK_BYTES);
    let allocated = disk.blocks() * 512;
    let image = std::fs::metadata(world.image()).unwrap().blocks() * 512;
    assert!(allocated > 4 << 20 && allocated < 30 << 20, "{allocated}");
    assert!(
        allocated.abs_diff(image) < 12 << 20,
        "{allocated} and {image}"
    );
    let said = run("du", &["-B1", text(&world.at("web01/first/disks/vda.raw"))]);
    assert_eq!(said.split('\t').next().unwrap(), allocated.to_string());
    let sparse = std::fs::metadata(world.guest("sparse")).unwrap();
    assert_eq!(sparse.len(), 12 << 20);
    assert!(sparse.blocks() * 512 < 100_000, "{}", sparse.blocks());
    unmount(&mount);
}

fn inodes(world: &World) -> BTreeMap<String, u64> {
    // `%i` of find is that of stat.
    let said = run("find", &[text(&world.at("")), "-printf", "%P\t%i\n"]);
    said.lines()
        .map(|line| {
            let (path, ino) = line.rsplit_once('\t').unwrap();
            (path.to_owned(), ino.parse().unwrap())
        })
        .collect()
}

/// The same after a remount, and each node has its own.
#[test]
fn inode_numbers_are_unique_and_stable() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    world.commit_small("web02", "first");
    let mount = world.mount();
    // Once to look for volumes, after which volumes.json is another.
    inodes(&world);
    let before = inodes(&world);
    unmount(&mount);
    let mount = world.mount();
    inodes(&world);
    let after = inodes(&world);
    assert!(before == after);
    let mut by_ino: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
    for (path, ino) in &before {
        by_ino.entry(*ino).or_default().push(path);
    }
    for paths in by_ino.values().filter(|paths| paths.len() > 1) {
        assert!(
            paths.iter().all(|path| path.contains("etc/passwd")),
            "{paths:?}"
        );
    }
    unmount(&mount);
}

#[test]
fn vm_directories_are_private_unless_widened() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mode = |path: &str| {
        let metadata = std::fs::metadata(world.at(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let mount = world.mount();
    assert_eq!(mode("web01"), (0o700, 0, 0));
    assert_eq!(mode("web01/first/disks/vda.raw"), (0o440, 0, 0));
    assert!(
        std::fs::metadata(world.at("web01/first/attached"))
            .unwrap()
            .nlink()
            >= 1
    );
    unmount(&mount);
    let mount = world.mount_with("allow_other,uid=1000,gid=2000,umask=022");
    assert_eq!(mode("web01"), (0o755, 1000, 2000));
    assert_eq!(mode("web01/first/disks/vda.raw"), (0o444, 1000, 2000));
    // The guest's own files keep theirs.
    let big = std::fs::metadata(world.guest("etc/deep/big")).unwrap();
    assert_eq!((big.uid(), big.gid()), (1234, 5678));
    unmount(&mount);
}

/// A VM's directory that somebody copied has the serials of its original; its inodes are others all the same.
#[test]
fn a_copied_vm_has_inodes_of_its_own() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    world.commit_small("web01", "p2");
    let vms = world.repository().join("vms");
    for copy in ["web02", "web03"] {
        run(
            "cp",
            &["-a", text(&vms.join("web01")), text(&vms.join(copy))],
        );
    }
    let mount = world.mount();
    let all = inodes(&world);
    let unique: std::collections::BTreeSet<u64> = all.values().copied().collect();
    assert_eq!(unique.len(), all.len());
    for vm in ["web01", "web02", "web03"] {
        let bytes = std::fs::read(world.at(vm).join("latest/disks/vda.raw")).unwrap();
        assert_eq!(&bytes[..2], b"p2");
    }
    unmount(&mount);
}
