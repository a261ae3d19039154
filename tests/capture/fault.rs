//! Faults in the middle of a backup. After each of them the guest goes on, nothing of ours is left in QEMU, and the next backup is right.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::chance::Chance;
use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::qemu::{Qemu, RELEASES, Release, compare};
use crate::tracking::{backup, of};

/// Kills of each release; `RESTOREFS_KILLS` are more.
const KILLS: usize = 6;

pub(crate) fn scene(release: Release) -> Option<(Place, Qemu)> {
    if !release.is_here() || !has("qemu-img") {
        return None;
    }
    let place = Place::new();
    let mut qemu = Qemu::of_two(&place, release);
    qemu.write("vda", 1, 0, 6 << 20);
    qemu.write("vdb", 2, 0, 1 << 20);
    // The firmware finds nothing to boot, and waits.
    qemu.ask("cont", json!({})).unwrap();
    Some((place, qemu))
}

pub(crate) fn is_running(qemu: &mut Qemu) -> bool {
    qemu.ask("query-status", json!({})).unwrap()["running"] == true
}

/// A backup in the background that takes some seconds.
pub(crate) fn slow(place: &Place, qemu: &Qemu, more: &[&str]) -> Child {
    let socket = qemu.socket();
    let mut args = vec!["backup", "web01", "--qmp", &socket, "--limit", "2M"];
    args.extend(more);
    let mut command = place.command(&args);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the copy reads.
pub(crate) fn is_copying(qemu: &mut Qemu) {
    eventually("the copy has begun", || {
        let exports = qemu.ask("query-block-exports", json!({})).unwrap();
        exports.as_array().unwrap().len() == 2
    });
    std::thread::sleep(Duration::from_millis(200));
}

#[track_caller]
fn failed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn kill_9_at_random_instants() {
    let kills = std::env::var("RESTOREFS_KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    let kills: usize = kills.map_or(KILLS, |kills: usize| (kills / 50).max(1));
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "first", &[]);
        let mut chance = Chance(0x6b11 + kills as u64);
        for round in 0..kills {
            qemu.write(
                "vda",
                (round % 200 + 3) as u8,
                chance.below(200) << 16,
                65_536,
            );
            let socket = qemu.socket();
            let mut child = place
                .command(&["backup", "web01", "--qmp", &socket])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(chance.below(450) as u64));
            let _ = child.kill();
            child.wait().unwrap();
            let since = Instant::now();
            eventually("the guest goes on", || is_running(&mut qemu));
            assert!(
                since.elapsed() < Duration::from_secs(15),
                "{:?}",
                since.elapsed()
            );
            qemu.write("vda", (round % 200 + 4) as u8, chance.below(200) << 16, 512);
            // The guard of the killed backup may still have the monitor.
            let point = format!("p{round}");
            backup(&place, &qemu, &point, &[]);
            compare(&place, &format!("web01@{point}"), &qemu.disks);
            qemu.is_clean(2);
            assert!(is_running(&mut qemu));
        }
    }
}

/// abbbi/virtnbdbackup#145, #147: QEMU ends in the middle; the next backup has all changes.
#[test]
fn qemu_ends_in_the_middle() {
    for release in RELEASES {
        for in_order in [true, false] {
            let Some((place, mut qemu)) = scene(release) else {
                continue;
            };
            backup(&place, &qemu, "one", &[]);
            qemu.write("vda", 9, 0, 5 << 20);
            let child = slow(&place, &qemu, &[]);
            is_copying(&mut qemu);
            qemu.write("vda", 10, 7 << 20, 512);
            match in_order {
                true => qemu.quit(),
                false => qemu.kill(),
            }
            let said = failed(child);
            assert!(!said.contains("committed"), "{said}");
            assert_eq!(place.json(&["sessions"]).as_array().unwrap().len(), 0);
            qemu.again();
            backup(&place, &qemu, "two", &[]);
            compare(&place, "web01@two", &qemu.disks);
            qemu.is_clean(2);
        }
    }
}

/// A monitor that says nothing, nonsense, nothing more, or that somebody else holds.
#[test]
fn a_monitor_that_is_none() {
    let Some((place, mut qemu)) = scene(Release::New) else {
        return;
    };
    for (name, words) in [
        ("silent", &b""[..]),
        ("garbage", b"\x00\xff garbage\n"),
        ("json", b"{\"hello\": 1}\n"),
        ("endless", b"{\"QMP\": {}}\n{\"event\": \"X\"}\n"),
    ] {
        let path = place.path(name);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(words);
                held.push(stream);
            }
        });
        if name == "endless" {
            continue;
        }
        let begun = Instant::now();
        let said = place.fails(1, &["backup", "web01", "--qmp", path.to_str().unwrap()]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    let closed = place.path("closed");
    drop(UnixListener::bind(&closed).unwrap());
    place.fails(1, &["backup", "web01", "--qmp", closed.to_str().unwrap()]);
    place.fails(
        1,
        &[
            "backup",
            "web01",
            "--qmp",
            place.path("none").to_str().unwrap(),
        ],
    );
    let socket = qemu.socket();
    let held = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let said = place.fails(1, &["backup", "web01", "--qmp", &socket]);
    assert!(said.contains("serves one client at a time"), "{said}");
    drop(held);
    backup(&place, &qemu, "one", &[]);
    qemu.is_clean(2);
}

