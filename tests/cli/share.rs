//! A source that another process writes is refused before the first byte and before the commit. A process that only
//! reads is no obstacle.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::kit::need::has;
use crate::kit::need::is_root;
use crate::kit::place::Place;
use crate::tool::{self, Loop, Mounted, QemuNbd};

fn image(place: &Place, name: &str) {
    tool::create(place, &format!("{name} 64M"));
    tool::ok(
        place,
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 7 0 8M", name],
    );
}

/// `backup` is refused with a sentence that names the file, who writes it and what to do; nothing is left.
fn refused(place: &Place, sources: &[&str], words: &[&str]) {
    let mut args = vec!["backup", "web01"];
    args.extend_from_slice(sources);
    let said = place.fails(1, &args);
    for word in words
        .iter()
        .chain(&["snapshot", "nbd+unix", "--force-share"])
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!place.repo().join("vms/web01").exists());
}

#[test]
fn an_image_that_a_running_qemu_writes_is_refused() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let place = Place::new();
    image(&place, "run.qcow2");
    let machine = QemuNbd::start(&place, "qcow2", "run.qcow2", &[]);
    // The reference.
    let convert = ["convert", "-f", "qcow2", "-O", "raw", "run.qcow2", "x.raw"];
    let qemu = tool::command(&place, "qemu-img", &convert)
        .output()
        .unwrap();
    assert!(!qemu.status.success());
    let pid = format!("(pid {})", machine.pid());
    refused(&place, &["vda=run.qcow2"], &["run.qcow2", "qemu-nbd", &pid]);
    // A daemon changes nothing.
    let daemon = place.serve(&[]);
    refused(&place, &["vda=run.qcow2"], &["run.qcow2", &pid]);
    daemon.stop();
    // Nor does a further name, or another disk that is good.
    fs::hard_link(place.path("run.qcow2"), place.path("other")).unwrap();
    place.disk("good.raw", 4, 1);
    refused(&place, &["vdb=good.raw", "vda=qcow2:other"], &["other"]);
    // What the machine exports is the right way.
    place.ok(&["backup", "web01", &format!("vda={}", machine.uri)]);
    let info = place.json(&["info", "web01@latest"]);
    assert!(info["consistency"].is_null(), "{info}");
}

#[test]
fn raw_images_backing_files_and_data_files_are_looked_at() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let place = Place::new();
    place.disk("run.raw", 64, 1);
    let machine = QemuNbd::start(&place, "raw", "run.raw", &[]);
    refused(&place, &["vda=run.raw"], &["run.raw"]);
    drop(machine);
    image(&place, "base.qcow2");
    tool::create(&place, "-F qcow2 -b base.qcow2 top.qcow2");
    let machine = QemuNbd::start(&place, "qcow2", "base.qcow2", &[]);
    refused(
        &place,
        &["vda=top.qcow2", "--allow-backing", "."],
        &["base.qcow2"],
    );
    drop(machine);
    let option = "data_file=data.raw,data_file_raw=on";
    tool::create(&place, &format!("-o {option} meta.qcow2 4M"));
    let machine = QemuNbd::start(&place, "raw", "data.raw", &[]);
    refused(
        &place,
        &["vda=meta.qcow2", "--allow-backing", "."],
        &["data.raw"],
    );
    drop(machine);
    // Formats that qemu-nbd reads, flat and in one file.
    for (name, options) in [
        ("one.vmdk", "subformat=monolithicSparse"),
        ("two.vhdx", "log_size=1M"),
    ] {
        let format = name.split_once('.').unwrap().1;
        tool::ok(
            &place,
            "qemu-img",
            &["create", "-q", "-f", format, "-o", options, name, "8M"],
        );
        let machine = QemuNbd::start(&place, format, name, &[]);
        refused(&place, &[&format!("vda={name}")], &[name]);
        drop(machine);
        place.ok(&["backup", format, &format!("vda={name}")]);
    }
}

#[test]
fn who_only_reads_is_no_writer_and_a_machine_can_start_meanwhile() {
    if !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    image(&place, "run.qcow2");
    let reader = QemuNbd::start(&place, "qcow2", "run.qcow2", &["-r"]);
    place.ok(&["backup", "web01", "vda=run.qcow2", "--point", "one"]);
    drop(reader);
    // The backing file of a running machine is only read.
    tool::create(&place, "-F qcow2 -b run.qcow2 top.qcow2");
    let machine = QemuNbd::start(&place, "qcow2", "top.qcow2", &[]);
    place.ok(&["backup", "web01", "vda=run.qcow2", "--point", "two"]);
    drop(machine);
    // A backup under way holds no lock; what starts in its midst is found before the commit.
    let Some((mut backup, release)) = slow_backup(&place, "vda=run.qcow2", &[]) else {
        return;
    };
    let machine = QemuNbd::start(&place, "qcow2", "run.qcow2", &[]);
    let said = release(&mut backup, 1);
    assert!(
        said.contains("run.qcow2") && said.contains("qemu-nbd"),
        "{said}"
    );
    drop(machine);
    assert_eq!(place.json(&["ls", "web01"]).as_array().unwrap().len(), 2);
}

