//! A mount follows the commits of other processes: names, listings, `latest`.

use std::path::PathBuf;

use crate::kit::wait::eventually;
use crate::world::{World, names, ready, unmount};

fn follows(options: &str) {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    let mount = world.mount_with(options);
    let latest = || std::fs::read_link(world.at("web01/latest")).unwrap();
    // All of it cached, and what is not there too.
    assert_eq!(names(&world.at("web01")), ["latest", "p1"]);
    assert_eq!(latest(), PathBuf::from("p1"));
    assert!(!world.at("web01/p2").exists());
    assert!(!world.at("web02").exists());
    world.commit_small("web01", "p2");
    eventually("the point", || world.at("web01/p2/disks/vda.raw").exists());
    eventually("latest", || latest() == *"p2");
    eventually("the listing", || {
        names(&world.at("web01")) == ["latest", "p1", "p2"]
    });
    let bytes = std::fs::read(world.at("web01/latest/disks/vda.raw")).unwrap();
    assert_eq!(&bytes[..2], b"p2");
    world.commit_small("web02", "p1");
    eventually("the VM", || world.at("web02/p1/info.json").exists());
    eventually("its listing", || names(&world.at("")) == ["web01", "web02"]);
    // Also a point of a VM that was new a moment ago.
    world.commit_small("web02", "p2");
    eventually("its second point", || world.at("web02/p2").exists());
    // A point that is deleted goes.
    std::fs::rename(
        world.repository().join("vms/web01/points/p1"),
        world.path("gone"),
    )
    .unwrap();
    world.commit_small("web01", "p3");
    eventually("the deletion", || !world.at("web01/p1").exists());
    eventually("the listing", || {
        names(&world.at("web01")) == ["latest", "p2", "p3"]
    });
    unmount(&mount);
}

#[test]
fn by_inotify() {
    follows("poll=0");
}

#[test]
fn by_polling() {
    follows("noinotify,poll=1");
}

/// Commits while everybody lists and reads: nothing hangs and nothing half-made is seen.
#[test]
fn a_commit_in_the_middle_of_everything() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p00");
    let mount = world.mount();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for name in names(&world.at("web01")) {
                        let path = world.at("web01").join(&name).join("disks/vda.raw");
                        let bytes = std::fs::read(path).unwrap();
                        assert!(name == "latest" || bytes.starts_with(name.as_bytes()));
                    }
                }
            });
        }
        for n in 1..12 {
            world.commit_small("web01", &format!("p{n:02}"));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    eventually("the last point", || world.at("web01/p11").exists());
    unmount(&mount);
}
