//! Several disks, several maps, and a daemon beside them.

use std::process::Stdio;

use crate::kit::noise::noise;
use crate::world::{Running, World, read_device, ready};

const TOOLS: [&str; 4] = ["losetup", "sgdisk", "mkfs.ext4", "blockdev"];

#[test]
fn all_disks_of_a_point_are_one_map() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let said = world.ok(&["map", "web01@one"]);
    let lines: Vec<(&str, &str)> = said
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    let names: Vec<&str> = lines.iter().map(|(disk, _)| *disk).collect();
    assert_eq!(names, ["vda", "vdb"]);
    assert_ne!(lines[0].1, lines[1].1);
    for (disk, device) in &lines {
        assert!(read_device(device) == world.restored("web01@one", disk));
    }
    assert_eq!(world.processes().len(), 1);
    // One goes, the other stays as it is.
    world.ok(&["unmap", "WEB01@one/VDA"]);
    let list = world.list();
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&list[0]["disk"], &list[0]["state"]),
        (&"vdb".into(), &"live".into())
    );
    assert!(read_device(lines[1].1) == world.restored("web01@one", "vdb"));
    world.ok(&["unmap", lines[1].1]);
    world.assert_nothing_left();
}

#[test]
fn nothing_is_detached_when_one_of_several_is_in_use() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let said = world.ok(&["map", "web01@one", "--scratch"]);
    let device = said
        .lines()
        .nth(1)
        .unwrap()
        .split_once(' ')
        .unwrap()
        .1
        .to_owned();
    let exclusive = rustix::fs::open(
        device.as_str(),
        // Not for the processes that other tests start meanwhile.
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    world.fails(1, &["unmap", "web01@one"]);
    let list = world.list();
    assert_eq!(list.len(), 2);
    assert!(
        list.iter().all(|entry| entry["state"] == "live"),
        "{list:?}"
    );
    drop(exclusive);
    world.ok(&["unmap", "web01@one"]);
    world.assert_nothing_left();
}

#[test]
fn maps_of_one_point_do_not_meet() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let expected = world.restored("web01@one", "vdb");
    // At once, so that they race for devices.
    let started: Vec<_> = (0..6)
        .map(|n| {
            let mut args = vec!["map", "web01@one/vdb"];
            if n % 2 == 1 {
                args.push("--scratch=.");
            }
            world.command(&args).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let devices: Vec<String> = started
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
        .collect();
    let mut distinct = devices.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 6, "{devices:?}");
    // What is written to one is not in another.
    let junk = noise(99, 4096);
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options()
            .write(true)
            .open(&devices[1])
            .unwrap(),
        &junk,
        8192,
    )
    .unwrap();
    for (n, device) in devices.iter().enumerate() {
        let mut expected = expected.clone();
        if n == 1 {
            expected[8192..12_288].copy_from_slice(&junk);
        }
        assert!(read_device(device) == expected, "{device}");
    }
    world.ok(&["unmap", &devices[3], &devices[0]]);
    assert_eq!(world.list().len(), 4);
    world.ok(&["unmap", "web01@one/vdb"]);
    world.assert_nothing_left();
}

#[test]
fn a_daemon_beside_does_not_matter() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    let serve = |world: &World| {
        let mut child = world
            .command(&["serve", "--json", "--nbd", "nbd.sock"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The status is printed when it is ready.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Running(child)
    };
    let daemon = serve(&world);
    let device = world.map(&["web01@one/vdb"]);
    let expected = world.restored("web01@one", "vdb");
    assert!(read_device(&device) == expected);
    // The daemon has the lock, also for a backup that comes while the disk is mapped.
    std::fs::write(world.path("b.raw"), noise(8, 150_000)).unwrap();
    world.ok(&[
        "backup",
        "web01",
        "vdb=b.raw",
        "--unchanged",
        "vda",
        "--point",
        "two",
    ]);
    let newer = world.map(&["web01@latest/vdb"]);
    assert!(read_device(&newer) == world.restored("web01@two", "vdb"));
    drop(daemon);
    assert!(read_device(&device) == expected);
    world.ok(&["unmap", "web01@one"]);
    world.ok(&["unmap", "web01@latest/vdb"]);
    world.assert_nothing_left();
}