/// A backup that waits for its second disk, an export that answers once it is released.
fn slow_backup(
    place: &Place,
    source: &str,
    more: &[&str],
) -> Option<(Child, impl FnOnce(&mut Child, i32) -> String + use<>)> {
    if !has("nbdkit") {
        return None;
    }
    let (socket, gate) = (place.path("slow.sock"), place.path("gate"));
    let script = format!("while test -e {}; do sleep 0.05; done", gate.display());
    fs::write(&gate, "").unwrap();
    let plugin = format!(
        "case \"$1\" in get_size) echo 65536;; pread) {script}; head -c $3 /dev/zero;; *) exit 2;; esac"
    );
    fs::write(place.path("plugin.sh"), format!("#!/bin/sh\n{plugin}\n")).unwrap();
    tool::ok(place, "chmod", &["+x", "plugin.sh"]);
    let mut server = tool::command(
        place,
        "nbdkit",
        &[
            "-f",
            "--exit-with-parent",
            "-U",
            socket.to_str().unwrap(),
            "sh",
            "./plugin.sh",
        ],
    )
    .spawn()
    .unwrap();
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its format is named, so that nothing of it is read before the copy.
    let slow = format!("slow=raw:nbd+unix:///?socket={}", socket.display());
    let mut args = vec!["backup", "slowly", source, &slow];
    args.extend_from_slice(more);
    let child = place
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let points = place.repo().join("vms/slowly/points");
    let is_open = || {
        fs::read_dir(&points).is_ok_and(|mut dir| {
            dir.any(|entry| entry.unwrap().path().join("session.json").exists())
        })
    };
    while !is_open() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "no session begins"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let release = move |child: &mut Child, code: i32| {
        fs::remove_file(&gate).unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{said}");
        said
    };
    Some((child, release))
}

#[test]
fn what_was_written_while_it_was_copied_is_refused_whoever_wrote_it() {
    let place = Place::new();
    let mut bytes = place.disk("a.raw", 8, 1);
    let Some((mut backup, release)) = slow_backup(&place, "vda=a.raw", &[]) else {
        return;
    };
    // No lock, no mount: a program that just writes.
    bytes[70_000] ^= 1;
    fs::write(place.path("a.raw"), &bytes).unwrap();
    let said = release(&mut backup, 1);
    assert!(
        said.contains("a.raw") && said.contains("written since"),
        "{said}"
    );
    assert!(said.contains("--force-share"), "{said}");
    let jobs = place.json(&["jobs"]);
    assert_eq!(jobs[0]["result"], "failed", "{jobs}");
    // With the flag it becomes a point that tells.
    fs::remove_file(place.path("slow.sock")).unwrap();
    let (mut backup, release) = slow_backup(&place, "vda=a.raw", &["--force-share"]).unwrap();
    fs::write(place.path("a.raw"), &bytes).unwrap();
    let said = release(&mut backup, 0);
    assert!(said.contains("warning") && said.contains("a.raw"), "{said}");
    let info = place.json(&["info", "slowly@latest"]);
    assert_eq!(info["consistency"], "unknown", "{info}");
    let note = info["consistency_note"].as_str().unwrap();
    assert!(note.contains("a.raw"), "{note}");
}

