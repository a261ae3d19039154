//! The remains of a killed process are listed and removed; nothing that is alive or in use is touched.

use crate::kit::wait::eventually;
use crate::world::{Mount, Running, World, read_device, ready, run};

const TOOLS: [&str; 4] = ["losetup", "sgdisk", "mkfs.ext4", "blockdev"];

/// A loop device of somebody else, detached when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["-d", &self.0])
            .status();
    }
}

fn killed(world: &World) {
    world.signal(rustix::process::Signal::KILL);
    // Its name is gone before what it held.
    eventually("the end of the process", || {
        world.processes().is_empty() && world.list().iter().all(|map| map["state"] == "leftover")
    });
}

#[test]
fn what_a_killed_process_left_is_cleaned_away() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    world.ok(&["map", "web01@one", "--scratch=."]);
    killed(&world);
    let list = world.list();
    assert_eq!(list.len(), 2);
    for entry in &list {
        assert_eq!(entry["state"], "leftover");
        assert!(
            entry["reason"].as_str().unwrap().contains("has ended"),
            "{entry}"
        );
    }
    // Said by the next map, which leaves it alone.
    let output = world.run(&["map", "web01@one/vdb"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--stale"));
    let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert_eq!(world.list().len(), 3);
    world.ok(&["unmap", "--stale"]);
    let list = world.list();
    assert_eq!(
        (list.len(), &list[0]["state"]),
        (1, &"live".into()),
        "{list:?}"
    );
    assert!(read_device(&device) == world.restored("web01@one", "vdb"));
    world.ok(&["unmap", "--stale"]);
    assert_eq!(world.list().len(), 1, "a live map is no leftover");
    world.ok(&["unmap", "--all"]);
    world.assert_nothing_left();
}

#[test]
fn a_leftover_in_use_is_named_and_stays() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb"]);
    let open = std::fs::File::open(&device).unwrap();
    killed(&world);
    let said = world.fails(1, &["unmap", "--stale"]);
    assert!(said.contains(&device) && said.contains("in use"), "{said}");
    assert_eq!(world.list().len(), 1);
    drop(open);
    // By its device as well.
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
}

#[test]
fn half_written_directories_are_understood() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    world.map(&["web01@one/vdb"]);
    killed(&world);
    let id = world.list()[0]["id"].as_str().unwrap().to_owned();
    let map = world.maps().join(id);
    let whole = std::fs::read(map.join("map.json")).unwrap();
    for bytes in [
        &b""[..],
        b"{",
        b"[]",
        &whole[..whole.len() / 2],
        b"\xff\x00",
    ] {
        std::fs::write(map.join("map.json"), bytes).unwrap();
        let list = world.list();
        assert_eq!((list.len(), &list[0]["state"]), (1, &"leftover".into()));
        // The device is known from the kernel all the same.
        assert!(list[0]["device"].as_str().unwrap().starts_with("/dev/loop"));
    }
    std::fs::remove_file(map.join("map.json")).unwrap();
    std::fs::remove_file(map.join("lock")).unwrap();
    // A crash between any two steps of a map that was about to be made, and what is none of ours.
    std::fs::create_dir(world.maps().join("0123456789ab")).unwrap();
    std::fs::create_dir_all(world.maps().join("ba9876543210/disk")).unwrap();
    std::fs::create_dir(world.maps().join("not-a-map")).unwrap();
    assert_eq!(world.list().len(), 3);
    world.ok(&["unmap", "--stale"]);
    std::fs::remove_dir(world.maps().join("not-a-map")).unwrap();
    world.assert_nothing_left();
}

#[test]
fn a_record_never_detaches_a_device_of_somebody_else() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb"]);
    killed(&world);
    // Detached by hand; somebody else gets the number.
    run("losetup", &["-d", &device]);
    let path = world.path("other.raw");
    std::fs::write(&path, [1; 4096]).unwrap();
    let other = loop {
        let other = run("losetup", &["-f", "--show", path.to_str().unwrap()]);
        let other = Loop(other.trim().to_owned());
        if other.0 == device {
            break other;
        }
        // Another test was faster; ours may be free later.
        drop(other);
        let file = format!(
            "/sys/block/{}/loop/backing_file",
            device.trim_start_matches("/dev/")
        );
        if std::path::Path::new(&file).exists() {
            return;
        }
    };
    world.fails(1, &["unmap", &device]);
    world.ok(&["unmap", "--stale"]);
    world.assert_nothing_left();
    assert_eq!(std::fs::read(&other.0).unwrap(), [1; 4096]);
}

