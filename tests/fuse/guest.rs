//! The guest's files against the kernel's own mount of the same filesystem.

use std::process::Command;

use crate::world::{KernelMount, World, ready, run, text};

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
    mount.unmount(false).unwrap();
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
    mount.unmount(false).unwrap();
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
    mount.unmount(false).unwrap();
}
