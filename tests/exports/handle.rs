//! Handles as file servers make them (name_to_handle_at(2)): they name the same file in every mount of the repository.

use std::path::Path;
use std::process::Command;

use crate::world::{World, ready, run, text};

fn program() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports/handle.py")).to_owned()
}

#[test]
fn a_handle_is_good_in_another_mount() {
    if !ready(&["python3"]) {
        return;
    }
    let world = World::new();
    let mount = world.mount("");
    let program = program();
    let handle_of = |path: &Path| run("python3", &[&program, text(path)]);
    let file = mount.point("files/etc/passwd");
    let handle = handle_of(&file);
    assert_eq!(
        handle,
        handle_of(&mount.point("files/etc/passwd-")),
        "a hard link"
    );
    assert_ne!(handle, handle_of(&mount.point("files/etc/fstab")));
    let disk = handle_of(&mount.point("disks/vda.raw"));
    mount.kill();
    // A process, and a superblock, that have never looked it up; in between, another point came.
    world.back_up("two");
    let mount = world.mount("");
    let read = |handle: &str| run("python3", &[&program, text(mount.root()), handle]);
    assert_eq!(read(&handle), "root:x:0:0:root:/root:/bin/sh\n");
    assert!(!read(&disk).is_empty());
    // One that names nothing is refused.
    let (kind, data) = handle.split_once(':').unwrap();
    let other = format!("{kind}:{}{}", "ffffffffffffffff", &data[16..]);
    let output = Command::new("python3")
        .args([&program, text(mount.root()), &other])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("Stale"),
        "{output:?}"
    );
}
