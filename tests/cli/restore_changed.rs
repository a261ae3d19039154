//! `restore --changed-only`: what it reports, what it refuses, and runs that are killed.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::kit::need::{has, is_root};
use crate::kit::place::Place;
use crate::tool::{Loop, QemuNbd};

const CLUSTER: usize = 65_536;
const ARGS: [&str; 5] = onto("out.raw");

/// The arguments that bring a target back to the newest point.
const fn onto(target: &str) -> [&str; 5] {
    ["restore", "web01@latest", "vda", target, "--changed-only"]
}

fn with_a_point(clusters: usize) -> (Place, Vec<u8>) {
    let place = Place::new();
    let bytes = place.disk("a.raw", clusters, 1);
    place.ok(&["backup", "web01", "vda=a.raw"]);
    (place, bytes)
}

fn numbers(report: &Value) -> [u64; 4] {
    let disk = &report["disks"][0];
    [
        "size_bytes",
        "compared_bytes",
        "written_bytes",
        "zeroed_bytes",
    ]
    .map(|name| disk[name].as_u64().unwrap())
}

#[test]
fn what_was_compared_and_written_is_reported_and_the_file_stays_the_same_file() {
    use std::os::unix::fs::MetadataExt;
    let (place, bytes) = with_a_point(12);
    let size = bytes.len() as u64;
    let mut other = bytes.clone();
    other[CLUSTER + 5] ^= 1;
    // The third cluster is a hole of the disk.
    other[2 * CLUSTER..3 * CLUSTER].fill(9);
    let out = place.path("out.raw");
    fs::write(&out, &other).unwrap();
    let inode = fs::metadata(&out).unwrap().ino();
    let report = place.json(&ARGS);
    assert_eq!(
        numbers(&report),
        [size, size, CLUSTER as u64, CLUSTER as u64]
    );
    assert!(fs::read(&out).unwrap() == bytes);
    assert_eq!(fs::metadata(&out).unwrap().ino(), inode);
    let said = place.ok(&ARGS);
    assert!(
        said.contains("768 KiB compared (0 B written, 0 B made zeroes)"),
        "{said}"
    );
    let full = place.json(&["restore", "web01@latest", "vda", "new.raw"]);
    assert!(full["disks"][0].get("compared_bytes").is_none());
}

#[test]
fn only_a_raw_file_of_the_disks_size_that_nobody_uses_is_compared() {
    let (place, bytes) = with_a_point(6);
    let said = place.fails(1, &ARGS);
    assert!(
        said.contains("leave it out to restore to a new file"),
        "{said}"
    );
    let out = place.path("out.raw");
    for size in [bytes.len() - 512, bytes.len() + 512] {
        fs::write(&out, vec![7; size]).unwrap();
        // --force makes no difference.
        for more in [&[][..], &["--force"]] {
            let said = place.fails(2, &[&ARGS[..], more].concat());
            assert!(
                said.contains(&format!("the target has {size} bytes")),
                "{said}"
            );
            assert!(fs::read(&out).unwrap() == vec![7; size]);
        }
    }
    fs::write(place.path("out.qcow2"), b"x").unwrap();
    let said = place.fails(2, &onto("out.qcow2"));
    assert!(said.contains("no QCOW2 image"), "{said}");
    assert_eq!(fs::read(place.path("out.qcow2")).unwrap(), b"x");
    place.fails(
        2,
        &["restore", "web01@latest", "--to", "dir", "--changed-only"],
    );
    fs::write(&out, vec![7; bytes.len()]).unwrap();
    std::os::unix::fs::symlink("out.raw", place.path("link.raw")).unwrap();
    let said = place.fails(2, &onto("link.raw"));
    assert!(said.contains("a symlink"), "{said}");
    let inside = place.repo().join("out.raw");
    fs::write(&inside, vec![7; bytes.len()]).unwrap();
    let inside = inside.to_str().unwrap();
    let said = place.fails(2, &onto(inside));
    assert!(said.contains("lies in the repository"), "{said}");
    // A lock of another restore.
    let file = fs::File::open(&out).unwrap();
    file.lock().unwrap();
    let said = place.fails(1, &ARGS);
    assert!(said.contains("another process has a lock"), "{said}");
    drop(file);
    assert!(fs::read(&out).unwrap() == vec![7; bytes.len()]);
    if has("qemu-nbd") {
        let machine = QemuNbd::start(&place, "raw", "out.raw", &[]);
        for more in [&[][..], &["--force"]] {
            let said = place.fails(1, &[&ARGS[..], more].concat());
            assert!(
                said.contains("in use") && said.contains("qemu-nbd"),
                "{said}"
            );
        }
        drop(machine);
    }
    assert!(fs::read(&out).unwrap() == vec![7; bytes.len()]);
    place.ok(&ARGS);
    assert!(fs::read(&out).unwrap() == bytes);
}

