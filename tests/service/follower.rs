//! `restorefs mount --nbd`: points as block devices from a process without the lock, while another one writes.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use restorefs::block::{ReadAt, WriteAt};
use restorefs::error::Result;
use restorefs::nbd::client::{Client, list};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;
use crate::kit::wait::eventually;

/// A place with a mountpoint `mnt`, and a follower with the socket `points.sock`.
struct Stage {
    place: Place,
}

/// A follower in the foreground; its mount is taken away when it is dropped.
struct Follower {
    child: Child,
    mountpoint: PathBuf,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = rustix::mount::unmount(&self.mountpoint, rustix::mount::UnmountFlags::DETACH);
    }
}

impl Follower {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; answers its exit code.
    fn end(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the end of the follower", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

/// A process in the background ends with its mount.
impl Drop for Stage {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.place.path("mnt"), rustix::mount::UnmountFlags::DETACH);
    }
}

impl Stage {
    fn new() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let place = Place::new();
        std::fs::create_dir(place.path("mnt")).unwrap();
        Some(Self { place })
    }

    fn socket(&self) -> PathBuf {
        self.place.path("points.sock")
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    fn connect(&self, export: &str) -> Result<Client> {
        Client::connect(&self.uri(export).parse().unwrap())
    }

    fn read(&self, export: &str) -> Vec<u8> {
        read(&self.connect(export).unwrap()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let all = list(&self.uri("").parse().unwrap()).unwrap();
        all.into_iter().map(|export| export.name).collect()
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(self.place.path("mnt").to_str().unwrap())
    }

    /// Starts one, and waits until it is there.
    fn follow(&self, more: &[&str]) -> Follower {
        let mut args = vec!["mount", "-f", "--nbd", "points.sock", "mnt"];
        args.extend_from_slice(more);
        let mut command = self.place.command(&args);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let follower = Follower {
            child,
            mountpoint: self.place.path("mnt"),
        };
        eventually("the follower", || {
            self.is_mounted() && list(&self.uri("").parse().unwrap()).is_ok()
        });
        follower
    }

    fn umount(&self) {
        self.place.ok(&["umount", "mnt"]);
    }
}

fn read(client: &Client) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(client.size_bytes()).unwrap()];
    client.read_at(0, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn points_are_read_while_another_process_has_the_lock() {
    let Some(stage) = Stage::new() else {
        return;
    };
    if !has("nbdinfo") {
        return;
    }
    let place = &stage.place;
    let one = place.disk("one.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=one.raw", "--point", "one"]);
    let daemon = place.serve(&[]);
    // In the background, as people do.
    place.ok(&["mount", "--nbd", "points.sock", "mnt"]);
    assert_eq!(stage.names(), ["web01/latest/vda", "web01/one/vda"]);
    assert!(stage.read("web01/latest/vda") == one);
    let connected = stage.connect("WEB01/one/VDA").unwrap();

    let mut two = one.clone();
    two[65_536..131_072].fill(0xaa);
    std::fs::write(place.path("two.raw"), &two).unwrap();
    place.ok(&["backup", "web01", "vda=two.raw", "--point", "two"]);
    eventually("the new point", || stage.names().len() == 3);
    assert_eq!(
        stage.names(),
        ["web01/latest/vda", "web01/two/vda", "web01/one/vda"]
    );
    assert!(stage.read("web01/latest/vda") == two);
    assert!(stage.read("web01/latest~1/vda") == one);
    assert!(stage.read("web01/two/vda") == place.restored("web01@two", "vda"));
    assert!(read(&connected).unwrap() == one);

    // Sessions are the daemon's alone.
    let begun = place.json(&["begin", "web01", "--session", "open"]);
    assert_eq!(begun["session"], "open");
    Client::connect(&daemon.uri("web01/open/vda").parse().unwrap()).unwrap();
    for absent in [
        "web01/open/vda",
        "web01/three/vda",
        "web01/one/vdb",
        "web01",
        "",
        "a/b/c/d",
    ] {
        assert!(stage.connect(absent).is_err(), "{absent}");
    }
    assert_eq!(stage.names().len(), 3);

    // Nothing is written, by whatever means.
    assert!(connected.write_at(0, &[1; 512]).is_err());
    place.fails(
        1,
        &["restore", "web01@two", "vda", &stage.uri("web01/one/vda")],
    );
    assert!(stage.read("web01/one/vda") == one);

    let map = |context: &str| {
        let map = format!("--map={context}");
        let uri = stage.uri("web01/two/vda");
        let run = std::process::Command::new("nbdinfo")
            .args([&map, &uri])
            .output();
        String::from_utf8(run.unwrap().stdout).unwrap()
    };
    let changed: Vec<_> = map("x-restorefs:changed-since:one")
        .lines()
        .map(|line| {
            line.split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(changed, ["0 65536 0", "65536 65536 1", "131072 1179648 0"]);
    assert!(map("base:allocation").contains("hole"));
    assert!(map("qemu:allocation-depth").contains("backing"));

    // A connection does not keep anybody from unmounting.
    stage.umount();
    eventually("the end of the socket", || !stage.socket().exists());
    assert!(connected.read_at(0, &mut [0; 512]).is_err());
    // And at once again, as scripts do.
    for _ in 0..3 {
        place.ok(&["mount", "--nbd", "points.sock", "mnt"]);
        stage.umount();
    }
    daemon.stop();
}

#[test]
fn only_the_vms_of_the_mount_are_exported() {
    let Some(stage) = Stage::new() else {
        return;
    };
    stage.place.disk("a.raw", 2, 1);
    for vm in ["web01", "web02", "db01"] {
        stage.place.ok(&["backup", vm, "vda=a.raw", "--point", "p"]);
    }
    let follower = stage.follow(&["-o", "vm=WEB*"]);
    assert_eq!(
        stage.names(),
        [
            "web01/latest/vda",
            "web01/p/vda",
            "web02/latest/vda",
            "web02/p/vda"
        ]
    );
    assert!(stage.connect("web02/p/vda").is_ok());
    assert!(stage.connect("db01/p/vda").is_err());
    assert!(stage.connect("DB01/latest/vda").is_err());
    drop(follower);
}

#[test]
fn the_socket_and_the_mount_come_together_or_not_at_all() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let place = &stage.place;
    let mount = |socket: &str, code| {
        let said = place.fails(code, &["mount", "--nbd", socket, "mnt"]);
        assert!(!stage.is_mounted(), "{socket}");
        said
    };
    let daemon = place.serve(&[]);
    assert!(mount("nbd.sock", 1).contains("another process listens"));
    assert!(daemon.socket.exists());
    daemon.stop();
    assert!(mount(&"x".repeat(108), 2).contains("107"));
    assert!(mount("mnt/points.sock", 2).contains("would hide the socket"));
    // Nor one that is named from there, by a process that stays in the foreground.
    let mut inside = place.command(&["mount", "-f", "--nbd", "points.sock", "."]);
    let said = inside.current_dir(place.path("mnt")).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("would hide the socket"));
    assert_eq!(said.status.code(), Some(2));
    std::fs::write(place.path("file"), "kept").unwrap();
    assert!(mount("file", 1).contains("no socket"));
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"kept");
    mount("none/points.sock", 1);
    std::fs::write(place.path("mnt/file"), "").unwrap();
    assert!(mount("points.sock", 1).contains("not empty"));
    assert!(!stage.socket().exists());
    std::fs::remove_file(place.path("mnt/file")).unwrap();

    // A socket and a mount whose process was killed are replaced.
    place.disk("a.raw", 2, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p"]);
    let mut follower = stage.follow(&[]);
    follower.child.kill().unwrap();
    follower.child.wait().unwrap();
    assert!(stage.socket().exists() && stage.is_mounted());
    place.ok(&["mount", "--nbd", "points.sock", "mnt"]);
    assert_eq!(stage.names().len(), 2);
    stage.umount();
    eventually("the end of the socket", || !stage.socket().exists());
}

