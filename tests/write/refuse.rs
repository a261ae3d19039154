//! What is refused, and with which errno. Never EXDEV: mv would copy, and then remove.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use crate::stand::{Stand, errno, ready};

#[test]
fn committed_points_are_read_only() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    let disk = stand.at("vm/p0/disks/vda.raw");
    let append = fs::File::options().append(true).open(&disk);
    assert_eq!(
        errno(append.and_then(|mut file| std::io::Write::write(&mut file, b"x"))),
        Errno::ROFS
    );
    let all = [
        ("truncate", fs::File::create(&disk).map(drop)),
        ("unlink", fs::remove_file(&disk)),
        ("create", fs::write(stand.at("vm/p0/disks/new.raw"), "x")),
        ("attach", fs::write(stand.at("vm/p0/attached/x"), "x")),
        ("mkdir", fs::create_dir(stand.at("vm/p0/x"))),
        ("rmdir below", fs::remove_dir(stand.at("vm/p0/disks"))),
        ("symlink", symlink("x", stand.at("vm/p0/x"))),
        (
            "rename the point",
            fs::rename(stand.at("vm/p0"), stand.at("vm/p9")),
        ),
        (
            "rename a file",
            fs::rename(&disk, stand.at("vm/p0/disks/x.raw")),
        ),
        (
            "chmod",
            fs::set_permissions(&disk, std::os::unix::fs::PermissionsExt::from_mode(0o666)),
        ),
    ];
    for (what, result) in all {
        assert_eq!(errno(result), Errno::ROFS, "{what}");
    }
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(stand.at("vm/p0"), "user.restorefs.ttl", b"1", flags);
    assert_eq!(set.unwrap_err(), Errno::ROFS);
    assert!(stand.point("p0") == bytes);
}

#[test]
fn points_are_removed_by_retention_only() {
    if !ready(&[]) {
        return;
    }
    let (stand, _) = Stand::with_point("");
    assert_eq!(errno(fs::remove_dir(stand.at("vm/p0"))), Errno::PERM);
    assert_eq!(errno(fs::remove_dir(stand.at("vm"))), Errno::NOTEMPTY);
    assert_eq!(errno(fs::remove_file(stand.at("vm/latest"))), Errno::PERM);
    assert_eq!(errno(fs::remove_dir(stand.at("vm/latest"))), Errno::NOTDIR);
}

#[test]
fn strange_renames_are_not_permitted() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    fs::create_dir(stand.at("other")).unwrap();
    stand.begin("s");
    fs::write(stand.at("vm/s.partial/attached/note"), "x").unwrap();
    fs::write(stand.disk("s"), &bytes).unwrap();
    for (from, to) in [
        ("vm/s.partial", "other/p1"),
        ("vm/s.partial", "other/s.partial"),
        ("vm/s.partial", "vm/t.partial"),
        ("vm/s.partial", "p1"),
        ("vm", "vm2"),
        ("vm/latest", "vm/newest"),
        ("vm/s.partial/status", "vm/s.partial/state"),
        ("vm/s.partial/disks", "vm/s.partial/discs"),
        ("vm/s.partial/disks/vda.raw", "vm/s.partial/disks/vdb.raw"),
        (
            "vm/s.partial/disks/vda.raw",
            "vm/s.partial/attached/vda.raw",
        ),
        ("vm/s.partial/attached/note", "vm/s.partial/disks/note.raw"),
    ] {
        let renamed = fs::rename(stand.at(from), stand.at(to));
        assert_eq!(errno(renamed), Errno::PERM, "{from} {to}");
    }
    let into = fs::rename(stand.at("vm/s.partial"), stand.at("vm/p0/x"));
    assert_eq!(errno(into), Errno::ROFS);
    let flags = RenameFlags::EXCHANGE;
    let swapped =
        rustix::fs::renameat_with(CWD, stand.at("vm/s.partial"), CWD, stand.at("vm/p0"), flags);
    assert_eq!(swapped.unwrap_err(), Errno::INVAL);
    stand.commit("s", "p1").unwrap();
    assert!(stand.point("p1") == bytes);
}

