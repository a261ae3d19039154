//! A daemon that answers nothing any more.

use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use crate::helper::{Site, names, text};
use crate::house::PATIENCE;
use crate::kit::need::can_mount;
use crate::kit::wait::eventually;

/// Whoever waits for it would wait for ever, also when it is to be replaced.
#[test]
fn its_mounts_are_taken_away_and_who_waits_is_told() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a", "b"]);
    let house = &site.house;
    let mount = |n: usize| {
        let at = site.points[n].display();
        format!("[[repository.mount]]\nat = \"{at}\"\noptions = \"ro\"\n")
    };
    house.configure("", &(mount(0) + &mount(1)));
    let config = house.place.path("config.toml");
    let service = site.start();
    house.place.ok(&["mount", "--config", text(&config)]);
    assert_eq!(names(&site.points[0]).len(), 3);
    service.signal(Signal::STOP);
    let mut reader = Command::new("ls")
        .arg("-l")
        .arg(site.points[0].join("web01/p1/disks"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    house.place.ok(&["umount", "--config", text(&config)]);
    assert!(begun.elapsed() < 2 * PATIENCE);
    eventually("the reader is told", || {
        reader.try_wait().unwrap().is_some()
    });
    assert!(!reader.wait().unwrap().success());
    assert!(site.points.iter().all(|point| names(point).is_empty()));
    service.signal(Signal::CONT);
    service.kill();
    // What answers is asked to go in the usual way.
    let service = site.start();
    house.place.ok(&["mount", "--config", text(&config)]);
    assert_eq!(names(&site.points[1]).len(), 3);
    house.place.ok(&["umount", "--config", text(&config)]);
    assert!(site.points.iter().all(|point| names(point).is_empty()));
    service.stop();
}