#[test]
fn a_signal_ends_connections_at_once_and_waits_for_who_has_a_file_open() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let bytes = stage.place.disk("a.raw", 2, 1);
    let backup = ["backup", "web01", "vda=a.raw", "--point", "p"];
    stage.place.ok(&backup);
    // Nobody uses it.
    let mut follower = stage.follow(&[]);
    let connected = stage.connect("web01/p/vda").unwrap();
    follower.signal(Signal::TERM);
    assert_eq!(follower.end(), Some(0));
    assert!(!stage.socket().exists() && !stage.is_mounted());
    assert!(read(&connected).is_err());
    // Somebody does.
    for signals in [1, 2] {
        let mut follower = stage.follow(&[]);
        let connected = stage.connect("web01/p/vda").unwrap();
        let mut file = std::fs::File::open(stage.place.path("mnt/web01/p/disks/vda.raw")).unwrap();
        follower.signal(Signal::INT);
        eventually("the unmount", || {
            !stage.is_mounted() && !stage.socket().exists()
        });
        assert!(read(&connected).is_err());
        assert!(follower.child.try_wait().unwrap().is_none());
        if signals == 1 {
            let mut seen = Vec::new();
            file.read_to_end(&mut seen).unwrap();
            assert!(seen == bytes);
            drop(file);
            assert_eq!(follower.end(), Some(0));
        } else {
            follower.signal(Signal::INT);
            assert_eq!(follower.end(), Some(1));
        }
    }
}

#[test]
fn a_point_that_is_forgotten_is_read_on_by_who_has_it_open() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let place = &stage.place;
    let one = place.disk("one.raw", 20, 1);
    place.ok(&["backup", "web01", "vda=one.raw", "--point", "one"]);
    place.disk("two.raw", 20, 2);
    place.ok(&["backup", "web01", "vda=two.raw", "--point", "two", "--full"]);
    std::fs::create_dir(place.path("owner")).unwrap();
    let daemon = place.serve(&["--mount", "owner", "-o", "allow_forget"]);
    let follower = stage.follow(&[]);
    let connected = stage.connect("web01/one/vda").unwrap();
    std::fs::remove_dir(place.path("owner/web01/one")).unwrap();
    eventually("the forgetting", || stage.names().len() == 2);
    assert_eq!(stage.names(), ["web01/latest/vda", "web01/two/vda"]);
    assert!(stage.connect("web01/one/vda").is_err());
    assert!(read(&connected).unwrap() == one);
    drop((connected, follower));
    daemon.stop();
}

#[test]
fn what_makes_no_sense_with_a_socket_is_refused() {
    let place = Place::new();
    for args in [
        &["mount", "--config", "c", "--nbd", "s"][..],
        &["mount", "--nbd-idle", "1h", "mnt"],
        &["mount", "--nbd", "s"],
    ] {
        let said = place.fails(2, args);
        assert!(
            said.contains("--nbd") || said.contains("MOUNTPOINT"),
            "{said}"
        );
    }
    let idle = place.fails(2, &["mount", "--nbd", "s", "--nbd-idle", "0s", "mnt"]);
    assert!(idle.contains("--nbd-idle"), "{idle}");
}
