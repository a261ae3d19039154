//! A user who may write a directory on the way to a mountpoint: he puts symlinks there, and exchanges directories while root mounts and
//! unmounts.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::helper::{Site, text};
use crate::kit::need::can_mount;

const EVE: u32 = 65_534;

/// Directories of `eve` and of root: `eve/mnt`, `eve/d/mnt`, `victim/mnt`.
fn site() -> Option<Site> {
    if !can_mount() {
        return None;
    }
    let site = Site::new(&[
        "victim",
        "victim/mnt",
        "eve",
        "eve/mnt",
        "eve/d",
        "eve/d/mnt",
    ]);
    for own in &site.points[2..] {
        std::os::unix::fs::chown(own, Some(EVE), Some(EVE)).unwrap();
    }
    site.house.configure("", "");
    Some(site)
}

/// The types of what is mounted at a path, the topmost last.
fn mounted(path: &Path) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let here = all.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    here.filter(|fields| fields[1] == text(path))
        .map(|fields| fields[2].to_owned())
        .collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_symlink_of_a_user_leads_root_nowhere() {
    let Some(site) = site() else { return };
    let service = site.start();
    let (repo, place) = (site.house.place.repo(), &site.house.place);
    let (victim, eve) = (&site.points[0], &site.points[2]);
    symlink(victim, eve.join("up")).unwrap();
    symlink(victim.join("mnt"), eve.join("link")).unwrap();
    symlink("../victim/mnt", eve.join("relative")).unwrap();
    // Of root, but in a directory of the user: he can have brought it there.
    symlink(eve.join("link"), place.path("far")).unwrap();
    std::os::unix::fs::lchown(eve.join("relative"), Some(0), Some(0)).unwrap();
    for way in ["eve/link", "eve/relative", "eve/up/mnt", "far"] {
        let at = place.path(way);
        let output = site.helper(&[text(&repo), text(&at), "-o", "ro"]);
        assert_eq!(output.status.code(), Some(1), "{way}: {}", said(&output));
        assert!(
            said(&output).contains("symlink that another user"),
            "{}",
            said(&output)
        );
        let error = place.fails(1, &["mount", text(&at)]);
        assert!(error.contains("symlink that another user"), "{error}");
        assert!(mounted(&victim.join("mnt")).is_empty(), "{way}");
    }
    // A directory that is the user's covers nothing of root's; the daemon's mount is on what was looked at.
    for way in ["eve/mnt", "eve/d/mnt"] {
        let at = place.path(way);
        let output = site.helper(&[text(&repo), text(&at), "-o", "ro"]);
        assert!(output.status.success(), "{way}: {}", said(&output));
        assert_eq!(mounted(&at), ["fuse.restorefs"]);
        place.ok(&["umount", text(&at)]);
        assert!(mounted(&at).is_empty());
    }
    service.stop();
    // Without the daemon root mounts there himself, on what was looked at as well.
    let at = eve.join("mnt");
    place.ok(&["mount", text(&at)]);
    assert_eq!(mounted(&at), ["fuse.restorefs"]);
    place.ok(&["umount", text(&at)]);
    assert!(mounted(&at).is_empty());
    // Root's own symlinks are followed.
    symlink("victim/mnt", place.path("mine")).unwrap();
    place.ok(&["mount", text(&place.path("mine"))]);
    assert_eq!(mounted(&victim.join("mnt")), ["fuse.restorefs"]);
    place.ok(&["umount", text(&place.path("mine"))]);
}

/// What a way shows at a look may be another directory at the next call.
#[test]
fn what_is_exchanged_meanwhile_is_neither_covered_nor_unmounted() {
    let Some(site) = site() else { return };
    let service = site.start();
    let (repo, place) = (site.house.place.repo(), &site.house.place);
    let (victim, eve) = (site.points[0].clone(), site.points[2].clone());
    symlink(&victim, eve.join("bait")).unwrap();
    // Something of root's that must stay as it is.
    let own = victim.join("mnt");
    let none = None::<&std::ffi::CStr>;
    mount("tmpfs", &own, "tmpfs", MountFlags::empty(), none).unwrap();
    let (stop, at) = (AtomicBool::new(false), eve.join("d/mnt"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (d, bait) = (eve.join("d"), eve.join("bait"));
                renameat_with(CWD, &d, CWD, &bait, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..30 {
            site.helper(&[text(&repo), text(&at), "-o", "ro"]);
            place.run(&["umount", text(&at)]);
            let now = mounted(&own);
            if now != ["tmpfs"] {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(now, ["tmpfs"]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    for dir in ["d/mnt", "bait/mnt"] {
        while unmount(eve.join(dir), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    }
    while unmount(&own, UnmountFlags::DETACH).is_ok() {}
    service.stop();
}
