//! read: disks, volumes, documents, guest files.

use std::os::unix::fs::FileExt;

use restorefs::metrics::Sheet;

use crate::kit::prometheus::Samples;
use crate::world::{DISK_BYTES, PART_BYTES, PART_START, World, ready, run, text, unmount};

#[test]
fn disks_are_what_was_backed_up() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    run(
        "cmp",
        &[
            text(&world.at("web01/first/disks/vda.raw")),
            text(&world.image()),
        ],
    );
    let part = world.at("web01/first/volumes/vda/part/1.raw");
    assert_eq!(std::fs::metadata(&part).unwrap().len(), PART_BYTES);
    let whole = std::fs::read(world.image()).unwrap();
    let start = PART_START as usize;
    assert!(std::fs::read(&part).unwrap() == whole[start..start + PART_BYTES as usize]);
    assert_eq!(
        std::fs::read(world.at("web01/first/disks/vdb.raw"))
            .unwrap()
            .len(),
        100_000
    );
    unmount(&mount);
}

/// The counters are of the whole process, so other tests may add to them.
#[test]
fn requests_errors_and_reads_are_counted() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let now = || Samples::parse(&Sheet::default().into_text().unwrap());
    let before = now();
    let disk = std::fs::File::open(world.at("web01/first/disks/vda.raw")).unwrap();
    for n in 0..4 {
        // Far from each other, so that the kernel does not have the bytes already.
        disk.read_exact_at(&mut [0; 4096], (n * 16) << 20).unwrap();
    }
    let absent = std::fs::metadata(world.at("web01/none")).unwrap_err();
    assert_eq!(absent.kind(), std::io::ErrorKind::NotFound);
    let after = now();
    let rise = |name: &str, kind: &str| {
        let labels = [("kind", kind)];
        let labels = if kind.is_empty() { &[][..] } else { &labels };
        let name = format!("restorefs_fuse_{name}");
        after.value(&name, labels) - before.value(&name, labels)
    };
    assert!(rise("requests_total", "read") >= 4.0);
    assert!(rise("read_duration_seconds_count", "") >= 4.0);
    assert!(rise("read_duration_seconds_sum", "") > 0.0);
    assert!(rise("requests_total", "lookup") >= 4.0);
    drop(disk);
    unmount(&mount);
}

#[test]
fn reads_end_at_the_end() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    let file = std::fs::File::open(world.at("web01/first/disks/vda.raw")).unwrap();
    let mut buf = vec![1; 1 << 20];
    assert_eq!(file.read_at(&mut buf, DISK_BYTES - 512).unwrap(), 512);
    assert_eq!(file.read_at(&mut buf, DISK_BYTES).unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, 1 << 40).unwrap(), 0);
    assert_eq!(std::fs::read(world.guest("empty")).unwrap(), b"");
    let big = std::fs::File::open(world.guest("etc/deep/big")).unwrap();
    let expected: Vec<u8> = (0..3_000_000u32).map(|n| (n / 1000) as u8).collect();
    for (at, length) in [(0, 1), (4095, 2), (999_999, 70_000), (2_999_999, 10)] {
        let mut buf = vec![0; length];
        let length = big.read_at(&mut buf, at as u64).unwrap();
        assert_eq!(buf[..length], expected[at..(at + length).min(3_000_000)]);
    }
    drop((file, big));
    unmount(&mount);
}

#[test]
fn a_copy_made_by_the_kernel_is_the_same() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    // The standard library copies by copy_file_range or sendfile.
    let copy = world.path("copy");
    std::fs::copy(world.guest("sparse"), &copy).unwrap();
    assert!(std::fs::read(copy).unwrap() == std::fs::read(world.path("source/sparse")).unwrap());
    unmount(&mount);
}

/// A document's size is that of its bytes: the kernel reads no further.
#[test]
fn documents_are_whole() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    for name in ["info.json", "volumes.json"] {
        let path = world.at("web01/first").join(name);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, std::fs::metadata(&path).unwrap().len());
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    }
    let path = world.at("web01/first/volumes.json");
    let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let first = &after["volumes"][0];
    assert_eq!(
        (&first["path"], &first["state"]),
        (&"vda/part/1".into(), &"readable".into())
    );
    assert_eq!(first["filesystem"]["label"], "root");
    assert_eq!(after["volumes"][1]["state"], "no_filesystem");
    unmount(&mount);
}
