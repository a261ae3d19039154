//! readlink: `latest`, and the guest's links verbatim.

use std::path::Path;

use crate::world::{World, ready, unmount};

#[test]
fn targets_are_verbatim() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let target = |path: &Path| std::fs::read_link(path).unwrap();
    assert_eq!(target(&world.at("web01/latest")), Path::new("first"));
    assert_eq!(target(&world.guest("etc/link")), Path::new("../empty"));
    assert_eq!(target(&world.guest("absolute")), Path::new("/etc/passwd"));
    assert_eq!(
        target(&world.guest("long-link")),
        Path::new(&"x".repeat(900))
    );
    let length = std::fs::symlink_metadata(world.guest("long-link"))
        .unwrap()
        .len();
    assert_eq!(length, 900);
    unmount(&mount);
}
