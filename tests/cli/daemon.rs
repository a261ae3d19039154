//! The daemon: sessions over NBD, the mounted tree that follows, backups through it, resuming after kill -9.

use std::process::Command;

use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;

#[test]
fn a_session_from_begin_to_commit_with_the_mounted_tree_following() {
    if !has("nbdcopy") || !can_mount() {
        return;
    }
    let place = Place::new();
    let one = place.disk("one.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=one.raw", "--point", "one"]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let daemon = place.serve(&["--mount", "mnt"]);
    let link = place.path("mnt/web01/latest");
    assert_eq!(std::fs::read_link(&link).unwrap().to_str(), Some("one"));
    let begun = place.json(&["begin", "web01", "--point", "two"]);
    let session = begun["session"].as_str().unwrap().to_owned();
    let disk = &begun["disk_results"][0];
    assert_eq!(disk["size_bytes"].as_u64(), Some(one.len() as u64));
    assert_eq!(
        begun["nbd_targets_string"].as_str().unwrap(),
        format!("vda:{}", disk["uri"].as_str().unwrap())
    );
    let said = place.fails(2, &["commit", &format!("web01/{session}")]);
    assert!(said.contains("neither finished nor declared"), "{said}");
    let two = place.disk("two.raw", 20, 2);
    let copied = Command::new("nbdcopy")
        .arg(place.path("two.raw"))
        .arg(disk["uri"].as_str().unwrap())
        .status()
        .unwrap();
    assert!(copied.success());
    assert_eq!(place.json(&["sessions"])[0]["disks"][0]["finished"], true);
    place.ok(&["commit", &format!("web01/{session}")]);
    // At once, without remounting.
    assert_eq!(std::fs::read_link(&link).unwrap().to_str(), Some("two"));
    assert_eq!(
        std::fs::read(place.path("mnt/web01/latest/disks/vda.raw")).unwrap(),
        two
    );
    assert_eq!(
        std::fs::read(place.path("mnt/web01/one/disks/vda.raw")).unwrap(),
        one
    );
    // A backup goes through the daemon.
    let three = place.disk("three.raw", 20, 3);
    std::fs::write(place.path("note.txt"), "by the way").unwrap();
    place.ok(&[
        "backup",
        "web01",
        "vda=three.raw",
        "--point",
        "three",
        "--attach",
        "note.txt",
    ]);
    assert_eq!(std::fs::read_link(&link).unwrap().to_str(), Some("three"));
    assert_eq!(
        std::fs::read(place.path("mnt/web01/three/disks/vda.raw")).unwrap(),
        three
    );
    assert_eq!(
        std::fs::read(place.path("mnt/web01/three/attached/note.txt")).unwrap(),
        b"by the way"
    );
    daemon.stop();
    assert!(!link.exists(), "the mount is gone");
}

#[test]
fn two_disks_one_point() {
    if !has("nbdcopy") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "db01", "vda=1M", "vdb=2M"]);
    let session = begun["session"].as_str().unwrap().to_owned();
    let vda = place.disk("a.raw", 16, 5);
    place.disk("b.raw", 32, 6);
    let copy = |file: &str, uri: &str| {
        assert!(
            Command::new("nbdcopy")
                .arg(place.path(file))
                .arg(uri)
                .status()
                .unwrap()
                .success()
        )
    };
    copy("a.raw", begun["disk_results"][0]["uri"].as_str().unwrap());
    let said = place.fails(2, &["commit", &format!("db01/{session}")]);
    assert!(said.contains("vdb"), "{said}");
    // One session for each VM.
    let said = place.fails(1, &["begin", "db01"]);
    assert!(said.contains("open session"), "{said}");
    copy("b.raw", begun["disk_results"][1]["uri"].as_str().unwrap());
    place.ok(&["commit", &format!("db01/{session}")]);
    assert_eq!(place.restored("db01@latest", "vda"), vda);
    daemon.stop();
}

