//! A real guest: a Linux that counts in files on an LVM stripe over two disks, each step durable before it is acknowledged. Every point is
//! consistent: a second guest replays the journal, checks the filesystem, and finds a number that was acknowledged at the instant.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::kit::chance::Chance;
use crate::kit::need::{has, need};
use crate::kit::place::Place;
use crate::qemu::Release;

/// Incremental points of each way; `RESTOREFS_GUEST_POINTS` are more (tests/vm/capture).
const POINTS: usize = 2;

/// LIMIT: time for booting without KVM on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest")
}

/// A running guest.
struct Guest {
    child: Child,
    dir: PathBuf,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest {
    fn start(release: Release, dir: &Path, disks: [&Path; 2], mode: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new(release.program());
        command.args([
            "-M",
            "q35,accel=tcg",
            "-cpu",
            "qemu64",
            "-m",
            "192",
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
        ]);
        command
            .arg("-kernel")
            .arg(lab().join("vmlinuz"))
            .arg("-initrd")
            .arg(lab().join("initrd.gz"));
        command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 tsc=nowatchdog no_timer_check mitigations=off lab={mode} us=4000"));
        for (number, disk) in disks.iter().enumerate() {
            let file = disk.display();
            command.arg("-blockdev").arg(format!("driver=qcow2,node-name=n{number},discard=unmap,file.driver=file,file.filename={file}"));
            command.arg("-device").arg(format!(
                "virtio-blk-pci,drive=n{number},id=d{number},serial=disk{number}"
            ));
        }
        command.args(["-device", "virtio-serial-pci"]);
        command.args([
            "-chardev",
            &format!("socket,id=qga,path={},server=on,wait=off", at("qga.sock")),
        ]);
        command.args([
            "-device",
            "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
        ]);
        command.args(["-chardev", &format!("file,id=ack,path={}", at("ack.log"))]);
        command.args(["-device", "virtserialport,chardev=ack,name=lab.ack"]);
        command.args([
            "-chardev",
            &format!("file,id=con,path={}", at("console.log")),
            "-serial",
            "chardev:con",
        ]);
        command.args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", at("qmp.sock")),
        ]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            dir: dir.to_owned(),
        }
    }

    fn console(&self) -> String {
        std::fs::read(self.dir.join("console.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, word: &str) {
        let begun = Instant::now();
        while !self.console().contains(word) {
            assert!(
                begun.elapsed() < PATIENCE,
                "the guest does not say {word}: {}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The last number that was acknowledged.
    fn acknowledged(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir.join("ack.log")).unwrap_or_default();
        let complete = text.lines().rev().find(|line| line.len() == 20);
        complete.map_or(0, |line| line.parse().unwrap())
    }
}

fn image(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg("96M")
        .status();
    assert!(made.unwrap().success());
    path
}

/// The number after a word.
#[track_caller]
fn number(text: &str, word: &str) -> u64 {
    let rest = text
        .split(word)
        .nth(1)
        .unwrap_or_else(|| panic!("no {word}: {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Backs up a guest that counts, then checks every point in another guest.
fn run(release: Release, more: &[&str], points: usize) {
    let place = Place::new();
    let dir = place.path("guest");
    std::fs::create_dir(&dir).unwrap();
    let disks = [image(&dir, "a.qcow2"), image(&dir, "b.qcow2")];
    let guest = Guest::start(release, &dir, [&disks[0], &disks[1]], "run");
    guest.says("LAB READY");
    let (socket, agent) = (dir.join("qmp.sock"), dir.join("qga.sock"));
    let mut taken = Vec::new();
    for point in 0..=points {
        std::thread::sleep(Duration::from_millis(700));
        let name = format!("p{point}");
        let mut args = vec![
            "backup",
            "web01",
            "--qmp",
            socket.to_str().unwrap(),
            "--point",
            &name,
        ];
        args.extend(more);
        let is_frozen = point % 2 == 1;
        if is_frozen {
            args.extend(["--quiesce", "--guest-agent", agent.to_str().unwrap()]);
        }
        let before = guest.acknowledged();
        let report = place.json(&args);
        let after = guest.acknowledged();
        let consistency = if is_frozen { "filesystem" } else { "crash" };
        assert_eq!(report["report"]["consistency"], consistency, "{report}");
        if point > 0 {
            for disk in report["report"]["disks"].as_array().unwrap() {
                assert!(
                    disk["changed_bytes"]
                        .as_u64()
                        .is_some_and(|bytes| bytes < 64 << 20),
                    "{report}"
                );
            }
        }
        println!(
            "{release:?} {more:?} {name}: {} to {}, stopped {}, frozen {} ms",
            before, after, report["report"]["stopped_ms"], report["report"]["frozen_ms"]
        );
        taken.push((name, before, after, is_frozen));
    }
    if points > POINTS {
        kill_at_random_instants(&place, &guest);
        let before = guest.acknowledged();
        place.ok(&[
            "backup",
            "web01",
            "--qmp",
            socket.to_str().unwrap(),
            "--point",
            "last",
        ]);
        taken.push(("last".to_owned(), before, guest.acknowledged(), false));
    }
    assert!(!guest.console().contains("FAIL"), "{}", guest.console());
    drop(guest);
    for (name, before, after, is_frozen) in taken {
        let at = place.path(&format!("check-{name}"));
        std::fs::create_dir(&at).unwrap();
        let restored = ["d0", "d1"].map(|disk| {
            let file = at.join(format!("{disk}.qcow2"));
            place.ok(&[
                "restore",
                &format!("web01@{name}"),
                disk,
                file.to_str().unwrap(),
            ]);
            file
        });
        let check = Guest::start(Release::New, &at, [&restored[0], &restored[1]], "check");
        check.says("fsck rc=");
        let said = check.console();
        assert!(
            said.contains("fsck rc=0") && said.contains("WHOLE"),
            "{name}: {said}"
        );
        if is_frozen {
            assert!(said.contains("unreplayed rc=0"), "{name}: {said}");
        }
        for word in ["counter=", "loglast=", "ring max="] {
            let found = number(&said, word);
            assert!(
                before <= found && found <= after + 1,
                "{name}: {word}{found}, acknowledged {before} to {after}: {said}"
            );
        }
    }
    place.ok(&["verify", "web01"]);
}

/// Ten backups that are killed, some of them between freeze and thaw: the guest goes on each time.
fn kill_at_random_instants(place: &Place, guest: &Guest) {
    let mut chance = Chance(77);
    let (socket, agent) = (guest.dir.join("qmp.sock"), guest.dir.join("qga.sock"));
    for round in 0..10 {
        let args = [
            "backup",
            "web01",
            "--qmp",
            socket.to_str().unwrap(),
            "--quiesce",
            "--guest-agent",
            agent.to_str().unwrap(),
        ];
        let mut backup = place
            .command(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(chance.below(900) as u64));
        let _ = backup.kill();
        backup.wait().unwrap();
        let (at, since) = (guest.acknowledged(), Instant::now());
        while guest.acknowledged() < at + 3 {
            assert!(
                since.elapsed() < Duration::from_secs(15),
                "round {round}: the guest stands still"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn every_point_of_a_guest_that_writes_is_one_instant() {
    let is_made = need(
        lab().join("initrd.gz").exists(),
        "the guest (tests/vm/guest/make target/guest)",
    );
    if !is_made || !has("qemu-img") || !Release::New.is_here() {
        return;
    }
    let points = std::env::var("RESTOREFS_GUEST_POINTS")
        .ok()
        .and_then(|text| text.parse().ok());
    run(Release::New, &[], points.unwrap_or(POINTS));
    let Some(points) = points else { return };
    run(Release::New, &["--method", "blockdev-backup"], points);
    if Release::Old.is_here() {
        run(Release::Old, &[], points);
    }
}
