//! Full, read-only and missing filesystems under the real daemon: sessions survive, and committed points are right.

use std::sync::Arc;

use restorefs::block::{ReadAt, WriteAt};
use restorefs::clock::SystemClock;
use restorefs::error::ErrorKind;
use restorefs::nbd::client::Client;
use restorefs::repo::{Owner, Repository};
use restorefs::types::{PointName, VmName};

use crate::filesystem::Filesystem;
use crate::kit::place::{Daemon, Place};

const MIB: u64 = 1 << 20;

fn content(megabytes: usize, seed: u8) -> Vec<u8> {
    (0..megabytes << 20)
        .map(|n: usize| ((n >> 9) as u8) ^ ((n >> 17) as u8).wrapping_mul(31) ^ seed)
        .collect()
}

fn connect(daemon: &Daemon, export: &str) -> Client {
    Client::connect(&daemon.uri(export).parse().unwrap()).unwrap()
}

/// Writes all of `bytes` in steps; answers how the first step that failed did.
fn write(client: &Client, bytes: &[u8]) -> Result<(), (u64, ErrorKind)> {
    for (at, step) in (0..).step_by(MIB as usize).zip(bytes.chunks(MIB as usize)) {
        client.write_at(at, step).map_err(|e| (at, e.kind()))?;
    }
    Ok(())
}

fn reserve(place: &Place) -> std::path::PathBuf {
    place.repo().join("cache/reserve")
}

fn meets_a_full_filesystem(kind: &'static str, megabytes: u64) {
    let Some(filesystem) = Filesystem::new(kind, megabytes) else {
        return;
    };
    let place = &filesystem.place;
    let first = place.disk("a.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "db01", "vda=48M"]);
    let session = format!("db01/{}", begun["session"].as_str().unwrap());
    let bytes = content(48, 3);
    let client = connect(&daemon, &format!("{session}/vda"));
    client.write_at(0, &bytes[..MIB as usize]).unwrap();
    client.flush().unwrap();
    filesystem.fill(2 * MIB);
    // Others are told before they begin.
    let said = place.fails(1, &["begin", "web02", "vda=1M"]);
    let (free, mark) = ("are free", "--low-water");
    assert!(said.contains(free) && said.contains(mark), "{said}");
    assert!(!place.repo().join("vms/web02").exists());
    place.fails(1, &["backup", "web01", "vda=a.raw", "--point", "two"]);

    let (at, kind) = write(&client, &bytes).unwrap_err();
    assert_eq!(kind, ErrorKind::NoSpace, "at {at}");
    assert!(at >= MIB, "at {at}");
    // A goodbye, as QEMU's programs say it also then.
    client.disconnect().unwrap();
    // The session is open, and cannot be committed by mistake.
    let said = place.fails(1, &["commit", &session]);
    assert!(said.contains("could not be written"), "{said}");
    let shown = place.json(&["sessions"]);
    assert_eq!(shown[0]["live"], true, "{shown}");
    assert_eq!(place.restored("web01@one", "vda"), first);
    filesystem.make_room();
    let client = connect(&daemon, &format!("{session}/vda"));
    write(&client, &bytes).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    // A commit that meets a full filesystem fails, and can be repeated.
    filesystem.fill(0);
    let said = place.run(&["commit", &session]);
    filesystem.make_room();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.to_lowercase().contains("no space"), "{said}");
    place.ok(&["commit", &session]);
    assert!(place.restored("db01@latest", "vda") == bytes);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    daemon.stop();
    // Three points, and the two that were refused before they began.
    let jobs = place.json(&["jobs"]);
    let jobs = jobs.as_array().unwrap().iter();
    assert_eq!(jobs.filter(|job| job["kind"] == "ingest").count(), 5);
}

#[test]
fn a_stream_that_meets_a_full_ext4_goes_on_once_there_is_room() {
    meets_a_full_filesystem("ext4", 160);
}

#[test]
fn a_stream_that_meets_a_full_xfs_goes_on_once_there_is_room() {
    meets_a_full_filesystem("xfs", 300);
}