#[test]
fn what_was_flushed_survives_kill_9_of_the_daemon() {
    use restorefs::block::{ReadAt, WriteAt};
    use restorefs::nbd::client::Client;

    let place = Place::new();
    place.disk("one.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=one.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01"]);
    let session = begun["session"].as_str().unwrap().to_owned();
    let export = format!("web01/{session}/vda");
    let client = Client::connect(&daemon.uri(&export).parse().unwrap()).unwrap();
    client.write_at(0, &[0x5a; 200_000]).unwrap();
    client.flush().unwrap();
    client.write_at(400_000, &[0x11; 512]).unwrap();
    daemon.kill();
    drop(client);
    let said = place.ok(&["sessions"]);
    assert!(said.contains("suspended"), "{said}");
    let daemon = place.serve(&[]);
    let client = Client::connect(&daemon.uri(&export).parse().unwrap()).unwrap();
    let mut found = vec![0; 200_000];
    client.read_at(0, &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 0x5a));
    client.write_at(0, &[0x5b; 512]).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    place.ok(&["commit", &format!("web01/{session}")]);
    let restored = place.restored("web01@latest", "vda");
    assert!(restored[..512].iter().all(|byte| *byte == 0x5b));
    assert!(restored[512..200_000].iter().all(|byte| *byte == 0x5a));
    daemon.stop();
    // Without a daemon a session can be listed and aborted.
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01"]);
    daemon.stop();
    let session = begun["session"].as_str().unwrap();
    assert_eq!(place.json(&["sessions"])[0]["live"], false);
    place.ok(&["abort", &format!("web01/{session}")]);
    assert_eq!(place.json(&["sessions"]), serde_json::json!([]));
}

#[test]
fn a_daemon_owns_the_repository_alone() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let said = place.fails(11, &["serve", "--nbd", "other.sock"]);
    assert!(said.contains("restorefs serve"), "{said}");
    let long = "x".repeat(120);
    drop(daemon);
    let said = place.fails(2, &["serve", "--nbd", &long]);
    assert!(said.contains("107"), "{said}");
    let said = place.fails(2, &["serve", "-o", "allow_other"]);
    assert!(said.contains("--mount"), "{said}");
}

#[test]
fn mount_and_umount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let disk = place.disk("a.raw", 8, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    place.ok(&["mount", "mnt"]);
    assert_eq!(
        std::fs::read(place.path("mnt/web01/latest/disks/vda.raw")).unwrap(),
        disk
    );
    let error = std::fs::write(place.path("mnt/web01/x"), b"").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(30));
    place.ok(&["umount", "mnt"]);
    assert!(!place.path("mnt/web01").exists());
    let said = place.fails(2, &["umount", "mnt"]);
    assert!(said.contains("no repository is mounted"), "{said}");
    std::fs::create_dir(place.path("repo/mnt")).unwrap();
    let said = place.fails(2, &["mount", "repo/mnt"]);
    assert!(said.contains("lies in the repository"), "{said}");
    let said = place.fails(2, &["mount", ".", "-o", "ro"]);
    assert!(said.contains("hide the repository"), "{said}");
    let said = place.fails(2, &["mount", "mnt", "-o", "frobnicate"]);
    assert!(said.contains("frobnicate"), "{said}");
    place.fails(1, &["mount", "nowhere"]);
}

#[test]
fn a_foreground_mount_ends_cleanly_on_sigint_and_sigterm() {
    use rustix::process::Signal;
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.disk("a.raw", 3, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = place
            .command(&["mount", "--foreground", "mnt"])
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        while !place.path("mnt/web01").exists() {
            assert!(begun.elapsed().as_secs() < 60, "the mount does not come up");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert!(child.wait().unwrap().success(), "{signal:?}");
        assert!(!place.path("mnt/web01").exists());
    }
}

#[test]
fn a_mount_follows_commits_of_another_process_and_kill_9_does_not_stop_the_next() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.disk("a.raw", 3, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let mut child = place
        .command(&["mount", "--foreground", "mnt"])
        .spawn()
        .unwrap();
    let link = place.path("mnt/web01/latest");
    let wait_for = |name: &str| {
        let begun = std::time::Instant::now();
        while std::fs::read_link(&link)
            .ok()
            .and_then(|l| l.to_str().map(str::to_owned))
            .as_deref()
            != Some(name)
        {
            assert!(begun.elapsed().as_secs() < 60, "{name} does not show up");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    wait_for("one");
    let two = place.disk("b.raw", 3, 2);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "two"]);
    wait_for("two");
    assert_eq!(
        std::fs::read(place.path("mnt/web01/latest/disks/vda.raw")).unwrap(),
        two
    );
    child.kill().unwrap();
    child.wait().unwrap();
    place.ok(&["mount", "mnt"]);
    wait_for("two");
    place.ok(&["umount", "mnt"]);
}
