//! Stopping: writers come to an end within the limit; beyond it their sessions are suspended, and go on with the next daemon.

use std::io::Write;
use std::time::{Duration, Instant};

use restorefs::block::{ReadAt, WriteAt};
use rustix::process::Signal;

use crate::helper::{Site, names, text};
use crate::house::{House, nbd};
use crate::kit::need::can_mount;
use crate::kit::wait::eventually;

const MIB: usize = 1 << 20;

fn begin(house: &House, disks: &[&str]) -> String {
    let mut args = vec!["begin", "web01"];
    args.extend_from_slice(disks);
    let begun = house.place.json(&args);
    format!("web01/{}", begun["session"].as_str().unwrap())
}

#[test]
fn who_writes_comes_to_an_end() {
    let house = House::new();
    house.configure("stop_timeout = \"20s\"", &nbd(&house, ""));
    let mut service = house.start();
    let session = begin(&house, &["vda=4M"]);
    let writer = house.connect(&format!("{session}/vda"));
    writer.write_at(0, &vec![1; MIB]).unwrap();
    service.signal(Signal::TERM);
    let said = house.hear("STOPPING=1");
    assert!(said.contains("EXTEND_TIMEOUT_USEC="), "{said}");
    let said = house.place.fails(1, &["begin", "web02", "vda=1M"]);
    assert!(said.contains("about to stop"), "{said}");
    for n in 1..4 {
        std::thread::sleep(Duration::from_millis(300));
        writer
            .write_at((n * MIB) as u64, &vec![n as u8 + 1; MIB])
            .unwrap();
        assert!(!service.has_ended(), "it is waited for");
    }
    writer.flush().unwrap();
    writer.disconnect().unwrap();
    house.place.ok(&["commit", &session, "--point", "p1"]);
    let begun = Instant::now();
    assert!(service.end().success());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "nobody writes any more"
    );
    let bytes = house.place.restored("web01@p1", "vda");
    assert!((0..4).all(|n| bytes[n * MIB..(n + 1) * MIB] == vec![n as u8 + 1; MIB][..]));
}

#[test]
fn beyond_the_limit_sessions_are_suspended_and_go_on() {
    let house = House::new();
    house.configure("stop_timeout = \"1s\"", &nbd(&house, ""));
    let service = house.start();
    let session = begin(&house, &["vda=4M", "vdb=2M"]);
    let done = house.connect(&format!("{session}/vdb"));
    done.write_at(0, &vec![7; 2 * MIB]).unwrap();
    done.disconnect().unwrap();
    let writer = house.connect(&format!("{session}/vda"));
    writer.write_at(0, &vec![1; 2 * MIB]).unwrap();
    eventually("vdb is finished", || {
        house.place.json(&["sessions"])[0]["disks"][1]["finished"] == true
    });
    let begun = Instant::now();
    service.signal(Signal::TERM);
    assert!(service.end().success());
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        house.log().contains("the next daemon goes on with them"),
        "{}",
        house.log()
    );
    // Without a flush of the client, and without its goodbye.
    let _ = writer.disconnect();

    let service = house.start();
    let shown = house.place.json(&["sessions"]);
    assert_eq!(shown[0]["disks"][1]["finished"], true, "{shown}");
    assert_eq!(shown[0]["disks"][0]["finished"], false, "{shown}");
    let said = house.place.fails(2, &["commit", &session]);
    assert!(said.contains("vda"), "{said}");
    let writer = house.connect(&format!("{session}/vda"));
    let mut found = vec![0; 2 * MIB];
    writer.read_at(0, &mut found).unwrap();
    assert!(found == vec![1; 2 * MIB], "what was written is there");
    writer.write_at(2 * MIB as u64, &vec![2; 2 * MIB]).unwrap();
    writer.disconnect().unwrap();
    house.place.ok(&["commit", &session, "--point", "p1"]);
    assert!(house.place.restored("web01@p1", "vdb") == vec![7; 2 * MIB]);
    let bytes = house.place.restored("web01@p1", "vda");
    assert!(bytes[..2 * MIB] == vec![1; 2 * MIB] && bytes[2 * MIB..] == vec![2; 2 * MIB]);
    service.stop();
}