/// The program has no command for it yet: the mounted tree calls the same.
fn forgets_a_point_where_nothing_is_free(kind: &'static str) {
    let Some(filesystem) = Filesystem::new(kind, 300) else {
        return;
    };
    let place = &filesystem.place;
    let first = place.disk("a.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.disk("b.raw", 300, 2);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "two"]);
    filesystem.fill(0);
    let vm = VmName::new("web01").unwrap();
    let repository = Arc::new(Repository::open(&place.repo()).unwrap());
    let owner = Owner::open(repository, Arc::new(SystemClock), "test").unwrap();
    let name = PointName::new("two").unwrap();
    let done = owner.forget_points(&vm, &[name]).unwrap();
    assert!(done.kept.is_empty(), "{:?}", done.kept);
    let index = owner.repository().stored_index(&vm).unwrap();
    assert_eq!(index.points.len(), 1, "the index was not written");
    drop(owner);
    assert_eq!(place.restored("web01@latest", "vda"), first);
    filesystem.make_room();
}

#[test]
fn on_a_full_ext4_a_point_can_be_forgotten() {
    forgets_a_point_where_nothing_is_free("ext4");
}

#[test]
fn on_a_full_xfs_a_point_can_be_forgotten() {
    forgets_a_point_where_nothing_is_free("xfs");
}

fn ends_sessions_where_nothing_is_free(kind: &'static str) {
    let Some(filesystem) = Filesystem::new(kind, 300) else {
        return;
    };
    let place = &filesystem.place;
    for daemon in [true, false] {
        let running = place.serve(&[]);
        assert!(reserve(place).exists());
        let begun = place.json(&["begin", "db01", "vda=32M"]);
        let session = format!("db01/{}", begun["session"].as_str().unwrap());
        let client = connect(&running, &format!("{session}/vda"));
        write(&client, &content(32, 1)).unwrap();
        client.flush().unwrap();
        drop(client);
        if daemon {
            filesystem.fill(0);
            place.ok(&["abort", &session]);
            running.stop();
        } else {
            running.stop();
            filesystem.fill(0);
            place.ok(&["abort", &session]);
        }
        let layers = place.repo().join("vms/db01/layers");
        assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0);
        assert_eq!(place.json(&["jobs"])[0]["result"], "aborted");
        filesystem.make_room();
    }
    // There is room again, and some of it is the reserve.
    place.serve(&[]).stop();
    assert!(reserve(place).exists());
}

#[test]
fn on_a_full_ext4_a_session_can_be_ended() {
    ends_sessions_where_nothing_is_free("ext4");
}

#[test]
fn on_a_full_xfs_a_session_can_be_ended() {
    ends_sessions_where_nothing_is_free("xfs");
}

