//! Bounds of what a daemon serves.

use crate::helper::{Site, names, text};
use crate::kit::need::can_mount;
use crate::kit::wait::eventually;

/// Mounts of one repository.
const MOUNTS_MAX: usize = 32;

#[test]
fn a_repository_has_so_many_mounts_and_a_place_that_was_given_back_is_taken() {
    if !can_mount() {
        return;
    }
    let all: Vec<String> = (0..=MOUNTS_MAX).map(|n| format!("m{n}")).collect();
    let site = Site::new(&all.iter().map(String::as_str).collect::<Vec<_>>());
    site.house.configure("", "");
    let service = site.start();
    for at in 0..MOUNTS_MAX {
        site.mount(at, "ro");
    }
    let (repo, last) = (site.house.place.repo(), &site.points[MOUNTS_MAX]);
    let refused = site.helper(&[text(&repo), text(last), "-o", "ro"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(32), "{said}");
    assert!(said.contains("mounted 32 times already"), "{said}");
    assert!(names(last).is_empty());
    site.umount(0);
    eventually("the daemon knows it", || {
        site.helper(&[text(&repo), text(last), "-o", "ro"])
            .status
            .success()
    });
    for at in 1..=MOUNTS_MAX {
        assert_eq!(names(&site.points[at]), ["db01", "web01", "web02"]);
        site.umount(at);
    }
    service.stop();
}
