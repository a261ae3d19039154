//! statfs: the repository's room.

use crate::world::{World, ready, unmount};

#[test]
fn df_shows_the_room_of_the_repository() {
    if !ready() {
        return;
    }
    let world = World::empty();
    let mount = world.mount();
    let ours = rustix::fs::statvfs(world.path("mnt")).unwrap();
    let theirs = rustix::fs::statvfs(world.repository()).unwrap();
    assert_eq!(
        ours.f_blocks * ours.f_frsize / 4096,
        theirs.f_blocks * theirs.f_frsize / 4096
    );
    assert!(ours.f_bavail > 0);
    assert_eq!(ours.f_namemax, 255);
    unmount(&mount);
}