#[test]
fn the_space_of_a_session_that_expired_is_free_although_a_client_is_connected() {
    let Some(filesystem) = Filesystem::new("ext4", 300) else {
        return;
    };
    let place = &filesystem.place;
    let daemon = place.serve(&[]);
    let free = || {
        let stat = rustix::fs::statvfs(place.repo()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let before = free();
    let begun = place.json(&["begin", "db01", "vda=32M", "--ttl", "2s"]);
    let session = format!("db01/{}", begun["session"].as_str().unwrap());
    let client = connect(&daemon, &format!("{session}/vda"));
    write(&client, &content(32, 1)).unwrap();
    client.flush().unwrap();
    assert!(free() + 30 * MIB < before);
    let waited = std::time::Instant::now();
    while free() + 2 * MIB < before {
        assert!(waited.elapsed().as_secs() < 90, "its space is not free");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Nothing is made up for who still reads, and nothing is taken.
    let mut found = vec![0; 65_536];
    assert!(client.read_at(0, &mut found).is_err());
    assert!(client.write_at(0, &found).is_err());
    // The history has it a moment after the space is free.
    while place.json(&["jobs"]).as_array().unwrap().is_empty() {
        assert!(waited.elapsed().as_secs() < 60, "no line");
    }
    assert_eq!(place.json(&["jobs"])[0]["result"], "expired");
    daemon.stop();
}

#[test]
fn a_read_only_filesystem_is_said_and_the_session_goes_on_afterwards() {
    let Some(filesystem) = Filesystem::new("ext4", 160) else {
        return;
    };
    let place = &filesystem.place;
    place.disk("a.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "db01", "vda=8M"]);
    let session = format!("db01/{}", begun["session"].as_str().unwrap());
    let bytes = content(8, 9);
    let client = connect(&daemon, &format!("{session}/vda"));
    write(&client, &bytes[..4 * MIB as usize]).unwrap();
    client.flush().unwrap();
    daemon.kill();
    drop(client);
    filesystem.remount("ro");
    for refused in [
        &["backup", "web01", "vda=a.raw"][..],
        &["serve"],
        &["abort", &session],
        &["forget", "web01", "--keep-last", "1"],
        &["forget", "web01@one"],
        &["tag", "web01@one", "a=b"],
        &["keep", "web01@one"],
        &["trash", "--empty"],
    ] {
        let said = place.fails(1, refused);
        assert!(said.contains("ead-only"), "{refused:?}: {said}");
    }
    // Reading goes on.
    assert_eq!(place.json(&["sessions"])[0]["live"], false);
    place.ok(&["ls", "web01@one"]);
    place.ok(&["forget", "web01", "--keep-last", "1", "--dry-run"]);
    place.ok(&["trash"]);
    filesystem.remount("rw");
    let daemon = place.serve(&[]);
    let client = connect(&daemon, &format!("{session}/vda"));
    let mut found = vec![0; 4 * MIB as usize];
    client.read_at(0, &mut found).unwrap();
    assert!(found == bytes[..4 * MIB as usize]);
    client
        .write_at(4 * MIB, &bytes[4 * MIB as usize..])
        .unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    place.ok(&["commit", &session]);
    assert!(place.restored("db01@latest", "vda") == bytes);
    daemon.stop();
}

#[test]
fn a_filesystem_that_shuts_down_under_the_daemon_leaves_nothing_half_committed() {
    let Some(filesystem) = Filesystem::new("xfs", 300) else {
        return;
    };
    let place = &filesystem.place;
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "db01", "vda=8M", "--point", "one"]);
    let session = format!("db01/{}", begun["session"].as_str().unwrap());
    let bytes = content(8, 9);
    let client = connect(&daemon, &format!("{session}/vda"));
    write(&client, &bytes).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    let client = connect(&daemon, &format!("{session}/vda"));
    filesystem.shut_down();
    let error = client.write_at(0, &[1; 4096]).and_then(|()| client.flush());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Io);
    drop(client);
    place.run(&["commit", &session]);
    assert!(!place.run(&["commit", &session]).status.success());
    daemon.kill();
    filesystem.unmount();
    filesystem.mount();
    assert!(
        place.json(&["ls", "db01"])["points"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    let daemon = place.serve(&[]);
    let client = connect(&daemon, &format!("{session}/vda"));
    let mut found = vec![0; bytes.len()];
    client.read_at(0, &mut found).unwrap();
    assert!(found == bytes);
    write(&client, &bytes[..MIB as usize]).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    place.ok(&["commit", &session]);
    assert!(place.restored("db01@one", "vda") == bytes);
    daemon.stop();
}

#[test]
fn the_mark_is_what_the_command_says() {
    let place = Place::new();
    place.disk("a.raw", 3, 1);
    let said = place.fails(1, &["backup", "web01", "vda=a.raw", "--low-water", "500T"]);
    assert!(said.contains("of which 500 TiB are to stay free"), "{said}");
    assert!(!place.repo().join("vms/web01").exists());
    place.fails(2, &["backup", "web01", "vda=a.raw", "--low-water", "much"]);
    place.ok(&["backup", "web01", "vda=a.raw", "--low-water", "0"]);
    let daemon = place.serve(&["--low-water", "500T"]);
    let said = place.fails(1, &["begin", "web01"]);
    assert!(said.contains("restorefs abort"), "{said}");
    // What a backup says counts for it alone.
    place.ok(&["backup", "web01", "vda=a.raw", "--low-water", "1M"]);
    daemon.stop();
}

#[test]
fn a_first_backup_that_cannot_fit_is_refused_before_it_begins() {
    let Some(filesystem) = Filesystem::new("ext4", 160) else {
        return;
    };
    let place = &filesystem.place;
    let bytes = content(200, 5);
    std::fs::write(place.path("full.raw"), &bytes).unwrap();
    let refused = |source: &str| {
        let said = place.fails(1, &["backup", "web01", source]);
        assert!(
            said.contains("about 200") && said.contains("--no-room-check"),
            "{said}"
        );
        assert!(!place.repo().join("vms/web01").exists());
    };
    refused("vda=full.raw");
    crate::tool::ok(
        place,
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "full.raw",
            "full.qcow2",
        ],
    );
    refused("vda=full.qcow2");
    let export = crate::tool::QemuNbd::start(place, "qcow2", "full.qcow2", &["-r"]);
    refused(&format!("vda={}", export.uri));
    let daemon = place.serve(&[]);
    refused("vda=full.raw");
    daemon.stop();
    // A large disk with little data fits; so does one more of it.
    let sparse = std::fs::File::create(place.path("sparse.raw")).unwrap();
    sparse.set_len(4 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &bytes[..8 << 20], 1 << 30).unwrap();
    drop(sparse);
    place.ok(&["backup", "db01", "vda=sparse.raw"]);
    // Whoever knows better: these bytes are all alike and compress to nothing.
    std::fs::write(place.path("plain.raw"), vec![7; 200 << 20]).unwrap();
    place.fails(
        1,
        &["backup", "web02", "vda=plain.raw", "--compress", "zstd"],
    );
    place.ok(&[
        "backup",
        "web02",
        "vda=plain.raw",
        "--compress",
        "zstd",
        "--no-room-check",
    ]);
    // And who does not meets the full filesystem, and leaves nothing.
    let said = place.fails(1, &["backup", "web03", "vda=full.raw", "--no-room-check"]);
    assert!(said.to_lowercase().contains("no space"), "{said}");
}

/// A source that reports nothing may fit: there is a warning.
#[test]
fn a_source_that_reports_nothing_is_begun_with_a_warning() {
    let Some(filesystem) = Filesystem::new("ext4", 160) else {
        return;
    };
    let place = &filesystem.place;
    let bytes = content(1, 5);
    let large = std::fs::File::create(place.path("large.raw")).unwrap();
    large.set_len(400 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, &bytes, 0).unwrap();
    drop(large);
    // A block device has no holes to report.
    let device = crate::tool::Loop::attach(place, "large.raw", &[]);
    let output = place.run(&["backup", "web01", &format!("vda=raw:{}", device.device)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("may not fit"), "{said}");
}

/// Not a byte is free: the reserve pays for what frees space.
fn space_is_made_on_a_full_filesystem(kind: &'static str, megabytes: u64) {
    let Some(filesystem) = Filesystem::new(kind, megabytes) else {
        return;
    };
    let place = &filesystem.place;
    for (seed, point) in (1..).zip(["one", "two", "three", "four"]) {
        place.disk("a.raw", 60, seed);
        place.ok(&["backup", "web01", "vda=a.raw", "--point", point, "--full"]);
    }
    let content = std::fs::read(place.path("a.raw")).unwrap();
    filesystem.fill(0);
    place.ok(&["keep", "web01@two"]);
    place.ok(&["forget", "web01", "--keep-last", "1"]);
    let listed = place.json(&["ls", "web01"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().collect();
    assert_eq!(
        (&names[0]["name"], &names[1]["name"]),
        (&"two".into(), &"four".into())
    );
    assert_eq!(names.len(), 2);
    filesystem.fill(0);
    let emptied = place.json(&["trash", "--empty"]);
    let freed = emptied["freed_bytes"].as_u64().unwrap();
    assert!(freed > 2 * 40 * 65_536, "{freed}");
    assert_eq!(place.json(&["trash"]).as_array().unwrap().len(), 0);
    assert!(place.restored("web01@four", "vda") == content);
    // It is space that the next backup has.
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "--point",
        "five",
        "--full",
        "--no-room-check",
    ]);
}

#[test]
fn space_is_made_on_a_full_ext4() {
    space_is_made_on_a_full_filesystem("ext4", 96);
}

#[test]
fn space_is_made_on_a_full_xfs() {
    space_is_made_on_a_full_filesystem("xfs", 320);
}