#[test]
fn a_live_map_whose_device_was_taken_away_is_a_leftover() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb"]);
    run("losetup", &["-d", &device]);
    let list = world.list();
    assert_eq!(list[0]["state"], "leftover");
    assert!(
        list[0]["reason"]
            .as_str()
            .unwrap()
            .contains("not attached any more"),
        "{list:?}"
    );
    world.ok(&["unmap", "--stale"]);
    world.assert_nothing_left();
}

#[test]
fn one_that_was_unmounted_lazily_by_hand_is_still_ours() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vdb"]);
    let mountpoint = world.list()[0]["mountpoint"].as_str().unwrap().to_owned();
    run("umount", &["-l", &mountpoint]);
    assert_eq!(world.list()[0]["device"], device.as_str());
    assert!(read_device(&device) == world.restored("web01@one", "vdb"));
    world.ok(&["unmap", &device]);
    world.assert_nothing_left();
}

#[test]
fn a_filesystem_that_was_written_survives_nothing_but_hangs_nobody() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let device = world.map(&["web01@one/vda", "--scratch=."]);
    run("mkfs.ext4", &["-q", "-F", &device]);
    let mount = Mount::new("rw", &device, world.path("mnt"));
    std::fs::write(mount.0.join("dirty"), [1; 100_000]).unwrap();
    killed(&world);
    let said = world.fails(1, &["unmap", "--stale"]);
    assert!(said.contains("mounted at"), "{said}");
    drop(mount);
    world.ok(&["unmap", "--stale"]);
    world.assert_nothing_left();
}

#[test]
fn a_process_that_was_stopped_holds_up_no_list() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    world.map(&["web01@one/vdb"]);
    world.signal(rustix::process::Signal::STOP);
    // A signal is sent, and heard a moment later.
    eventually("the halt", || world.are_stopped());
    let list = world.list();
    world.signal(rustix::process::Signal::CONT);
    assert!(
        list[0]["last_error"]
            .as_str()
            .unwrap()
            .contains("does not answer"),
        "{list:?}"
    );
    world.ok(&["unmap", "--all"]);
    world.assert_nothing_left();
}

#[test]
fn what_works_of_a_map_is_no_leftover() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    world.ok(&["map", "web01@one", "--scratch=."]);
    let device = |disk: &str| {
        let list = world.list();
        let found = list.iter().find(|entry| entry["disk"] == disk);
        found.map(|entry| entry["device"].as_str().unwrap().to_owned())
    };
    let (vda, vdb) = (device("vda").unwrap(), device("vdb").unwrap());
    std::fs::write(&vda, [7; 4096]).unwrap();
    run("losetup", &["-d", &vdb]);
    assert_eq!(world.list()[0]["state"], "leftover");
    // What was written is on scratch space only.
    world.ok(&["unmap", "--stale"]);
    assert!(read_device(&vda)[..4096] == [7; 4096]);
    let list = world.list();
    assert_eq!((list.len(), &list[0]["state"]), (1, &"live".into()));
    assert!(device("vdb").is_none());
    world.ok(&["unmap", "--all"]);
    world.assert_nothing_left();
}

/// While `unmap` waited for somebody who had the device open, it was detached by hand, and its number given to another file. That file
/// was detached then.
#[test]
fn a_device_that_changes_hands_meanwhile_is_left_alone() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let path = world.path("other.raw");
    std::fs::write(&path, [1; 4096]).unwrap();
    let device = world.map(&["web01@one/vdb"]);
    let open = std::fs::File::open(&device).unwrap();
    let mut unmap = Running(world.command(&["unmap", &device]).spawn().unwrap());
    std::thread::sleep(std::time::Duration::from_millis(400));
    let is_waiting = unmap.0.try_wait().unwrap().is_none();
    assert!(is_waiting, "it waits for who has it open");
    run("losetup", &["-d", &device]);
    drop(open);
    let attach = || {
        let mut losetup = std::process::Command::new("losetup");
        losetup.arg(&device).arg(&path).output().unwrap()
    };
    let begun = std::time::Instant::now();
    while !attach().status.success() {
        if begun.elapsed() > std::time::Duration::from_secs(5) {
            // Another test has the number.
            return;
        }
    }
    let _other = Loop(device.clone());
    assert!(unmap.0.wait().unwrap().success());
    assert!(std::fs::read(&device).unwrap() == [1; 4096]);
    world.assert_nothing_left();
}