/// A tmpfs of some size, unmounted with this value.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn new(place: &Place, name: &str, size: &str) -> Self {
        let path = place.path(name);
        std::fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success());
        Self(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// There is no room for what the guest overwrites: its write succeeds, and the backup fails or is refused.
#[test]
fn scratch_without_room_harms_no_guest() {
    if !can_mount() {
        return;
    }
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let tmpfs = Tmpfs::new(&place, "scratch", "1m");
        let scratch = tmpfs.0.display().to_string();
        let child = slow(&place, &qemu, &["--scratch", &scratch]);
        if release == Release::New {
            is_copying(&mut qemu);
            qemu.write("vda", 5, 0, 3 << 20);
            let said = failed(child);
            assert!(
                said.contains("snapshot") || said.contains("INVAL"),
                "{said}"
            );
        } else {
            let said = failed(child);
            assert!(
                said.contains("--scratch") && said.contains("room"),
                "{said}"
            );
        }
        drop(tmpfs);
        backup(&place, &qemu, "one", &[]);
        compare(&place, "web01@one", &qemu.disks);
        qemu.is_clean(2);
    }
}

#[test]
fn a_full_repository_keeps_the_old_bitmap() {
    if !can_mount() {
        return;
    }
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let other = Place::without_repository();
        let tmpfs = Tmpfs::new(&other, "repo", "14m");
        other.ok(&["init"]);
        let back = |point: &str, qemu: &Qemu| {
            let socket = qemu.socket();
            let args = [
                "backup",
                "web01",
                "--qmp",
                &socket,
                "--point",
                point,
                "--low-water",
                "1",
                "--no-room-check",
                "--json",
            ];
            other.run(&args)
        };
        assert!(back("one", &qemu).status.success());
        let noise = crate::kit::noise::noise(3, 1 << 20);
        std::fs::write(place.path("noise"), &noise).unwrap();
        let file = place.path("noise").display().to_string();
        for mib in 0..12 {
            qemu.device("vda", &format!("write -s {file} {mib}M 1M"));
            qemu.disks[0].bytes[mib << 20..(mib + 1) << 20].copy_from_slice(&noise);
        }
        let full = back("two", &qemu);
        let said = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{said}");
        let grown = Command::new("mount")
            .args(["-o", "remount,size=200m"])
            .arg(&tmpfs.0)
            .status();
        assert!(grown.unwrap().success());
        qemu.is_clean(2);
        let next = back("two", &qemu);
        let report: serde_json::Value = serde_json::from_slice(&next.stdout).unwrap();
        assert_eq!(of(&report, "vda")["changed_bytes"], 12 << 20, "{report}");
        compare(&other, "web01@two", &qemu.disks);
        drop(tmpfs);
    }
}

#[test]
fn two_backups_at_once() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let socket = qemu.socket();
        let first = place
            .command(&[
                "backup", "web01", "--qmp", &socket, "--point", "one", "--limit", "800K",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        is_copying(&mut qemu);
        let socket = qemu.socket();
        let said = place.fails(1, &["backup", "web01", "--qmp", &socket]);
        assert!(said.contains("serves one client at a time"), "{said}");
        let before = qemu.disks.clone();
        qemu.write("vda", 200, 0, 6 << 20);
        assert!(first.wait_with_output().unwrap().status.success());
        compare(&place, "web01@one", &before);
        qemu.is_clean(2);
        backup(&place, &qemu, "two", &[]);
        compare(&place, "web01@two", &qemu.disks);
    }
}

/// QEMU's only NBD server runs for somebody else: it is used, and goes on.
#[test]
fn an_nbd_server_of_somebody_else_is_used_and_not_stopped() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let path = place.path("theirs.sock").display().to_string();
        let address = json!({"type": "unix", "data": {"path": path}});
        qemu.ask("nbd-server-start", json!({"addr": address}))
            .unwrap();
        backup(&place, &qemu, "one", &[]);
        qemu.write("vda", 4, 0, 512);
        let (two, _) = backup(&place, &qemu, "two", &[]);
        assert_eq!(of(&two, "vda")["changed_bytes"], 65_536);
        compare(&place, "web01@two", &qemu.disks);
        qemu.ask("nbd-server-stop", json!({})).unwrap();
        qemu.is_clean(2);
    }
}
