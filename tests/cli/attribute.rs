//! Extended attributes that a target does not take: summed up in one line, and no failure when they are labels.

use std::fs;

use crate::kit::need::is_root;
use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;
use crate::tool::{self, Loop, Mounted};

/// A btrfs guest with labels of every sort, on files, directories and symlinks.
fn guest(place: &Place) -> bool {
    if !is_root() || !has("mkfs.btrfs") || !has("setfattr") || !has("btrfs") {
        return false;
    }
    tool::ok(place, "truncate", &["-s", "160M", "fs.raw"]);
    tool::ok(place, "mkfs.btrfs", &["-q", "fs.raw"]);
    let device = Loop::attach(place, "fs.raw", &[]);
    let mounted = Mounted::at(place, &device.device, "guest", "rw");
    let script =
        "set -e; cd guest; mkdir tree tree/d; echo a >tree/a; echo b >tree/d/b; ln -s a tree/link
        btrfs property set tree/d compression zstd
        setfattr -n security.selinux -v system_u:object_r:etc_t:s0 tree/a
        setfattr -h -n security.selinux -v system_u:object_r:etc_t:s0 tree/link
        setfattr -h -n trusted.x -v y tree/link
        setfattr -n security.ima -v 0x0102 tree/a
        setfattr -n trusted.overlay.opaque -v y tree/d
        setfattr -n user.note -v kept tree/a";
    tool::ok(place, "sh", &["-c", script]);
    drop(mounted);
    drop(device);
    place.ok(&["backup", "web01", "vda=fs.raw"]);
    true
}

const TREE: &str = "web01@latest:/files/tree";

fn xattrs(place: &Place, path: &str) -> String {
    tool::ok(
        place,
        "getfattr",
        &["-h", "-d", "-m", "-", "--absolute-names", path],
    )
}

/// A directory on a filesystem of its own.
fn filesystem(place: &Place, kind: &str) -> (Mounted, Loop) {
    let image = format!("{kind}.target");
    tool::ok(place, "truncate", &["-s", "320M", &image]);
    let quiet = if kind == "xfs" { "-q" } else { "-qF" };
    tool::ok(place, &format!("mkfs.{kind}"), &[quiet, &image]);
    let device = Loop::attach(place, &image, &[]);
    (
        Mounted::at(place, &device.device, &format!("on-{kind}"), "rw"),
        device,
    )
}

