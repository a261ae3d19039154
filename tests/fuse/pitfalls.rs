//! Each a thing that was seen to go wrong with FUSE on Linux.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::kit::wait::eventually;
use crate::world::{World, names, ready, unmount};

/// A held inode keeps its cached target whatever is invalidated: another target must be another inode.
#[test]
fn latest_held_open_does_not_go_stale_for_others() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    let mount = world.mount();
    let path = world.at("web01/latest");
    assert_eq!(std::fs::read_link(&path).unwrap(), PathBuf::from("p1"));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
    let before = std::fs::symlink_metadata(&path).unwrap().ino();
    world.commit_small("web01", "p2");
    eventually("latest", || std::fs::read_link(&path).unwrap() == *"p2");
    assert_ne!(std::fs::symlink_metadata(&path).unwrap().ino(), before);
    let target = rustix::fs::readlinkat(&held, "", Vec::new()).unwrap();
    assert_eq!(target.to_bytes(), b"p1");
    drop(held);
    unmount(&mount);
}

/// A listing that is going on while points come and go shows every point that was there all the time, once.
#[test]
fn cookies_survive_changes() {
    if !ready() {
        return;
    }
    let world = World::empty();
    for n in 0..30 {
        world.commit_small("web01", &format!("a-rather-long-name-of-a-point-{n:03}"));
    }
    let mount = world.mount();
    let mut listing = std::fs::read_dir(world.at("web01")).unwrap();
    let mut seen = vec![listing.next().unwrap().unwrap().file_name()];
    let gone = "vms/web01/points/a-rather-long-name-of-a-point-000";
    std::fs::rename(world.repository().join(gone), world.path("gone")).unwrap();
    world.commit_small("web01", "new");
    eventually("the point", || world.at("web01/new").exists());
    seen.extend(listing.map(|entry| entry.unwrap().file_name()));
    let mut unique = seen.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), seen.len(), "{seen:?}");
    for n in 1..30 {
        let name = format!("a-rather-long-name-of-a-point-{n:03}");
        assert!(seen.iter().any(|s| *s == *name), "{name}");
    }
    unmount(&mount);
}

/// What was looked up before it was there appears when it is.
#[test]
fn a_name_that_was_missing_is_found_later() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    let mount = world.mount();
    for _ in 0..3 {
        assert!(!world.at("web01/p2/volumes").exists());
    }
    world.commit_small("web01", "p2");
    eventually("the point", || world.at("web01/p2/volumes").exists());
    assert_eq!(names(&world.at("web01/p2")).len(), 5);
    unmount(&mount);
}

/// One damaged file or volume answers EIO; the rest keeps serving.
#[test]
fn damage_stays_where_it_is() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    world.commit_small("web02", "p1");
    let layers = world.repository().join("vms/web01/layers");
    for name in names(&layers)
        .iter()
        .filter(|n| n.starts_with("vdb") && n.ends_with(".qcow2"))
    {
        std::fs::remove_file(layers.join(name)).unwrap();
    }
    let mount = world.mount();
    let error = std::fs::read(world.at("web01/first/disks/vdb.raw")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    assert_eq!(names(&world.at("web01/first/volumes")), ["vda", "vdb"]);
    assert!(names(&world.at("web01/first/volumes/vdb")).is_empty());
    assert_eq!(std::fs::read(world.guest("etc/passwd")).unwrap().len(), 26);
    assert_eq!(
        std::fs::read(world.at("web02/p1/disks/vda.raw"))
            .unwrap()
            .len(),
        4096
    );
    let volumes = std::fs::read_to_string(world.at("web01/first/volumes.json")).unwrap();
    assert!(volumes.contains("a layer is missing"), "{volumes}");
    unmount(&mount);
}

/// A point whose sidecar is damaged is still listed, and says so; its disks answer EIO, other points do not care.
#[test]
fn a_damaged_sidecar_is_said_in_info() {
    if !ready() {
        return;
    }
    let world = World::empty();
    world.commit_small("web01", "p1");
    world.commit_small("web01", "p2");
    let sidecar = world.repository().join("vms/web01/points/p1/point.json");
    let text = std::fs::read_to_string(&sidecar).unwrap();
    std::fs::remove_file(&sidecar).unwrap();
    std::fs::write(&sidecar, text.replace("\"seq\": 1", "\"seq\": 7")).unwrap();
    let mount = world.mount();
    assert_eq!(names(&world.at("web01")), ["latest", "p1", "p2"]);
    let info = std::fs::read_to_string(world.at("web01/p1/info.json")).unwrap();
    assert!(
        info.contains("does not match the hash that it carries"),
        "{info}"
    );
    let error = std::fs::read(world.at("web01/p1/disks/vda.raw")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    assert_eq!(
        std::fs::read(world.at("web01/p2/disks/vda.raw"))
            .unwrap()
            .len(),
        4096
    );
    unmount(&mount);
}

/// Requests of many processes at once on few threads: nobody waits for himself.
#[test]
fn many_processes_read_disk_and_files_at_once() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let script = "for n in 1 2 3 4 5 6; do cmp \"$0\" \"$0\" & sha256sum \"$1\"/many/* > /dev/null & done; wait";
    let disk = world.at("web01/first/disks/vda.raw");
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(&disk)
        .arg(world.guest(""))
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    unmount(&mount);
}
