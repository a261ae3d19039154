//! A map's process is killed at any moment: no other process waits for it, and its remains can be removed.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::kit::wait::eventually;
use crate::world::{World, ready};

const TOOLS: [&str; 5] = ["losetup", "sgdisk", "mkfs.ext4", "blockdev", "timeout"];
/// How often it is killed, at different moments.
const ROUNDS: u32 = 12;
const STEP: Duration = Duration::from_millis(3);

fn is_mounted(world: &World) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(world.maps().to_str().unwrap())
}

/// Whether somebody else gets a loop device: the driver has one lock.
fn others_are_served() -> bool {
    let find = Command::new("timeout")
        .args(["10", "losetup", "--find"])
        .stdout(Stdio::null())
        .status();
    find.unwrap().success()
}

fn clean(world: &World) {
    eventually("the end of the process", || {
        world.signal_all(Signal::KILL);
        world.processes().is_empty()
    });
    assert!(others_are_served());
    eventually("everything is cleaned away", || {
        world.run(&["unmap", "--stale"]);
        world.list().is_empty()
    });
}

#[test]
fn while_it_attaches() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    for round in 0..ROUNDS {
        let mut mapping = world
            .command(&["map", "web01@one", "--scratch=."])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From the mount to the devices it is a few milliseconds.
        while !is_mounted(&world) {
            let ended = mapping.try_wait().unwrap();
            assert!(ended.is_none_or(|status| status.success()), "no mount");
        }
        std::thread::sleep(STEP * (round % 4));
        world.signal_all(Signal::KILL);
        clean(&world);
        mapping.wait().unwrap();
    }
    world.assert_nothing_left();
}

#[test]
fn while_it_detaches() {
    if !ready(&TOOLS) {
        return;
    }
    let world = World::with_guest();
    for round in 0..ROUNDS / 2 {
        world.ok(&["map", "web01@one", "--scratch=."]);
        for device in world.list() {
            // Written, and not yet handed on.
            let path = device["device"].as_str().unwrap();
            std::fs::write(path, [7; 65_536]).unwrap();
        }
        world.signal(Signal::TERM);
        std::thread::sleep(STEP * round * 4);
        world.signal_all(Signal::KILL);
        clean(&world);
    }
    world.assert_nothing_left();
}
