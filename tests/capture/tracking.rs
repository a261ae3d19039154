//! Which bitmap counts: only one that has recorded without a gap since the parent. All else is compared, said aloud.

use std::path::Path;

use serde_json::json;

use crate::kit::place::Place;
use crate::qemu::{Disk, Qemu, RELEASES, Release, compare, make};

/// Backs up and returns the report of a disk, and what was printed for people.
pub(crate) fn backup(
    place: &Place,
    qemu: &Qemu,
    point: &str,
    more: &[&str],
) -> (serde_json::Value, String) {
    let socket = qemu.socket();
    let mut args = vec![
        "backup", "web01", "--qmp", &socket, "--point", point, "--json",
    ];
    args.extend(more);
    let output = place.run(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{point}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

pub(crate) fn of<'a>(report: &'a serde_json::Value, disk: &str) -> &'a serde_json::Value {
    let mut disks = report["report"]["disks"].as_array().unwrap().iter();
    disks.find(|one| one["name"] == disk).unwrap()
}

fn scene(release: Release) -> Option<(Place, Qemu)> {
    if !release.is_here() || !crate::kit::need::has("qemu-img") {
        return None;
    }
    let place = Place::new();
    let mut qemu = Qemu::of_two(&place, release);
    qemu.write("vda", 1, 0, 4 << 20);
    qemu.write("vdb", 2, 1 << 20, 2 << 20);
    Some((place, qemu))
}

#[test]
fn only_what_changed_is_read() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let (full, _) = backup(&place, &qemu, "full", &[]);
        assert_eq!(of(&full, "vda")["changed_bytes"], json!(null));
        qemu.write("vda", 3, 65_536 * 10, 512);
        let dry = place.json(&["backup", "web01", "--qmp", &qemu.socket(), "--dry-run"]);
        assert_eq!(dry["disks"][0]["changed_bytes"], 65_536, "{dry}");
        assert_eq!(dry["disks"][1]["changed_bytes"], 0, "{dry}");
        assert_eq!(
            place.json(&["ls", "web01"]).as_array().map_or(1, Vec::len),
            1
        );
        let (next, said) = backup(&place, &qemu, "next", &[]);
        assert_eq!(of(&next, "vda")["read_bytes"], 65_536, "{next}");
        assert_eq!(of(&next, "vda")["stored_bytes"], 65_536, "{next}");
        assert_eq!(of(&next, "vdb")["read_bytes"], 0, "{next}");
        assert_eq!(next["report"]["consistency"], "crash");
        assert!(!said.contains("compared"), "{said}");
        compare(&place, "web01@next", &qemu.disks);
        qemu.is_clean(2);
        let info = place.json(&["info", "web01@next"]);
        assert_eq!(info["consistency"], "crash", "{info}");
    }
}

/// abbbi/qmpbackup#32: a graceful restart of QEMU stays incremental, where the format stores bitmaps.
#[test]
fn a_restart_in_order_goes_on_with_the_stored_bitmap() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "full", &[]);
        qemu.write("vda", 5, 7 << 20, 70_000);
        qemu.quit();
        qemu.again();
        qemu.write("vda", 6, 9 << 20, 512);
        qemu.write("vdb", 6, 0, 512);
        let (next, said) = backup(&place, &qemu, "next", &[]);
        assert_eq!(of(&next, "vda")["changed_bytes"], 3 * 65_536, "{next}");
        // A raw file stores none.
        assert_eq!(of(&next, "vdb")["changed_bytes"], json!(null), "{next}");
        assert!(
            said.contains(
                "all of disk vdb is read and compared with the last point: QEMU has no bitmap"
            ),
            "{said}"
        );
        assert_eq!(of(&next, "vdb")["stored_bytes"], 65_536, "{next}");
        compare(&place, "web01@next", &qemu.disks);
    }
}

