//! Where a disk is restored to: files, images, devices and exports; nothing else is ever replaced.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};

use crate::kit::need::has;
use crate::kit::need::is_root;
use crate::kit::place::Place;
use crate::tool::{self, Loop, Mounted, QemuNbd};

fn with_a_point() -> (Place, Vec<u8>) {
    let place = Place::new();
    let bytes = place.disk("a.raw", 32, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    (place, bytes)
}

#[test]
fn devices_pipes_and_symlinks_are_not_replaced() {
    let (place, _) = with_a_point();
    tool::ok(&place, "mkfifo", &["fifo"]);
    if is_root() {
        // What /dev/null is.
        tool::ok(&place, "mknod", &["null", "c", "1", "3"]);
    }
    let listener = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    fs::write(place.path("file"), "kept").unwrap();
    fs::create_dir(place.path("dir")).unwrap();
    symlink("file", place.path("link")).unwrap();
    symlink("nowhere", place.path("dangling")).unwrap();
    let names = ["fifo", "null", "socket", "dir", "link", "dangling"];
    let before: Vec<_> = names
        .map(|name| fs::symlink_metadata(place.path(name)).ok())
        .into();
    // Damage that a read would meet: nothing is read.
    for layer in fs::read_dir(place.repo().join("vms/web01/layers"))
        .unwrap()
        .flatten()
    {
        fs::remove_file(layer.path()).unwrap();
    }
    for (name, before) in names.iter().zip(&before) {
        let Some(before) = before else { continue };
        for force in [None, Some("--force")] {
            let mut args = vec!["restore", "web01@latest", "vda", name];
            args.extend(force);
            let code = if *name == "dir" { 1 } else { 2 };
            let said = place.fails(code, &args);
            assert!(said.contains("the target is"), "{name}: {said}");
        }
        let after = fs::symlink_metadata(place.path(name)).unwrap();
        assert_eq!(after.file_type(), before.file_type(), "{name}");
    }
    let said = place.fails(2, &["restore", "web01@latest", "vda", "-"]);
    assert!(said.contains("standard output"), "{said}");
    assert_eq!(fs::read(place.path("file")).unwrap(), b"kept");
    drop(listener);
}

#[test]
fn names_in_a_directory_and_archives_are_not_replaced_either() {
    let (place, bytes) = with_a_point();
    fs::write(place.path("note.txt"), "n").unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--attach", "note.txt"]);
    fs::create_dir_all(place.path("out/attached")).unwrap();
    fs::write(place.path("victim"), "kept").unwrap();
    symlink("../victim", place.path("out/vda.raw")).unwrap();
    place.fails(2, &["restore", "web01@latest", "--to", "out", "--force"]);
    fs::remove_file(place.path("out/vda.raw")).unwrap();
    tool::ok(&place, "mkfifo", &["out/attached/note.txt"]);
    place.fails(2, &["restore", "web01@latest", "--to", "out", "--force"]);
    let kind = fs::symlink_metadata(place.path("out/attached/note.txt"))
        .unwrap()
        .file_type();
    assert!(kind.is_fifo());
    fs::remove_file(place.path("out/attached/note.txt")).unwrap();
    place.ok(&["restore", "web01@latest", "--to", "out", "--force"]);
    assert!(fs::read(place.path("out/vda.raw")).unwrap() == bytes);
    symlink("victim", place.path("a.tar")).unwrap();
    for force in [None, Some("--force")] {
        let mut args = vec!["restore", "web01@latest:/disks", "--to", "a.tar"];
        args.extend(force);
        place.fails(2, &args);
    }
    assert_eq!(fs::read(place.path("victim")).unwrap(), b"kept");
}

#[test]
fn a_qcow2_target_becomes_a_qcow2_image() {
    if !has("qemu-img") {
        return;
    }
    let (place, bytes) = with_a_point();
    for target in ["out.qcow2", "qcow2:out", "OUT2.QCOW2"] {
        place.ok(&["restore", "web01@latest", "vda", target]);
        let file = target.strip_prefix("qcow2:").unwrap_or(target);
        tool::ok(&place, "qemu-img", &["check", "-q", "-f", "qcow2", file]);
        tool::ok(
            &place,
            "qemu-img",
            &["compare", "-q", "-f", "qcow2", "-F", "raw", file, "a.raw"],
        );
        let stored = fs::metadata(place.path(file)).unwrap().len();
        assert!(
            stored < bytes.len() as u64,
            "zeroes are not stored: {stored}"
        );
        let said = place.fails(1, &["restore", "web01@latest", "vda", target]);
        assert!(said.contains("exists"), "{said}");
        place.ok(&["restore", "web01@latest", "vda", target, "--force"]);
        // It is a source as well.
        place.ok(&["backup", "again", &format!("vda=qcow2:{file}")]);
        assert!(place.restored("again@latest", "vda") == bytes);
    }
    place.ok(&["restore", "web01@latest", "vda", "raw:raw.qcow2"]);
    assert!(fs::read(place.path("raw.qcow2")).unwrap() == bytes);
    // A size that is no multiple of a sector: the image is padded.
    fs::write(place.path("odd.raw"), &bytes[..65_536 * 4 + 100]).unwrap();
    place.ok(&["backup", "odd", "vda=odd.raw"]);
    place.ok(&["restore", "odd@latest", "vda", "odd.qcow2"]);
    let info = tool::ok(&place, "qemu-img", &["info", "--output=json", "odd.qcow2"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 65_536 * 4 + 512);
    tool::ok(
        &place,
        "qemu-img",
        &["compare", "-q", "odd.qcow2", "-F", "raw", "odd.raw"],
    );
}

#[test]
fn formats_that_are_not_written_are_refused() {
    let (place, _) = with_a_point();
    for target in [
        "out.vmdk",
        "vhdx:out",
        "out.vdi",
        "vpc:out.raw",
        "out.qed",
        "out.raw.gz",
        "out.ova",
    ] {
        let said = place.fails(1, &["restore", "web01@latest", "vda", target]);
        assert!(said.contains("not written"), "{target}: {said}");
    }
    let said = place.fails(2, &["restore", "web01@latest", "vda", "ssh://host/disk"]);
    assert!(said.contains("NBD URI"), "{said}");
    let left: Vec<_> = fs::read_dir(place.dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_device_is_written_also_through_a_symlink() {
    if !is_root() {
        return;
    }
    let (place, bytes) = with_a_point();
    tool::ok(&place, "truncate", &["-s", "8M", "device.raw"]);
    let device = Loop::attach(&place, "device.raw", &[]);
    symlink(&device.device, place.path("by-id")).unwrap();
    place.ok(&["restore", "web01@latest", "vda", "by-id"]);
    let read = tool::ok(
        &place,
        "sh",
        &[
            "-c",
            &format!("head -c {} {} | cmp - a.raw", bytes.len(), device.device),
        ],
    );
    assert_eq!(read, "");
    assert!(
        fs::symlink_metadata(place.path("by-id"))
            .unwrap()
            .is_symlink()
    );
    let image = format!("qcow2:{}", device.device);
    let said = place.fails(2, &["restore", "web01@latest", "vda", &image]);
    assert!(said.contains("not written to a device"), "{said}");
}

/// Whoever comes second is refused: it is neither its content that gets the name, nor a mixture.
#[test]
fn two_restores_to_one_name_do_not_meet() {
    let (place, bytes) = with_a_point();
    // One that was killed left this; nobody holds it.
    fs::write(place.path("out.raw.restoring"), "left").unwrap();
    place.ok(&["restore", "web01@latest", "vda", "out.raw"]);
    assert!(fs::read(place.path("out.raw")).unwrap() == bytes);
    for (target, making) in [
        ("out.raw", "out.raw.restoring"),
        ("image.qcow2", "image.qcow2.restoring"),
    ] {
        // Another restore that is at it.
        let held = fs::File::create(place.path(making)).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        let args = ["restore", "web01@latest", "vda", target, "--force"];
        let said = place.fails(1, &args);
        assert!(said.contains("another restore"), "{said}");
        assert!(place.path(making).exists());
        // Not only closed: a program that another test starts at this moment may have it open until it runs.
        rustix::fs::flock(&held, rustix::fs::FlockOperation::Unlock).unwrap();
        drop(held);
        place.ok(&args);
        assert!(!place.path(making).exists());
    }
    assert!(fs::read(place.path("out.raw")).unwrap() == bytes);
}

/// A target in the repository could be one of its layers.
#[test]
fn nothing_is_restored_into_the_repository() {
    let (place, _) = with_a_point();
    let layers = place.repo().join("vms/web01/layers");
    let layer = fs::read_dir(&layers)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let before = fs::read(&layer).unwrap();
    symlink(&layers, place.path("link")).unwrap();
    let name = layer.file_name().unwrap().to_str().unwrap();
    let beside = layers.join("new/deeper");
    for target in [layer.to_str().unwrap(), &format!("link/{name}")] {
        let said = place.fails(2, &["restore", "web01@latest", "vda", target, "--force"]);
        assert!(said.contains("repository"), "{said}");
    }
    for to in [layers.to_str().unwrap(), "link", beside.to_str().unwrap()] {
        let said = place.fails(2, &["restore", "web01@latest", "--to", to, "--force"]);
        assert!(said.contains("repository"), "{said}");
        let said = place.fails(2, &["restore", "web01@latest:/volumes.json", "--to", to]);
        assert!(said.contains("repository"), "{said}");
    }
    assert!(fs::read(&layer).unwrap() == before);
    assert!(!layers.join("new").exists());
    place.ok(&["restore", "web01@latest", "vda", "out.raw"]);
}

/// All names are looked at before the first disk is read.
#[test]
fn a_directory_takes_all_or_nothing() {
    let place = Place::new();
    place.disk("a.raw", 4, 1);
    fs::write(place.path("note.txt"), "n").unwrap();
    let made = ["vda=a.raw", "vdb=raw:copy", "--attach", "note.txt"];
    fs::copy(place.path("a.raw"), place.path("copy")).unwrap();
    place.ok(&[&["backup", "web01"][..], &made].concat());
    fs::create_dir_all(place.path("out")).unwrap();
    let refused = |code: i32, force: &[&str]| {
        let said = place.fails(
            code,
            &[&["restore", "web01@latest", "--to", "out"][..], force].concat(),
        );
        assert!(!place.path("out/vda.raw").exists(), "{said}");
        said
    };
    fs::write(place.path("out/vdb.raw"), "mine").unwrap();
    refused(1, &[]);
    fs::remove_file(place.path("out/vdb.raw")).unwrap();
    symlink("/tmp", place.path("out/attached")).unwrap();
    assert!(refused(2, &["--force"]).contains("attached"));
    fs::remove_file(place.path("out/attached")).unwrap();
    fs::create_dir_all(place.path("out/attached/note.txt")).unwrap();
    refused(1, &["--force"]);
    fs::remove_dir(place.path("out/attached/note.txt")).unwrap();
    place.ok(&["restore", "web01@latest", "--to", "out"]);
}

/// A running machine, and a mount that is two devices away, keep the device from being overwritten.
#[test]
fn a_device_that_somebody_writes_is_not_overwritten() {
    let (place, bytes) = with_a_point();
    if !is_root() || !has("qemu-nbd") || !has("mkfs.ext4") {
        return;
    }
    fs::write(place.path("target"), vec![7; bytes.len()]).unwrap();
    let device = Loop::attach(&place, "target", &[]);
    let args = ["restore", "web01@latest", "vda", &device.device];
    let refused = |words: &str| {
        let said = place.fails(1, &args);
        assert!(said.contains("in use") && said.contains(words), "{said}");
        assert!(fs::read(place.path("target")).unwrap()[..7] == [7; 7]);
    };
    let machine = QemuNbd::start(&place, "raw", &device.device, &[]);
    refused("qemu-nbd");
    drop(machine);
    let machine = QemuNbd::start(&place, "raw", "target", &[]);
    refused("qemu-nbd");
    drop(machine);
    let above = Loop::attach(&place, &device.device, &[]);
    tool::ok(
        &place,
        "mkfs.ext4",
        &["-qF", "-E", "nodiscard", &above.device],
    );
    let mounted = Mounted::at(&place, &above.device, "mnt", "rw");
    let said = place.fails(1, &args);
    assert!(said.contains("mounted read-write at"), "{said}");
    drop(mounted);
    drop(above);
    place.ok(&args);
    assert!(fs::read(place.path("target")).unwrap() == bytes);
}

/// A file that a running machine writes keeps its name, with --force too: the machine would go on in a file that nobody finds.
#[test]
fn a_file_that_somebody_writes_is_not_replaced() {
    let (place, bytes) = with_a_point();
    if !has("qemu-nbd") {
        return;
    }
    fs::create_dir(place.path("out")).unwrap();
    for target in ["target.raw", "out/vda.raw"] {
        fs::write(place.path(target), vec![7; bytes.len()]).unwrap();
        let one = ["restore", "web01@latest", "vda", target, "--force"];
        let all = ["restore", "web01@latest", "--to", "out", "--force"];
        let args = if target == "target.raw" {
            &one[..]
        } else {
            &all[..]
        };
        let machine = QemuNbd::start(&place, "raw", target, &[]);
        let said = place.fails(1, args);
        assert!(
            said.contains("in use") && said.contains("qemu-nbd"),
            "{said}"
        );
        assert!(fs::read(place.path(target)).unwrap() == vec![7; bytes.len()]);
        drop(machine);
        place.ok(args);
        assert!(fs::read(place.path(target)).unwrap() == bytes);
    }
}
