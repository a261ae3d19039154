//! `quickstart`, as the README's first command.

use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;

#[test]
fn from_nothing_to_a_mounted_repository() {
    if !has("mke2fs") || !has("debugfs") || !can_mount() {
        return;
    }
    let place = Place::new();
    let said = place.ok(&["quickstart", "qs"]);
    for words in [
        "first backup",
        "second backup",
        "tuesday",
        "mounted on",
        "Try next",
        "Unmount:",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // Its own lines are lines.
    assert!(!said.contains('\\'), "{said}");
    let etc = place.path("qs/mnt/sample/latest/volumes/vda/part/1/etc");
    assert!(etc.join("added-on-tuesday").exists());
    assert!(
        !place
            .path("qs/mnt/sample/monday/volumes/vda/part/1/etc/added-on-tuesday")
            .exists()
    );
    assert_eq!(
        std::fs::read(etc.join("passwd")).unwrap(),
        std::fs::read("/etc/passwd").unwrap()
    );
    place.ok(&["umount", "qs/mnt"]);
    place.fails(1, &["quickstart", "qs"]);
}