/// abbbi/qmpbackup#25: after a crash of QEMU its bitmap is inconsistent; it is removed, and the disk compared.
#[test]
fn a_crash_of_qemu_is_said_and_compared() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "full", &[]);
        // The bitmap is in the file, marked as in use, once QEMU has been restarted in order.
        qemu.quit();
        qemu.again();
        qemu.write("vda", 5, 7 << 20, 70_000);
        qemu.kill();
        qemu.again();
        let (next, said) = backup(&place, &qemu, "next", &[]);
        assert!(
            said.contains("QEMU ended without storing its bitmap"),
            "{said}"
        );
        assert_eq!(of(&next, "vda")["changed_bytes"], json!(null));
        compare(&place, "web01@next", &qemu.disks);
        qemu.is_clean(2);
        qemu.write("vda", 6, 0, 512);
        let (last, _) = backup(&place, &qemu, "last", &[]);
        assert_eq!(of(&last, "vda")["changed_bytes"], 65_536);
        compare(&place, "web01@last", &qemu.disks);
    }
}

/// A bitmap that somebody disabled, cleared, or made anew with another granularity.
#[test]
fn a_bitmap_that_others_touched_does_not_count() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "full", &[]);
        let id = qemu.ours()[0].clone();
        let node = "node-vda";
        qemu.ask(
            "block-dirty-bitmap-disable",
            json!({"node": node, "name": id}),
        )
        .unwrap();
        qemu.write("vda", 5, 7 << 20, 70_000);
        let (_, said) = backup(&place, &qemu, "one", &[]);
        assert!(said.contains("its bitmap does not record"), "{said}");
        compare(&place, "web01@one", &qemu.disks);
        let id = qemu.ours()[0].clone();
        qemu.ask(
            "block-dirty-bitmap-remove",
            json!({"node": node, "name": id}),
        )
        .unwrap();
        qemu.write("vda", 6, 8 << 20, 70_000);
        let again = json!({"node": node, "name": id, "granularity": 4096});
        qemu.ask("block-dirty-bitmap-add", again).unwrap();
        let (_, said) = backup(&place, &qemu, "two", &[]);
        assert!(said.contains("another granularity"), "{said}");
        compare(&place, "web01@two", &qemu.disks);
        qemu.is_clean(2);
    }
}

/// After `blockdev-snapshot` the guest writes another file, whose bitmap begins with it.
#[test]
fn a_snapshot_of_somebody_else_is_compared() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "full", &[]);
        let overlay = place.path("overlay.qcow2").display().to_string();
        let snapshot = json!({"node-name": "node-vda", "snapshot-file": overlay, "snapshot-node-name": "over"});
        qemu.ask("blockdev-snapshot-sync", snapshot).unwrap();
        qemu.write("vda", 9, 3 << 20, 100_000);
        let (next, said) = backup(&place, &qemu, "next", &[]);
        assert!(
            said.contains("QEMU has no bitmap of the last backup"),
            "{said}"
        );
        compare(&place, "web01@next", &qemu.disks);
        assert_eq!(of(&next, "vda")["stored_bytes"], 2 * 65_536);
    }
}

/// abbbi/virtnbdbackup#9, OpenNebula/one#7092: a bitmap of ours that a killed run left is no obstacle.
#[test]
fn a_bitmap_that_is_there_already_is_no_obstacle() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "full", &[]);
        let ours = qemu.ours()[0].clone();
        let (stale, copy) = (
            format!("{}x", &ours[..30]),
            format!("rfs-{}-changes", &ours[10..18]),
        );
        for name in [stale, copy] {
            qemu.ask(
                "block-dirty-bitmap-add",
                json!({"node": "node-vda", "name": name}),
            )
            .unwrap();
        }
        qemu.ask(
            "block-dirty-bitmap-add",
            json!({"node": "node-vda", "name": "libvirt-1"}),
        )
        .unwrap();
        qemu.write("vda", 5, 0, 512);
        let (next, _) = backup(&place, &qemu, "next", &[]);
        assert_eq!(of(&next, "vda")["changed_bytes"], 65_536);
        qemu.is_clean(2);
        // What is not ours stays.
        let gone = qemu.ask(
            "block-dirty-bitmap-remove",
            json!({"node": "node-vda", "name": "libvirt-1"}),
        );
        assert_eq!(gone, Ok(json!({})));
    }
}