#[test]
fn a_run_that_is_killed_in_the_middle_is_finished_by_the_next() {
    let (place, bytes) = with_a_point(6000);
    let out = place.path("out.raw");
    let other = vec![0x5a; bytes.len()];
    let mut first = vec![0; CLUSTER];
    for _ in 0..3 {
        fs::write(&out, &other).unwrap();
        let mut child = place
            .command(&[&ARGS[..], &["-q"]].concat())
            .spawn()
            .unwrap();
        // It is killed when it has written its first cluster.
        loop {
            let file = fs::File::open(&out).unwrap();
            file.read_exact_at(&mut first, 0).unwrap();
            if first != other[..CLUSTER] {
                break;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(&out).unwrap();
        assert!(found != other && found != bytes, "it was not in the middle");
        let report = place.json(&ARGS);
        let pairs = found.chunks(CLUSTER).zip(bytes.chunks(CLUSTER));
        let left = pairs.filter(|(found, bytes)| found != bytes).count();
        let [_, _, written, zeroed] = numbers(&report);
        assert_eq!(written + zeroed, (left * CLUSTER) as u64);
        assert!(fs::read(&out).unwrap() == bytes);
    }
}

#[test]
fn a_device_that_is_larger_keeps_what_lies_behind_the_disk() {
    let (place, bytes) = with_a_point(12);
    if !is_root() {
        return;
    }
    let mut other = bytes.clone();
    other[4 * CLUSTER + 9] ^= 1;
    other.resize(bytes.len() + 8192, 0xee);
    fs::write(place.path("target"), &other).unwrap();
    let device = Loop::attach(&place, "target", &[]);
    let args = onto(&device.device);
    let report = place.json(&args);
    let size = bytes.len() as u64;
    assert_eq!(numbers(&report), [size, size, CLUSTER as u64, 0]);
    let found = fs::read(&device.device).unwrap();
    assert!(found[..bytes.len()] == bytes && found[bytes.len()..] == other[bytes.len()..]);
    drop(device);
    fs::write(place.path("target"), &other[..bytes.len() - 512]).unwrap();
    let device = Loop::attach(&place, "target", &[]);
    let args = onto(&device.device);
    let said = place.fails(2, &args);
    assert!(said.contains("the device has"), "{said}");
}

/// An export may be larger than the disk: what lies beyond stays.
#[test]
fn an_export_is_brought_back_and_keeps_what_lies_beyond_the_disk() {
    if !has("qemu-nbd") {
        return;
    }
    let (place, bytes) = with_a_point(12);
    let mut present = bytes.clone();
    // A cluster of zeroes, and one with data.
    assert!(
        bytes[5 * CLUSTER..6 * CLUSTER]
            .iter()
            .all(|byte| *byte == 0)
    );
    present[5 * CLUSTER + 7] ^= 1;
    present[0] ^= 1;
    present.extend_from_slice(&[7; CLUSTER]);
    fs::write(place.path("out.raw"), &present).unwrap();
    let server = QemuNbd::start(&place, "raw", "out.raw", &[]);
    let report = place.json(&onto(&server.uri));
    let size = bytes.len() as u64;
    assert_eq!(
        numbers(&report),
        [size, size, CLUSTER as u64, CLUSTER as u64]
    );
    let report = place.json(&onto(&server.uri));
    assert_eq!(numbers(&report), [size, size, 0, 0]);
    drop(server);
    let after = fs::read(place.path("out.raw")).unwrap();
    assert!(after[..bytes.len()] == bytes);
    assert!(after[bytes.len()..] == [7; CLUSTER]);
}