#[test]
fn labels_that_the_target_has_not_are_counted_in_one_line() {
    let place = Place::new();
    if !guest(&place) || !has("mkfs.xfs") {
        return;
    }
    for kind in ["ext4", "xfs"] {
        let (mounted, _device) = filesystem(&place, kind);
        let to = mounted.path().join("out").display().to_string();
        let output = place.run(&["restore", TREE, "--special", "--to", &to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        // btrfs alone knows this one.
        assert!(said.contains("btrfs.compression (1 file)"), "{said}");
        assert_eq!(said.matches("btrfs.compression").count(), 1, "{said}");
        let a = xattrs(&place, &format!("{to}/tree/a"));
        for kept in ["security.selinux", "security.ima", "user.note=\"kept\""] {
            assert!(a.contains(kept), "{kind} {kept}: {a}");
        }
        let link = xattrs(&place, &format!("{to}/tree/link"));
        assert!(
            link.contains("trusted.x") && link.contains("security.selinux"),
            "{kind}: {link}"
        );
        assert!(xattrs(&place, &format!("{to}/tree/d")).contains("trusted.overlay.opaque"));
    }
}

/// A guest's overlay, labels and measurements mean nothing here, and give power to who knows what believes them.
#[test]
fn what_gives_power_is_taken_only_when_it_is_asked_for() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    let (mounted, _device) = filesystem(&place, "ext4");
    let at = |name: &str| mounted.path().join(name).display().to_string();
    let restore = |to: &str, more: &[&str]| {
        let output = place.run(&[&["restore", TREE, "--to", &at(to)], more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let all = ["tree/a", "tree/d", "tree/link"].map(|path| {
            let path = at(&format!("{to}/{path}"));
            xattrs(&place, &path)
        });
        (said, all.concat())
    };
    let (said, found) = restore("plain", &[]);
    assert!(found.contains("user.note=\"kept\""), "{found}");
    for power in ["security.", "trusted.", "btrfs."] {
        assert!(!found.contains(power), "{found}");
        assert!(said.contains(power), "{said}");
    }
    assert!(said.contains("security.selinux (2 files)"), "{said}");
    assert!(said.contains("--special"), "{said}");
    let (said, found) = restore("some", &["--include-xattr", "user.*,security.selinux"]);
    assert!(
        found.contains("security.selinux") && !found.contains("trusted."),
        "{found}"
    );
    assert!(!said.contains("left out"), "{said}");
    let (_, found) = restore("all", &["--special"]);
    assert!(found.contains("trusted.overlay.opaque"), "{found}");
}

#[test]
fn attributes_are_chosen_by_patterns() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    let said = |args: &[&str]| {
        let output = place.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let (mounted, _device) = filesystem(&place, "ext4");
    let at = |name: &str| mounted.path().join(name).display().to_string();
    let quiet = said(&[
        "restore",
        TREE,
        "--to",
        &at("one"),
        "--special",
        "--exclude-xattr",
        "btrfs.*,security.*",
    ]);
    assert!(!quiet.contains("does not take"), "{quiet}");
    let a = xattrs(&place, &at("one/tree/a"));
    assert!(a.contains("user.note") && !a.contains("security"), "{a}");
    said(&[
        "restore",
        TREE,
        "--to",
        &at("two"),
        "--include-xattr",
        "security.*",
        "--exclude-xattr",
        "*.ima",
    ]);
    let a = xattrs(&place, &at("two/tree/a"));
    assert!(
        a.contains("security.selinux") && !a.contains("user.note") && !a.contains("ima"),
        "{a}"
    );
    // In an archive as well.
    said(&[
        "restore",
        TREE,
        "--to",
        "t.tar",
        "--exclude-xattr",
        "security.*",
    ]);
    let listed = tool::ok(
        &place,
        "tar",
        &["--xattrs", "--xattrs-include=*", "-tvvf", "t.tar"],
    );
    assert!(
        listed.contains("user.note") && !listed.contains("security.selinux"),
        "{listed}"
    );
}

#[test]
fn what_is_no_label_and_cannot_be_kept_is_a_failure() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    fs::create_dir(place.path("fat")).unwrap();
    // A filesystem without attributes of users: ramfs.
    tool::ok(&place, "mount", &["-t", "ramfs", "ramfs", "fat"]);
    let output = place.run(&["restore", TREE, "--special", "--to", "fat/out"]);
    let again = place.run(&[
        "restore",
        TREE,
        "--to",
        "fat/two",
        "--exclude-xattr",
        "user.*",
    ]);
    tool::ok(&place, "umount", &["fat"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("user.note") && said.contains("security.selinux (2 files)"),
        "{said}"
    );
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(0), "{said}");
}

/// The line that the documentation gives for a whole guest.
#[test]
fn rsync_out_of_the_mount_ends_well_onto_ext4_and_xfs() {
    let place = Place::new();
    if !can_mount() || !has("rsync") || !has("mkfs.xfs") || !guest(&place) {
        return;
    }
    fs::create_dir(place.path("mnt")).unwrap();
    place.ok(&["mount", "mnt"]);
    for kind in ["ext4", "xfs"] {
        let (mounted, _device) = filesystem(&place, kind);
        let to = format!("{}/rescued/", mounted.path().display());
        let rsync = |more: &[&str]| {
            let mut args = vec!["-aHAX", "--sparse", "--filter=-x btrfs.*"];
            args.extend_from_slice(more);
            args.extend_from_slice(&["mnt/web01/latest/files/", &to]);
            tool::ok(&place, "rsync", &args)
        };
        rsync(&[]);
        assert_eq!(
            rsync(&["-i", "--checksum"]),
            "",
            "{kind}: the second run has something to do"
        );
    }
    place.ok(&["umount", "mnt"]);
}