/// abbbi/virtnbdbackup#284: two repositories back up one machine, each by its own bitmap.
#[test]
fn two_repositories_do_not_disturb_each_other() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        let other = Place::new();
        for step in 0..3_u8 {
            let point = format!("p{step}");
            qemu.write("vda", step + 10, usize::from(step) << 20, 512);
            let (report, _) = backup(&place, &qemu, &point, &[]);
            qemu.write("vda", step + 20, usize::from(step + 8) << 20, 512);
            let (second, _) = backup(&other, &qemu, &point, &[]);
            if step > 0 {
                assert_eq!(of(&report, "vda")["changed_bytes"], 2 * 65_536, "{report}");
                assert_eq!(of(&second, "vda")["changed_bytes"], 2 * 65_536, "{second}");
            }
            compare(&other, &format!("web01@{point}"), &qemu.disks);
        }
        assert_eq!(qemu.ours().len(), 4);
    }
}

/// A bitmap that claims too little is found by the sample, the disk is compared, and the alarm raised.
#[test]
fn a_bitmap_that_lies_is_found_by_a_sample() {
    for release in RELEASES {
        let Some((place, mut qemu)) = scene(release) else {
            continue;
        };
        backup(&place, &qemu, "full", &[]);
        let id = qemu.ours()[0].clone();
        qemu.write("vda", 77, 5 << 20, 3 << 20);
        qemu.ask(
            "block-dirty-bitmap-clear",
            json!({"node": "node-vda", "name": id}),
        )
        .unwrap();
        let socket = qemu.socket();
        let lying = place.run(&[
            "backup",
            "web01",
            "--qmp",
            &socket,
            "--point",
            "next",
            "--verify-sample",
            "30%",
            "--seed",
            "7",
        ]);
        let said = String::from_utf8_lossy(&lying.stderr);
        assert_eq!(lying.status.code(), Some(3), "{said}");
        assert!(
            said.contains("claimed too little") && said.contains("vda"),
            "{said}"
        );
        compare(&place, "web01@next", &qemu.disks);
        // The next bitmap is a good one.
        qemu.write("vda", 78, 0, 512);
        let (last, _) = backup(&place, &qemu, "last", &["--verify-sample", "100%"]);
        assert_eq!(of(&last, "vda")["changed_bytes"], 65_536);
        compare(&place, "web01@last", &qemu.disks);
        qemu.is_clean(2);
    }
}

/// Images whose format version stores no bitmaps are tracked while QEMU lives.
#[test]
fn an_image_without_stored_bitmaps_is_tracked_all_the_same() {
    let release = Release::New;
    if !release.is_here() {
        return;
    }
    let place = Place::new();
    let disks = vec![Disk::new("vda", "qcow2", 64)];
    make(&place, &disks);
    let old = std::process::Command::new("qemu-img")
        .args(["amend", "-f", "qcow2", "-o", "compat=0.10", "vda.qcow2"])
        .current_dir(place.dir.path())
        .status();
    assert!(old.unwrap().success() && Path::new(&place.path("vda.qcow2")).exists());
    let mut qemu = Qemu::start(&place, release, disks, &[]);
    qemu.write("vda", 1, 0, 1 << 20);
    let (_, said) = backup(&place, &qemu, "full", &[]);
    assert!(said.contains("tracked until QEMU ends only"), "{said}");
    qemu.write("vda", 2, 0, 512);
    let (next, _) = backup(&place, &qemu, "next", &[]);
    assert_eq!(of(&next, "vda")["changed_bytes"], 65_536);
    compare(&place, "web01@next", &qemu.disks);
}