#[test]
fn a_shared_image_is_taken_loudly_when_that_is_asked_for() {
    if !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    image(&place, "run.qcow2");
    let machine = QemuNbd::start(&place, "qcow2", "run.qcow2", &[]);
    for daemon in [false, true] {
        let running = daemon.then(|| place.serve(&[]));
        let output = place.run(&["backup", "web01", "vda=run.qcow2", "--force-share"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && said.contains("warning"),
            "{said}"
        );
        let info = place.json(&["info", "web01@latest"]);
        assert_eq!(info["consistency"], "unknown", "{info}");
        let note = info["consistency_note"].as_str().unwrap();
        assert!(
            note.contains("disk vda") && note.contains("run.qcow2"),
            "{note}"
        );
        drop(running);
    }
    drop(machine);
    // The flag alone says nothing of a source that nobody writes.
    place.ok(&["backup", "web01", "vda=run.qcow2", "--force-share"]);
    let info = place.json(&["info", "web01@latest"]);
    assert!(info["consistency"].is_null() && info["consistency_note"].is_null());
}

#[test]
fn a_device_that_is_mounted_to_be_written_is_refused_and_so_is_its_file() {
    if !is_root() || !has("mkfs.ext4") || !has("sfdisk") || !has("partx") {
        return;
    }
    let place = Place::new();
    tool::ok(&place, "truncate", &["-s", "64M", "a.raw"]);
    tool::ok(&place, "mkfs.ext4", &["-qF", "a.raw"]);
    let device = Loop::attach(&place, "a.raw", &[]);
    let source = format!("vda={}", device.device);
    let mounted = Mounted::at(&place, &device.device, "mnt", "rw");
    let at = mounted.path().display().to_string();
    refused(&place, &[&source], &[&device.device, &at]);
    refused(&place, &["vda=a.raw"], &["a.raw", &device.device, &at]);
    // A read-only bind mount of it changes nothing.
    tool::ok(&place, "mount", &["-o", "remount,bind,ro", &at]);
    refused(&place, &[&source], &[&at]);
    drop(mounted);
    let mounted = Mounted::at(&place, &device.device, "mnt", "ro");
    place.ok(&["backup", "readonly", &source]);
    place.ok(&["backup", "readonly", "vda=a.raw"]);
    drop(mounted);
    drop(device);
    // A partition of it.
    tool::ok(&place, "truncate", &["-s", "64M", "disk.raw"]);
    let layout = "label: gpt\n,40M\n";
    fs::write(place.path("layout"), layout).unwrap();
    tool::ok(&place, "sh", &["-c", "sfdisk -q disk.raw <layout"]);
    let device = Loop::attach(&place, "disk.raw", &["-P"]);
    let part = format!("{}p1", device.device);
    let begun = Instant::now();
    while !std::path::Path::new(&part).exists() {
        let _ = tool::command(&place, "partx", &["-u", &device.device]).status();
        assert!(begun.elapsed() < Duration::from_secs(20), "no {part}");
    }
    tool::ok(&place, "mkfs.ext4", &["-qF", &part]);
    let mounted = Mounted::at(&place, &part, "mnt", "rw");
    refused(&place, &[&format!("vda={}", device.device)], &[&at]);
    refused(&place, &["vda=disk.raw"], &[&at]);
    drop(mounted);
    place.ok(&["backup", "web01", "vda=disk.raw"]);
}

/// Loop devices over loop devices, and a device whose file has no name here.
#[test]
fn what_is_written_two_devices_away_or_under_another_name_is_in_use() {
    if !is_root() || !has("mkfs.ext4") || !has("unshare") {
        return;
    }
    let place = Place::new();
    tool::ok(&place, "truncate", &["-s", "64M", "a.raw"]);
    tool::ok(&place, "mkfs.ext4", &["-qF", "a.raw"]);
    let below = Loop::attach(&place, "a.raw", &[]);
    let above = Loop::attach(&place, &below.device, &[]);
    let source = format!("vda={}", below.device);
    let mounted = Mounted::at(&place, &above.device, "mnt", "rw");
    let at = mounted.path().display().to_string();
    refused(&place, &[&source], &[&above.device, &at]);
    refused(&place, &["vda=a.raw"], &[&below.device, &above.device, &at]);
    drop(mounted);
    let mounted = Mounted::at(&place, &above.device, "mnt", "ro");
    place.ok(&["backup", "readonly", &source]);
    place.ok(&["backup", "readonly", "vda=a.raw"]);
    drop(mounted);
    drop((above, below));
    // A mount namespace in which the file has another name, and which alone has it mounted.
    fs::create_dir(place.path("elsewhere")).unwrap();
    let script = "mount --bind . elsewhere && L=$(losetup -f --show elsewhere/a.raw) && mount $L mnt && echo up && read stop; umount mnt; losetup -d $L";
    let mut child = tool::command(&place, "unshare", &["-m", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    refused(&place, &["vda=a.raw"], &["a.raw", "/dev/loop"]);
    drop(child.stdin.take());
    child.wait().unwrap();
    place.ok(&["backup", "readonly", "vda=a.raw"]);
}

#[test]
fn swap_btrfs_members_and_devices_over_a_machines_image_are_in_use() {
    if !is_root() || !has("mkfs.btrfs") || !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    for name in ["one", "two", "run.raw"] {
        tool::ok(&place, "truncate", &["-s", "256M", name]);
    }
    let (one, two) = (
        Loop::attach(&place, "one", &[]),
        Loop::attach(&place, "two", &[]),
    );
    tool::ok(&place, "mkfs.btrfs", &["-q", &one.device, &two.device]);
    tool::ok(
        &place,
        "btrfs",
        &["device", "scan", &one.device, &two.device],
    );
    let mounted = Mounted::at(&place, &one.device, "mnt", "rw");
    // The second member is in no table of mounts.
    refused(&place, &[&format!("vda={}", two.device)], &[&two.device]);
    refused(&place, &["vda=two"], &[&two.device]);
    drop(mounted);
    place.ok(&["backup", "members", "vda=one", "vdb=two"]);
    tool::ok(&place, "mkswap", &["-q", &one.device]);
    let swap = tool::command(&place, "swapon", &[&one.device])
        .status()
        .unwrap();
    if swap.success() {
        refused(&place, &[&format!("vda={}", one.device)], &["swap"]);
        tool::ok(&place, "swapoff", &[&one.device]);
    }
    let machine = QemuNbd::start(&place, "raw", "run.raw", &[]);
    let over = Loop::attach(&place, "run.raw", &["-r"]);
    refused(
        &place,
        &[&format!("vda={}", over.device)],
        &["run.raw", "qemu-nbd"],
    );
    drop(machine);
}
