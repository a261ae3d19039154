//! Every change answers EROFS; nothing from a guest is run or opened as a device.

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::world::{World, ready, unmount};

#[test]
fn nothing_can_be_changed() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let file = world.guest("etc/passwd");
    let new = world.guest("new");
    let vm = world.at("web02");
    let results = [
        ("write", std::fs::write(&file, "x")),
        ("create", std::fs::write(&new, "x")),
        (
            "append",
            std::fs::File::options().append(true).open(&file).map(drop),
        ),
        ("mkdir", std::fs::create_dir(&vm)),
        ("unlink", std::fs::remove_file(&file)),
        ("rmdir", std::fs::remove_dir(world.guest("many"))),
        ("rename", std::fs::rename(&file, &new)),
        (
            "rename a point",
            std::fs::rename(world.at("web01/first"), world.at("web01/x")),
        ),
        ("link", std::fs::hard_link(&file, &new)),
        ("symlink", symlink("x", &new)),
        (
            "unlink latest",
            std::fs::remove_file(world.at("web01/latest")),
        ),
    ];
    for (what, result) in results {
        assert_eq!(
            result.unwrap_err().kind(),
            ErrorKind::ReadOnlyFilesystem,
            "{what}"
        );
    }
    let flags = rustix::fs::XattrFlags::empty();
    let error = rustix::fs::setxattr(&file, "user.x", b"x", flags).unwrap_err();
    assert_eq!(error, rustix::io::Errno::ROFS);
    unmount(&mount);
}

#[test]
fn guests_run_nothing_here() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    };
    denied(Command::new(world.guest("setuid")).status().map(drop));
    denied(std::fs::File::open(world.guest("null")).map(drop));
    let flags = rustix::fs::statvfs(world.path("mnt")).unwrap().f_flag;
    for flag in [
        rustix::fs::StatVfsMountFlags::NODEV,
        rustix::fs::StatVfsMountFlags::NOSUID,
        rustix::fs::StatVfsMountFlags::NOEXEC,
        rustix::fs::StatVfsMountFlags::RDONLY,
    ] {
        assert!(flags.contains(flag), "{flag:?}");
    }
    unmount(&mount);
    let mount = world.mount_with("exec");
    assert!(
        Command::new(world.guest("setuid"))
            .status()
            .unwrap()
            .success()
    );
    denied(std::fs::File::open(world.guest("null")).map(drop));
    unmount(&mount);
}