#[test]
fn a_second_signal_ends_the_patience() {
    let house = House::new();
    house.configure("stop_timeout = \"1h\"", &nbd(&house, ""));
    let service = house.start();
    let session = begin(&house, &["vda=1M"]);
    let writer = house.connect(&format!("{session}/vda"));
    writer.write_at(0, &[1; 512]).unwrap();
    service.signal(Signal::TERM);
    house.hear("STOPPING=1");
    service.signal(Signal::TERM);
    assert!(service.end().success());
}

#[test]
fn readers_are_not_waited_for() {
    let house = House::new();
    house.place.disk("a.raw", 4, 1);
    house
        .place
        .ok(&["backup", "web01", "vda=a.raw", "--point", "p1"]);
    house.configure("stop_timeout = \"1h\"", &nbd(&house, ""));
    let service = house.start();
    let reader = house.connect("web01/p1/vda");
    reader.read_at(0, &mut [0; 512]).unwrap();
    service.stop();
}

#[test]
fn a_copy_into_the_tree_that_was_cut_short_is_not_finished() {
    if !can_mount() {
        return;
    }
    let house = House::new();
    let mount = house.place.path("mnt");
    std::fs::create_dir(&mount).unwrap();
    let of_mount = format!("[[repository.mount]]\nat = \"{}\"\n", mount.display());
    house.configure("stop_timeout = \"0s\"", &of_mount);
    let service = house.start();
    let session = mount.join("web01/night.partial");
    std::fs::create_dir_all(&session).unwrap();
    // Two disks as cp writes them: the one is synced, the other is far from its end.
    for (disk, is_whole) in [("vda.raw", true), ("vdb.raw", false)] {
        let mut file = std::fs::File::create(session.join("disks").join(disk)).unwrap();
        file.write_all(&vec![5; MIB]).unwrap();
        if is_whole {
            file.sync_all().unwrap();
        }
    }
    service.stop();
    let service = house.start();
    let is_finished = |name: &str| {
        let all = house.place.json(&["sessions"]);
        let disks = all[0]["disks"].as_array().unwrap().clone();
        let disk = disks.iter().find(|disk| disk["name"] == name).unwrap();
        disk["finished"].as_bool().unwrap()
    };
    assert!(is_finished("vda"));
    assert!(!is_finished("vdb"));
    let said = house.place.fails(2, &["commit", "web01/night"]);
    assert!(said.contains("vdb") && said.contains("touch"), "{said}");
    // It was all, says who has copied it.
    let file = std::fs::File::options()
        .append(true)
        .open(session.join("disks/vdb.raw"))
        .unwrap();
    file.sync_all().unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    drop(file);
    house.place.ok(&["commit", "web01/night", "--point", "p1"]);
    assert_eq!(house.place.restored("web01@p1", "vdb"), vec![5; MIB]);
    service.stop();
}

#[test]
fn a_daemon_that_stops_takes_no_mount() {
    if !can_mount() {
        return;
    }
    let site = Site::new(&["a"]);
    let house = &site.house;
    house.configure("stop_timeout = \"20s\"", "");
    let service = site.start();
    begin(house, &["vda=4M"]);
    service.signal(Signal::TERM);
    house.hear("STOPPING=1");
    let (repo, at) = (house.place.repo(), text(&site.points[0]));
    let helper = house.place.run(&["mount.restorefs", text(&repo), at]);
    let said = String::from_utf8_lossy(&helper.stderr);
    assert_eq!(helper.status.code(), Some(32), "{said}");
    assert!(said.contains("about to stop"), "{said}");
    assert!(names(&site.points[0]).is_empty(), "nothing is left");
    assert!(service.end().success());
}

/// The next owner need not look at every VM; after a daemon that was killed it does.
#[test]
fn a_daemon_that_was_stopped_has_left_all_in_order() {
    let house = House::new();
    house.place.disk("a.raw", 2, 1);
    house.configure("", "");
    house.place.ok(&["backup", "web01", "vda=a.raw"]);
    house.place.ok(&["backup", "web02", "vda=a.raw"]);
    let looked_at = || {
        let mut command = house.place.command(&["rebuild-catalog"]);
        let output = command.env("RUST_LOG", "restorefs::repo=debug").output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        let line = said.lines().find(|line| line.contains("are in order"));
        line.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let service = house.start();
    service.stop();
    let said = looked_at();
    assert!(said.contains("looked_at=0 as_left=2"), "{said}");
    house.start().kill();
    let said = looked_at();
    assert!(said.contains("looked_at=2 as_left=0"), "{said}");
}