#[test]
fn names_have_their_rules() {
    if !ready(&[]) {
        return;
    }
    let (stand, bytes) = Stand::with_point("");
    let long = "x".repeat(129);
    let longer = "x".repeat(256);
    for (path, expected) in [
        ("a b", Errno::INVAL),
        (".hidden", Errno::INVAL),
        ("latest", Errno::INVAL),
        ("con", Errno::INVAL),
        ("end.", Errno::INVAL),
        ("VM", Errno::EXIST),
        (long.as_str(), Errno::NAMETOOLONG),
        (longer.as_str(), Errno::NAMETOOLONG),
        ("vm/new", Errno::INVAL),
        ("vm/versions.partial", Errno::INVAL),
        ("vm/a b.partial", Errno::INVAL),
        ("vm/P0.partial", Errno::EXIST),
        ("vm/p0.partial", Errno::EXIST),
        (&format!("vm/{long}.partial"), Errno::NAMETOOLONG),
    ] {
        assert_eq!(errno(fs::create_dir(stand.at(path))), expected, "{path}");
    }
    stand.begin("s");
    for (name, expected) in [
        ("vda", Errno::INVAL),
        ("vda.img", Errno::INVAL),
        (".vda.raw", Errno::INVAL),
        ("a b.raw", Errno::INVAL),
        ("VDA.raw", Errno::EXIST),
        (&format!("{long}.raw"), Errno::NAMETOOLONG),
    ] {
        let path = stand.at("vm/s.partial/disks").join(name);
        assert_eq!(errno(fs::write(path, "x")), expected, "{name}");
    }
    for (path, expected) in [
        ("vm/s.partial/file", Errno::PERM),
        ("vm/file", Errno::PERM),
        ("file", Errno::PERM),
    ] {
        assert_eq!(errno(fs::write(stand.at(path), "x")), expected, "{path}");
    }
    for path in [
        "vm/s.partial/dir",
        "vm/s.partial/disks/dir",
        "vm/s.partial/attached/dir",
    ] {
        assert_eq!(errno(fs::create_dir(stand.at(path))), Errno::PERM, "{path}");
    }
    fs::write(stand.disk("s"), &bytes).unwrap();
    for (name, expected) in [
        // The kernel's own answer: a directory does not replace a symlink.
        ("latest", Errno::NOTDIR),
        ("versions", Errno::INVAL),
        ("a b", Errno::INVAL),
        (long.as_str(), Errno::NAMETOOLONG),
    ] {
        assert_eq!(stand.commit("s", name).unwrap_err(), expected, "{name}");
    }
    assert_eq!(stand.commit("s", "p0").unwrap_err(), Errno::EXIST);
    assert_eq!(stand.commit("s", "P0").unwrap_err(), Errno::EXIST);
    stand.commit("s", "p1").unwrap();
}

#[test]
fn a_restore_point_has_plain_files_only() {
    if !ready(&[]) {
        return;
    }
    let (stand, _) = Stand::with_point("");
    stand.begin("s");
    for dir in ["vm/s.partial/disks", "vm/s.partial/attached"] {
        let at = |name: &str| stand.at(dir).join(name);
        assert_eq!(errno(symlink("x", at("link"))), Errno::PERM);
        let linked = fs::hard_link(stand.disk("s"), at("hard.raw"));
        assert_eq!(errno(linked), Errno::PERM);
        for kind in [FileType::Fifo, FileType::CharacterDevice, FileType::Socket] {
            let made = rustix::fs::mknodat(CWD, at("node"), kind, Mode::RUSR, 0x103);
            assert_eq!(made.unwrap_err(), Errno::PERM, "{kind:?}");
        }
    }
    assert_eq!(
        errno(fs::write(stand.at("vm/s.partial/status"), "x")),
        Errno::PERM
    );
    let huge = fs::File::create(stand.disk("s")).and_then(|file| file.set_len(1 << 62));
    assert_eq!(errno(huge), Errno::FBIG);
}

#[test]
fn a_follower_and_a_read_only_mount_cannot_be_written() {
    if !ready(&[]) {
        return;
    }
    let stand = Stand::new("ro");
    assert_eq!(errno(fs::create_dir(stand.at("vm"))), Errno::ROFS);
    drop(stand);
    let place = crate::kit::place::Place::new();
    fs::create_dir(place.path("mnt")).unwrap();
    let said = place.fails(2, &["mount", "mnt", "-o", "rw", "--foreground"]);
    assert!(said.contains("serve --mount"), "{said}");
}
