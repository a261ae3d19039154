//! Copies that are killed, aborted, and that meet filesystems which are full, read-only or gone: the target stays sound, and the
//! next copy goes on.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::copy::Pair;
use crate::filesystem::Filesystem;
use crate::kit::noise::noise;
use crate::kit::wait::eventually;
use crate::merge::back_up;

/// How often a copy is killed; RESTOREFS_FIRE=200 for more.
fn rounds() -> usize {
    let asked = std::env::var("RESTOREFS_FIRE").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(12)
}

fn start(pair: &Pair, more: &[&str]) -> Child {
    let mut args = vec!["copy", "web01", "--to", "./b"];
    args.extend_from_slice(more);
    let mut command = pair.place.command(&args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Bytes below the sessions of the target.
fn arrived(pair: &Pair) -> u64 {
    let Ok(points) = std::fs::read_dir(pair.place.path("b/vms/web01/points")) else {
        return 0;
    };
    let sessions = points.filter_map(|entry| {
        let path = entry.unwrap().path();
        std::fs::read_dir(path).ok()
    });
    let files = sessions.flatten().filter_map(|file| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let size = |m: std::fs::Metadata| std::os::unix::fs::MetadataExt::blocks(&m) * 512;
        name.ends_with(".open")
            .then(|| file.metadata().map_or(0, size))
    });
    files.sum()
}

#[test]
fn a_copy_that_is_killed_goes_on() {
    let pair = Pair::new();
    let place = &pair.place;
    let mut contents: BTreeMap<String, Vec<u8>> = back_up(place, 0, 6, &[]);
    for round in 0..rounds() {
        let begun = Instant::now();
        let mut child = start(&pair, &["--limit", "3M"]);
        let pause = Duration::from_millis(60 + (round as u64 * 137) % 1_500);
        std::thread::sleep(pause);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
        // The next owner finds the target sound, and what has come so far is right.
        pair.there_ok(&["check"]);
        if place.path("b/vms/web01/vm.json").exists() {
            for point in pair.points_there("web01") {
                let found = pair.restored_there(&format!("web01@{point}"));
                assert!(found == contents[&point], "{round}: {point}");
            }
        }
        // Both sides change meanwhile. What the target has forgotten is sent again.
        if round % 5 == 2
            && place.path("b/vms/web01/vm.json").exists()
            && let Some(first) = pair.points_there("web01").first()
        {
            pair.there_ok(&["forget", &format!("web01@{first}")]);
            pair.there_ok(&["forget", "web01", "--compact"]);
        }
        if round % 5 == 4 {
            contents.extend(back_up(place, 6 + round, 1, &[]));
            place.ok(&["forget", "web01", "--compact"]);
        }
    }
    pair.copy(&[]);
    pair.check("web01", &contents);
    let left = std::fs::read_dir(place.path("b/vms/web01/points")).unwrap();
    assert_eq!(left.count(), contents.len());
    assert!(
        pair.files_there("web01")
            .iter()
            .all(|name| !name.ends_with(".open"))
    );
}

#[test]
fn what_is_durable_is_not_sent_again() {
    let pair = Pair::new();
    let place = &pair.place;
    let bytes = noise(7, 448 << 20);
    std::fs::write(place.path("a.raw"), &bytes).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    // Slow enough that its end is not missed.
    let mut child = start(&pair, &["--limit", "150M"]);
    eventually("most of it has arrived", || arrived(&pair) > 400 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = arrived(&pair);
    assert!(!place.path("b/vms/web01/points/one").exists());
    let sessions: Value = serde_json::from_str(&pair.there_ok(&["sessions", "--json"])).unwrap();
    assert_eq!(sessions[0]["session"], "one", "{sessions}");
    assert_eq!(sessions[0]["disks"][0]["door"], "copy");
    assert!(
        arrived(&pair) >= before,
        "the target's next owner has removed it"
    );
    let copied = pair.copy(&[]);
    let sent = copied["sent_bytes"].as_u64().unwrap();
    assert!(sent < 300 << 20, "{sent} bytes were sent again");
    assert!(pair.restored_there("web01@one") == bytes);
    pair.there_ok(&["verify"]);
}

#[test]
fn a_copy_can_be_aborted_at_the_target_and_stopped_at_the_source() {
    let pair = Pair::new();
    let place = &pair.place;
    std::fs::write(place.path("a.raw"), noise(3, 24 << 20)).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let end = |mut child: Child| {
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the copy does not end"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child.wait().unwrap()
    };
    let child = start(&pair, &["--limit", "1M"]);
    eventually("something has arrived", || arrived(&pair) > 1 << 20);
    pair.there_ok(&["abort", "web01/one"]);
    assert!(!end(child).success());
    assert_eq!(arrived(&pair), 0);
    pair.there_ok(&["check"]);
    // SIGTERM leaves what has arrived.
    let child = start(&pair, &["--limit", "1M"]);
    eventually("something has arrived", || arrived(&pair) > 1 << 20);
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(!end(child).success());
    assert!(arrived(&pair) > 0);
    // An adoption ends it.
    pair.there_ok(&["adopt", "web01"]);
    assert_eq!(arrived(&pair), 0);
    assert!(
        place
            .fails(1, &["copy", "web01", "--to", "./b"])
            .contains("adopted")
    );
}

#[test]
fn the_owner_of_the_target_is_killed() {
    let pair = Pair::new();
    let place = &pair.place;
    let contents = back_up(place, 0, 5, &[]);
    for round in 0..rounds().div_ceil(4) {
        let daemon = pair.serve_there();
        let mut child = start(&pair, &["--limit", "4M"]);
        std::thread::sleep(Duration::from_millis(200 + (round as u64 * 211) % 900));
        daemon.kill();
        if round % 2 == 0 {
            child.kill().unwrap();
        }
        // Without a daemon the copy takes the lock for each of its steps.
        child.wait().unwrap();
        let daemon = pair.serve_there();
        pair.there_ok(&["sessions"]);
        pair.there_ok(&["check"]);
        daemon.stop();
    }
    pair.copy(&[]);
    pair.check("web01", &contents);
}

#[test]
fn a_copy_is_a_task_of_the_source_and_uses_its_point() {
    let pair = Pair::new();
    let place = &pair.place;
    std::fs::write(place.path("a.raw"), noise(9, 24 << 20)).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    let daemon = place.serve(&[]);
    let mut child = start(&pair, &["--limit", "1M"]);
    let running = || {
        let jobs = place.json(&["jobs", "--kind", "copy"]);
        let is_running = jobs[0]["result"].is_null() && jobs[0]["disks"][0]["done_bytes"] != 0;
        let id = jobs[0]["job_id"].as_str().filter(|_| is_running);
        id.map(str::to_owned)
    };
    eventually("the task is shown with its progress", || {
        running().is_some()
    });
    let said = place.fails(1, &["forget", "web01@one"]);
    assert!(said.contains("a copy uses web01@one"), "{said}");
    place.ok(&["cancel", &running().unwrap()]);
    assert!(!child.wait().unwrap().success());
    let jobs = place.json(&["jobs", "--kind", "copy"]);
    assert_eq!(jobs[0]["result"], "cancelled", "{jobs}");
    assert!(arrived(&pair) > 0);
    daemon.stop();
    assert_eq!(pair.copy(&[])["points"][1]["state"], "copied");
}

#[test]
fn both_sides_are_merged_and_forgotten_meanwhile() {
    let pair = Pair::new();
    let place = &pair.place;
    let mut contents = back_up(place, 0, 10, &[]);
    pair.copy(&["--point", "p00", "--point", "p01", "--point", "p02"]);
    let mut child = start(&pair, &["--limit", "2M"]);
    let gone = ["p03", "p05", "p07"];
    for (n, point) in (10..).zip(gone) {
        // A point may have been copied or not.
        place.ok(&["forget", &format!("web01@{point}")]);
        place.ok(&["forget", "web01", "--compact"]);
        contents.extend(back_up(place, n, 1, &[]));
        let there = pair.points_there("web01");
        if let Some(first) = there.first() {
            pair.there(&["forget", &format!("web01@{first}"), "--wait", "30s"]);
            pair.there(&["forget", "web01", "--compact", "--wait", "30s"]);
        }
        pair.there_ok(&["check"]);
    }
    child.wait().unwrap();
    pair.copy(&["--again"]);
    pair.there_ok(&["verify"]);
    for (point, bytes) in &contents {
        if gone.contains(&point.as_str()) {
            continue;
        }
        let found = pair.restored_there(&format!("web01@{point}"));
        assert!(found == *bytes, "{point}");
    }
    // Those that arrived before the source has forgotten them stay at the target.
    for point in pair.points_there("web01") {
        assert!(pair.restored_there(&format!("web01@{point}")) == contents[&point]);
    }
}

/// A source beside the filesystem on which the target is.
fn source(filesystem: &Filesystem, megabytes: usize) -> Vec<u8> {
    let place = &filesystem.place;
    let bytes = noise(5, megabytes << 20);
    place.ok(&["init", "from"]);
    std::fs::write(place.path("a.raw"), &bytes).unwrap();
    place.ok(&[
        "-r",
        "./from",
        "backup",
        "web01",
        "vda=a.raw",
        "--point",
        "one",
    ]);
    bytes
}

fn meets_bad_filesystems(kind: &'static str) {
    let Some(filesystem) = Filesystem::new(kind, 320) else {
        return;
    };
    let place = &filesystem.place;
    let bytes = source(&filesystem, 24);
    let copy = ["-r", "./from", "copy", "web01", "--to", "./repo"];
    filesystem.fill(8 << 20);
    let said = place.fails(1, &copy);
    assert!(said.contains("there is no space for web01@one"), "{said}");
    filesystem.make_room();
    // Others fill it meanwhile.
    let mut slow = copy.to_vec();
    slow.extend(["--limit", "8M"]);
    let child = place.command(&slow).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    filesystem.fill(0);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        !output.status.success() && said.contains("no space"),
        "{said}"
    );
    assert!(!place.repo().join("vms/web01/points/one").exists());
    filesystem.make_room();
    place.ok(&["check"]);
    filesystem.remount("ro");
    place.fails(1, &copy);
    filesystem.remount("rw");
    let mut child = place.command(&slow).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_200));
    filesystem.shut_down();
    assert!(!child.wait().unwrap().success());
    filesystem.unmount();
    filesystem.mount();
    place.ok(&["check"]);
    place.ok(&copy);
    assert!(place.restored("web01@one", "vda") == bytes);
    place.ok(&["verify"]);
}

#[test]
fn targets_that_are_full_or_read_only_or_shut_down_xfs() {
    meets_bad_filesystems("xfs");
}

#[test]
fn targets_that_are_full_or_read_only_or_shut_down_ext4() {
    meets_bad_filesystems("ext4");
}
