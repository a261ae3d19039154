//! getxattr, listxattr.

use crate::world::{World, ready, run, text, unmount};

#[test]
fn the_guests_attributes_are_there() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let passwd = world.guest("etc/passwd");
    let said = run("getfattr", &["-d", "-m", "-", "-e", "hex", text(&passwd)]);
    assert!(said.contains("user.colour=0x626c7565"), "{said}");
    assert!(said.contains("trusted.secret=0x000102"), "{said}");
    let mut small = [0u8; 1];
    let error = rustix::fs::getxattr(&passwd, "user.colour", &mut small).unwrap_err();
    assert_eq!(error, rustix::io::Errno::RANGE);
    let mut value = [0u8; 64];
    let error = rustix::fs::getxattr(&passwd, "user.none", &mut value).unwrap_err();
    assert_eq!(error, rustix::io::Errno::NODATA);
    let said = run("getfacl", &["-p", text(&world.guest("etc/deep/big"))]);
    assert!(said.contains("user:4321:rw-"), "{said}");
    // What the tree itself shows has none, and that is no error.
    let said = run(
        "getfattr",
        &[
            "-d",
            "-m",
            "-",
            text(&world.at("web01/first/disks/vda.raw")),
        ],
    );
    assert_eq!(said, "");
    unmount(&mount);
}

#[test]
fn noxattr_has_none() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount_with("noxattr");
    let mut value = [0u8; 64];
    for _ in 0..2 {
        let passwd = world.guest("etc/passwd");
        let error = rustix::fs::getxattr(&passwd, "user.colour", &mut value).unwrap_err();
        assert_eq!(error, rustix::io::Errno::OPNOTSUPP);
    }
    run("ls", &["-la", text(&world.guest("etc"))]);
    unmount(&mount);
}
