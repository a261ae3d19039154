//! What changed in the machine between two backups: disks added, removed, resized, renamed; and what is never backed up.

use serde_json::json;

use crate::kit::place::Place;
use crate::qemu::{Disk, Qemu, RELEASES, Release, compare, make};
use crate::tracking::{backup, of};

fn scene(release: Release, disks: Vec<Disk>, more: &[&str]) -> Option<(Place, Qemu)> {
    if !release.is_here() || !crate::kit::need::has("qemu-img") {
        return None;
    }
    let place = Place::new();
    make(&place, &disks);
    let qemu = Qemu::start(&place, release, disks, more);
    Some((place, qemu))
}

fn two() -> Vec<Disk> {
    vec![Disk::new("vda", "qcow2", 64), Disk::new("vdb", "qcow2", 64)]
}

/// abbbi/virtnbdbackup#135: a disk added between two backups is in the next point, full; one that is removed is not, said aloud.
#[test]
fn a_disk_that_is_added_or_removed_is_told() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release, two(), &[]) else {
            continue;
        };
        qemu.write("vda", 1, 0, 512);
        qemu.write("vdb", 1, 0, 512);
        backup(&place, &qemu, "two", &[]);
        qemu.quit();
        let more = Disk::new("vdc", "qcow2", 32);
        make(&place, std::slice::from_ref(&more));
        qemu.disks.push(more);
        qemu.again();
        qemu.write("vdc", 3, 0, 70_000);
        let (three, said) = backup(&place, &qemu, "three", &[]);
        assert!(
            said.contains("disk vdc is stored in full: the parent point has no such disk"),
            "{said}"
        );
        assert_eq!(of(&three, "vda")["changed_bytes"], 0, "{three}");
        compare(&place, "web01@three", &qemu.disks);
        qemu.quit();
        qemu.disks.remove(1);
        qemu.again();
        let (last, said) = backup(&place, &qemu, "last", &[]);
        assert!(
            said.contains("the machine has no disk vdb any more"),
            "{said}"
        );
        assert_eq!(last["report"]["disks"].as_array().unwrap().len(), 2);
        compare(&place, "web01@last", &qemu.disks);
        assert!(
            !place
                .run(&["restore", "web01@last", "vdb", "x.raw"])
                .status
                .success()
        );
        compare(
            &place,
            "web01@two",
            &[Disk {
                bytes: one(64),
                ..Disk::new("vdb", "qcow2", 64)
            }],
        );
    }
}

/// A disk whose first sector was written.
fn one(clusters: usize) -> Vec<u8> {
    let mut bytes = vec![0; clusters << 16];
    bytes[..512].fill(1);
    bytes
}

#[test]
fn a_disk_that_grew_goes_on() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release, two(), &[]) else {
            continue;
        };
        qemu.write("vda", 1, 0, 512);
        backup(&place, &qemu, "small", &[]);
        let larger = 96 << 16;
        qemu.ask(
            "block_resize",
            json!({"node-name": "node-vda", "size": larger}),
        )
        .unwrap();
        qemu.disks[0].bytes.resize(larger, 0);
        qemu.write("vda", 9, larger - 512, 512);
        let (next, _) = backup(&place, &qemu, "large", &[]);
        assert_eq!(of(&next, "vda")["changed_bytes"], 65_536, "{next}");
        compare(&place, "web01@large", &qemu.disks);
    }
}

#[test]
fn a_disk_is_known_by_its_serial_under_any_name() {
    for release in RELEASES {
        let mut disks = two();
        disks[0].device = ",serial=AAA".to_owned();
        disks[1].device = ",serial=BBB".to_owned();
        let Some((place, mut qemu)) = scene(release, disks, &[]) else {
            continue;
        };
        qemu.write("vda", 1, 0, 3 << 20);
        qemu.write("vdb", 2, 0, 2 << 20);
        backup(&place, &qemu, "one", &[]);
        qemu.quit();
        // The same images, the other way round.
        std::fs::rename(place.path("vda.qcow2"), place.path("x")).unwrap();
        std::fs::rename(place.path("vdb.qcow2"), place.path("vda.qcow2")).unwrap();
        std::fs::rename(place.path("x"), place.path("vdb.qcow2")).unwrap();
        let (a, b) = (qemu.disks[0].bytes.clone(), qemu.disks[1].bytes.clone());
        (qemu.disks[0].bytes, qemu.disks[1].bytes) = (b, a);
        qemu.disks[0].device = ",serial=BBB".to_owned();
        qemu.disks[1].device = ",serial=AAA".to_owned();
        qemu.again();
        let (next, said) = backup(&place, &qemu, "two", &[]);
        assert_eq!(of(&next, "vda")["stored_bytes"], 0, "{next} {said}");
        assert_eq!(of(&next, "vda")["read_bytes"], 0, "{next} {said}");
        compare(&place, "web01@two", &qemu.disks);
    }
}

#[test]
fn media_and_shared_and_transient_disks_are_left_out_by_name() {
    for release in RELEASES {
        let place = Place::new();
        for name in ["cd.iso", "shared.raw", "lost.qcow2"] {
            std::fs::write(place.path(name), vec![0; 1 << 20]).unwrap();
        }
        let path = |name: &str| place.path(name).display().to_string();
        let more = [
            format!(
                "driver=raw,node-name=cd,read-only=on,file.driver=file,file.filename={}",
                path("cd.iso")
            ),
            format!(
                "driver=raw,node-name=shared,file.driver=file,file.filename={}",
                path("shared.raw")
            ),
        ];
        if !release.is_here() || !crate::kit::need::has("qemu-img") {
            continue;
        }
        let disks = vec![Disk::new("vda", "qcow2", 64)];
        make(&place, &disks);
        let transient = format!(
            "file={},format=raw,if=none,id=lost,snapshot=on",
            path("lost.qcow2")
        );
        let mut qemu = Qemu::start(
            &place,
            release,
            disks,
            &[
                "-blockdev",
                &more[0],
                "-device",
                "ide-cd,drive=cd,id=cdrom",
                "-blockdev",
                &more[1],
                "-device",
                "virtio-blk-pci,drive=shared,id=common,share-rw=on",
                "-drive",
                &transient,
                "-device",
                "virtio-blk-pci,drive=lost,id=temporary",
            ],
        );
        qemu.write("vda", 1, 0, 512);
        let (report, said) = backup(&place, &qemu, "one", &[]);
        assert_eq!(
            report["report"]["disks"].as_array().unwrap().len(),
            1,
            "{report}"
        );
        for word in [
            "cdrom is not backed up",
            "common is not backed up",
            "temporary is not backed up",
        ] {
            assert!(said.contains(word), "{said}");
        }
        compare(&place, "web01@one", &qemu.disks);
    }
}
