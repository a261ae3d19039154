//! The guest's files against the kernel's own mount of the same filesystem.

use std::process::Command;

use restorefs::error::ErrorKind;
use restorefs::export::files::{ExtractOptions, extract};
use restorefs::fuse::MountOptions;
use restorefs::repo::selector::Which;
use restorefs::sys::Dir;
use restorefs::task::Monitor;
use restorefs::tree::Ino;
use restorefs::types::VmName;

use crate::world::{KernelMount, World, ready, run, text, unmount};

/// Contents, modes, owners, times, hard links, xattrs, ACLs, device nodes: all by rsync.
#[test]
fn rsync_sees_no_difference() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let kernel = KernelMount::new(&world);
    let ours = format!("{}/", text(&world.guest("")).trim_end_matches('/'));
    let theirs = format!("{}/", text(kernel.path()));
    for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
        let said = run(
            "rsync",
            &[
                "-aHAXxin",
                "--checksum",
                "--delete",
                "--devices",
                "--specials",
                from,
                to,
            ],
        );
        assert_eq!(said, "", "from {from}");
    }
    drop(kernel);
    unmount(&mount);
}

/// What rsync does not compare: blocks, nanoseconds, link counts, device numbers.
#[test]
fn stat_agrees_with_the_kernel() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let kernel = KernelMount::new(&world);
    let list = |root: &std::path::Path| {
        let output = Command::new("find")
            .current_dir(root)
            .args([".", "-printf", "%P %y %m %U %G %n %s %b %A@ %T@ %C@ %l\n"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let mut lines: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let (ours, theirs) = (list(&world.guest("")), list(kernel.path()));
    assert!(ours.len() > 1500);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    for name in ["null", "disk"] {
        let numbers = |path: &std::path::Path| run("stat", &["-c", "%t %T", text(path)]);
        assert_eq!(
            numbers(&world.guest(name)),
            numbers(&kernel.path().join(name))
        );
    }
    drop(kernel);
    unmount(&mount);
}

#[test]
fn a_copy_by_tar_and_cp_is_the_same() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let kernel = KernelMount::new(&world);
    let copy = world.path("copy");
    run(
        "cp",
        &["-a", "--sparse=always", text(&world.guest("")), text(&copy)],
    );
    let tar = |root: &std::path::Path| {
        let script = "tar --sort=name --format=pax -C \"$0\" -cf - . | sha256sum";
        run("sh", &["-c", script, text(root)])
    };
    assert_eq!(tar(&world.guest("")), tar(kernel.path()));
    let from = format!("{}/", text(&copy));
    let to = format!("{}/", text(kernel.path()));
    let said = run("rsync", &["-aHAXin", "--checksum", "--delete", &from, &to]);
    assert_eq!(said, "");
    drop(kernel);
    unmount(&mount);
}

/// The same without a mount: taken out by us, and compared with the kernel's.
#[test]
fn what_is_taken_out_is_the_same() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let kernel = KernelMount::new(&world);
    let tree = world.tree(&MountOptions::default());
    let vm = VmName::new("web01").unwrap();
    let point = tree.point(&vm, &Which::Latest(0)).unwrap();
    let path = format!("/web01/{}/volumes/vda/part/1", point.entry.name);
    let root = tree.resolve(Ino::ROOT, path.as_bytes()).unwrap();
    let target = world.path("target");
    std::fs::create_dir(&target).unwrap();
    let dir = Dir::open(&target).unwrap();
    let monitor = Monitor::default();
    let all = ExtractOptions {
        special: true,
        owner: true,
        ..ExtractOptions::default()
    };
    let ino = root.attributes.ino;
    let taken = extract(tree.as_ref(), ino, b"out", &dir, &all, &monitor).unwrap();
    assert_eq!(
        (taken.skipped, taken.hard_links, taken.special),
        (Vec::new(), 1, 3)
    );
    let from = format!("{}/", text(&target.join("out")));
    let to = format!("{}/", text(kernel.path()));
    let said = run("rsync", &["-aHAXin", "--checksum", "--delete", &from, &to]);
    assert_eq!(said, "");
    let sparse = std::fs::metadata(target.join("out/sparse")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) * 512 < 1 << 20);
    // Without power: no device nodes and no setuid bits.
    let meek = ExtractOptions::default();
    let taken = extract(tree.as_ref(), ino, b"meek", &dir, &meek, &monitor).unwrap();
    assert_eq!(
        (taken.skipped_count, taken.special),
        (3, 1),
        "{:?}",
        taken.skipped
    );
}

/// Links in a path are followed within the guest only, and not the last.
#[test]
fn paths_stay_in_the_guest() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let tree = world.tree(&MountOptions::default());
    let vm = VmName::new("web01").unwrap();
    let point = tree.point(&vm, &Which::Latest(0)).unwrap();
    let at = |path: &str| {
        let path = format!("/web01/{}/volumes/vda/part/1/{path}", point.entry.name);
        tree.resolve(Ino::ROOT, path.as_bytes())
            .map(|found| found.attributes.ino)
    };
    let big = at("etc/deep/big").unwrap();
    assert_eq!(at("lib/big").unwrap(), big);
    assert_eq!(at("etc/climb/deep/big").unwrap(), big);
    assert_eq!(at("etc/climb/climb/climb/deep/big").unwrap(), big);
    assert_ne!(at("lib").unwrap(), at("etc/deep").unwrap());
    assert_eq!(at("round/x").unwrap_err().kind(), ErrorKind::LimitExceeded);
    assert_eq!(
        at("etc/passwd/x").unwrap_err().kind(),
        ErrorKind::NotADirectory
    );
    assert_eq!(
        at("etc/../etc").unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(at("nothing").unwrap_err().kind(), ErrorKind::NotFound);
    // A handle that comes after a restart: the parent is searched for.
    let other = world.tree(&MountOptions::default());
    let deep = at("etc/deep/er/still").unwrap();
    assert_eq!(other.parent(deep).unwrap(), at("etc/deep/er").unwrap());
    assert_eq!(
        other.attributes(big).unwrap().attributes.size_bytes,
        3_000_000
    );
}
