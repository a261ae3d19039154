//! Domains of a real libvirt: histories against a model, what changes in the domain, and faults, after each of which the next backup is
//! right and nothing is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kit::chance::Chance;
use crate::kit::shell::run;
use crate::kit::wait::eventually;
use crate::libvirtd::{Libvirtd, failed};

/// What is said of a disk of which everything is read.
const WHOLE: &str = "is read and compared with the last point";

fn info(libvirtd: &Libvirtd, point: &str) -> Value {
    libvirtd.place.json(&["info", &format!("web01@{point}")])
}

#[test]
fn every_point_of_a_history_is_right() {
    let Some(mut libvirtd) = Libvirtd::start() else {
        return;
    };
    libvirtd.add("vda", "qcow2", 8 << 20);
    libvirtd.add("vdb", "qcow2", 5 << 20);
    libvirtd.add("vdc", "raw", 2 << 20);
    libvirtd.define();
    libvirtd.boot();
    let mut chance = Chance(0x11b);
    let mut states = Vec::new();
    for round in 0..6 {
        for _ in 0..chance.below(6) {
            let target = ["vda", "vdb", "vdc"][chance.below(3)];
            let size = libvirtd.disks[target].bytes.len();
            let (offset, length) = (chance.below(size / 512), chance.below(400) + 1);
            let length = (length * 512).min(size - offset * 512);
            libvirtd.write(target, chance.below(256) as u8, offset * 512, length);
        }
        let point = format!("p{round}");
        let said = libvirtd.backup(&point, &[]);
        assert!(
            said.contains("sda is not backed up: it is a removable medium"),
            "{said}"
        );
        assert_eq!(
            said.contains(&format!("disk vdc {WHOLE}: the format raw")),
            round > 0,
            "{said}"
        );
        for tracked in ["vda", "vdb"] {
            assert!(!said.contains(&format!("disk {tracked} {WHOLE}")), "{said}");
            assert_eq!(
                said.contains(&format!("{tracked}: 0 B read, 0 B changed"))
                    || said.contains(" changed, "),
                round > 0,
                "{said}"
            );
        }
        assert_eq!(libvirtd.checkpoints().len(), 1);
        states.push((point, libvirtd.disks.clone()));
    }
    for (point, disks) in states {
        libvirtd.disks = disks;
        libvirtd.compare(&point);
    }
    let newest = info(&libvirtd, "p5");
    assert_eq!(newest["consistency"], "crash");
    let checkpoint = libvirtd.checkpoints();
    assert_eq!(newest["disks"][0]["change_id"], checkpoint[0].as_str());
    assert!(
        newest["attached"].to_string().contains("domain.xml"),
        "{newest}"
    );
    // What was there before the instant is not what is there later.
    let planned = libvirtd.command(&["--dry-run", "--json"]).output().unwrap();
    let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(planned["disks"][0]["bitmap"], checkpoint[0].as_str());
    assert_eq!(planned["disks"][0]["changed_bytes"], 0);
    assert_eq!(planned["disks"][2]["bitmap"], Value::Null);
    assert_eq!(planned["left_out"][0]["name"], "sda");
    assert_eq!(libvirtd.checkpoints(), checkpoint);
}

#[test]
fn a_freeze_that_fails_is_told() {
    let Some(libvirtd) = Libvirtd::of_two() else {
        return;
    };
    let said = libvirtd.backup("one", &["--quiesce"]);
    assert!(said.contains("filesystems were not frozen"), "{said}");
    let point = info(&libvirtd, "one");
    assert_eq!(point["consistency"], "crash");
    assert!(
        point["consistency_note"].to_string().contains("not frozen"),
        "{point}"
    );
}

#[test]
fn disks_that_come_and_go_are_known_by_serial_or_file() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    libvirtd.backup("one", &[]);
    // Shut down and started again: the bitmaps are in the images.
    libvirtd.shut_off();
    libvirtd.disks.get_mut("vda").unwrap().serial = Some("S-1".to_owned());
    libvirtd.define();
    libvirtd.boot();
    libvirtd.write("vdb", 7, 0, 65_536);
    let said = libvirtd.backup("two", &[]);
    assert!(!said.contains("disk vdb"), "{said}");
    assert!(said.contains("64.0 KiB changed"), "{said}");
    // With another target it is the same disk, and another one has come.
    libvirtd.shut_off();
    let moved = libvirtd.disks.remove("vda").unwrap();
    libvirtd.disks.insert("vdd".to_owned(), moved);
    libvirtd.add("vdc", "qcow2", 2 << 20);
    libvirtd.define();
    libvirtd.boot();
    libvirtd.write("vdd", 8, 0, 1000 * 512);
    libvirtd.write("vdc", 9, 0, 512);
    let said = libvirtd.backup("three", &[]);
    assert!(!said.contains(WHOLE), "{said}");
    let of = |point: &Value, name: &str| {
        let mut disks = point["disks"].as_array().unwrap().iter();
        disks.find(|disk| disk["name"] == name).unwrap().clone()
    };
    let three = info(&libvirtd, "three");
    assert_eq!(of(&three, "vdd")["kind"], "incremental");
    assert_eq!(of(&three, "vdc")["kind"], "full");
    // One has gone, and one has another file: it is another disk.
    libvirtd.shut_off();
    libvirtd.disks.remove("vdb");
    libvirtd.add("vdc", "qcow2", 2 << 20);
    std::fs::rename(
        libvirtd.place.path("vdc.qcow2"),
        libvirtd.place.path("new.qcow2"),
    )
    .unwrap();
    libvirtd.disks.get_mut("vdc").unwrap().file = "new.qcow2".to_owned();
    libvirtd.define();
    libvirtd.boot();
    libvirtd.write("vdd", 10, 0, 512);
    let said = libvirtd.backup("four", &[]);
    assert!(
        said.contains("the machine has no disk vdb any more"),
        "{said}"
    );
    assert!(!said.contains(WHOLE), "{said}");
    let four = info(&libvirtd, "four");
    assert_eq!(of(&four, "vdd")["kind"], "incremental");
    assert_eq!(of(&four, "vdc")["kind"], "full");
}

/// The disk of a domain that is cloned from a template is known whether the domain runs or not, and stays tracked when libvirt puts an
/// overlay above it.
#[test]
fn overlays_do_not_make_another_disk() {
    let Some(mut libvirtd) = Libvirtd::start() else {
        return;
    };
    libvirtd.add("vda", "qcow2", 4 << 20);
    let (template, overlay) = (
        libvirtd.place.path("template.qcow2"),
        libvirtd.place.path("vda.qcow2"),
    );
    std::fs::rename(&overlay, &template).unwrap();
    let [template, overlay] = [&template, &overlay].map(|path| path.to_str().unwrap());
    let create = [
        "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", template, overlay,
    ];
    run("qemu-img", &create);
    libvirtd.define();
    libvirtd.backup("off", &[]);
    libvirtd.boot();
    libvirtd.write("vda", 3, 0, 70 << 10);
    let said = libvirtd.backup("running", &[]);
    assert!(said.contains("was shut off at the last backup"), "{said}");
    assert_eq!(
        info(&libvirtd, "running")["disks"][0]["kind"],
        "incremental"
    );
    let file = libvirtd.place.path("vda.snap");
    let spec = format!("vda,snapshot=external,file={}", file.display());
    libvirtd.virsh(&[
        "snapshot-create-as",
        "guest",
        "s1",
        "--disk-only",
        "--diskspec",
        &spec,
    ]);
    libvirtd.write("vda", 4, 1 << 20, 70 << 10);
    let said = libvirtd.backup("above", &[]);
    assert!(!said.contains(WHOLE), "{said}");
    libvirtd.shut_off();
    libvirtd.backup("off2", &[]);
    assert_eq!(info(&libvirtd, "off2")["disks"][0]["kind"], "incremental");
}

#[test]
fn a_checkpoint_whose_description_is_lost_is_described_again() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    libvirtd.backup("one", &[]);
    let checkpoint = libvirtd.checkpoints().remove(0);
    libvirtd.virsh(&["checkpoint-delete", "guest", &checkpoint, "--metadata"]);
    libvirtd.write("vda", 7, 0, 512);
    let said = libvirtd.backup("two", &[]);
    assert!(!said.contains(WHOLE), "{said}");
    // One that libvirt has deleted with its bitmaps is gone.
    let checkpoint = libvirtd.checkpoints().remove(0);
    libvirtd.virsh(&["checkpoint-delete", "guest", &checkpoint]);
    libvirtd.write("vda", 8, 0, 512);
    let said = libvirtd.backup("three", &[]);
    assert!(said.contains(&format!("disk vda {WHOLE}")), "{said}");
    assert!(said.contains("no whole bitmap"), "{said}");
    libvirtd.write("vda", 9, 0, 512);
    let said = libvirtd.backup("four", &[]);
    assert!(!said.contains(WHOLE), "{said}");
}

#[test]
fn libvirtd_restarts_in_the_middle() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    let child = libvirtd.slow("one");
    let before = libvirtd.disks.clone();
    libvirtd.write("vda", 99, 0, 1 << 20);
    libvirtd.stop();
    std::thread::sleep(Duration::from_secs(3));
    libvirtd.restart();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let after = std::mem::replace(&mut libvirtd.disks, before);
    libvirtd.compare("one");
    libvirtd.disks = after;
    libvirtd.is_clean();
    let said = libvirtd.backup("two", &[]);
    assert!(!said.contains(WHOLE), "{said}");
}

#[test]
fn a_domain_that_ends_in_the_middle() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    libvirtd.backup("one", &[]);
    for (round, in_order) in [true, false].into_iter().enumerate() {
        let pattern = 10 + round as u8;
        libvirtd.write("vda", pattern, 0, 6 << 20);
        let child = libvirtd.slow("broken");
        libvirtd.write("vdb", pattern, 0, 512);
        match in_order {
            true => libvirtd.shut_off(),
            false => libvirtd.kill_qemu(),
        }
        let said = failed(child.wait_with_output().unwrap());
        assert!(said.contains("shut off"), "{said}");
        assert_eq!(
            libvirtd.place.json(&["sessions"]).as_array().unwrap().len(),
            0
        );
        libvirtd.boot();
        libvirtd.write("vda", pattern + 5, 7 << 20, 512);
        let said = libvirtd.backup(&format!("after{round}"), &[]);
        // QEMU stores its bitmaps when it ends in order.
        assert_eq!(said.contains(WHOLE), !in_order, "{said}");
        assert_eq!(
            said.contains("QEMU ended without storing it"),
            !in_order,
            "{said}"
        );
    }
    libvirtd.write("vda", 77, 0, 512);
    let said = libvirtd.backup("last", &[]);
    assert!(!said.contains(WHOLE), "{said}");
}

#[test]
fn a_killed_backup_leaves_nothing() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    libvirtd.backup("one", &[]);
    let mut chance = Chance(0x9);
    for round in 0..5 {
        let pattern = round as u8 + 20;
        libvirtd.write("vda", pattern, chance.below(100) << 16, 1 << 20);
        let mut child = libvirtd
            .command(&["--limit", "1M"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pause = [0, 200, 350, 500, 900][round] + chance.below(100) as u64;
        std::thread::sleep(Duration::from_millis(pause));
        let _ = child.kill();
        child.wait().unwrap();
        libvirtd.write("vdb", pattern, chance.below(60) << 16, 512);
        // The guard of the killed backup may still be at work.
        let said = libvirtd.backup(&format!("p{round}"), &[]);
        assert!(!said.contains(WHOLE), "{said}");
    }
    // Without the next backup the guard cleans up all the same.
    libvirtd.write("vda", 50, 0, 4 << 20);
    let mut child = libvirtd.slow("dead");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the guard has cleaned up", || {
        !libvirtd.has_job()
            && std::fs::read_dir(libvirtd.scratch())
                .unwrap()
                .next()
                .is_none()
    });
}

#[test]
fn a_domain_that_is_shut_off() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    libvirtd.backup("running", &[]);
    libvirtd.write("vda", 30, 0, 512);
    libvirtd.shut_off();
    let said = libvirtd.backup("off", &[]);
    assert!(said.contains("the domain is shut off"), "{said}");
    let point = info(&libvirtd, "off");
    assert!(
        point["attached"].to_string().contains("domain.xml"),
        "{point}"
    );
    // It starts while its files are read.
    let child = libvirtd
        .command(&["--point", "broken", "--limit", "1M"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the copy has begun", || {
        libvirtd.place.json(&["sessions"]).as_array().unwrap().len() == 1
    });
    std::thread::sleep(Duration::from_millis(500));
    libvirtd.boot();
    let said = failed(child.wait_with_output().unwrap());
    assert!(
        said.contains("the domain was started meanwhile: the point is discarded"),
        "{said}"
    );
    libvirtd.write("vdb", 31, 0, 512);
    let said = libvirtd.backup("again", &[]);
    assert!(said.contains("was shut off at the last backup"), "{said}");
    libvirtd.write("vdb", 32, 0, 512);
    let said = libvirtd.backup("tracked", &[]);
    assert!(!said.contains(WHOLE), "{said}");
}

#[test]
fn two_repositories_in_turn() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    let other = libvirtd.place.path("other");
    let other = other.to_str().unwrap();
    libvirtd.place.ok(&["init", other]);
    for round in 0..3_u8 {
        libvirtd.write(
            "vda",
            40 + round,
            usize::from(round) << 20,
            70_000 / 512 * 512,
        );
        let said = libvirtd.backup(&format!("p{round}"), &[]);
        assert!(!said.contains(WHOLE), "{said}");
        libvirtd.write("vdb", 60 + round, usize::from(round) << 20, 512);
        let output = libvirtd.command(&["--repo", other]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains(WHOLE), "{said}");
        for target in ["vda", "vdb"] {
            let out = libvirtd.place.path("other.raw");
            let _ = std::fs::remove_file(&out);
            libvirtd.place.ok(&[
                "--repo",
                other,
                "restore",
                "web01@latest",
                target,
                "other.raw",
            ]);
            assert!(
                std::fs::read(out).unwrap() == libvirtd.disks[target].bytes,
                "{target}"
            );
        }
        assert_eq!(libvirtd.checkpoints().len(), 2);
    }
}

#[test]
fn a_job_of_another_program_is_left_alone() {
    let Some(libvirtd) = Libvirtd::of_two() else {
        return;
    };
    let xml = libvirtd.place.path("foreign.xml");
    let socket = libvirtd.place.path("foreign.sock");
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/></domainbackup>",
        socket.display()
    );
    std::fs::write(&xml, text).unwrap();
    libvirtd.virsh(&["backup-begin", "guest", xml.to_str().unwrap()]);
    let begun = Instant::now();
    let said = libvirtd.refused(&[]);
    assert!(
        said.contains("another program backs the domain up"),
        "{said}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(libvirtd.has_job());
    libvirtd.virsh(&["domjobabort", "guest"]);
    eventually("the other job has ended", || !libvirtd.has_job());
    libvirtd.backup("one", &[]);
}

#[test]
fn scratch_without_room_is_refused_before_it_begins() {
    let Some(mut libvirtd) = Libvirtd::of_two() else {
        return;
    };
    let scratch = libvirtd.scratch();
    let scratch = scratch.to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", scratch]);
    let said = libvirtd.refused(&[]);
    let left = std::fs::read_dir(scratch).unwrap().count();
    run("umount", &[scratch]);
    assert!(said.contains("--scratch"), "{said}");
    assert_eq!((left, libvirtd.checkpoints().len()), (0, 0));
    libvirtd.write("vda", 3, 0, 8 << 20);
    libvirtd.backup("one", &[]);
    // An old image cannot keep a bitmap, and the other disk is not tracked then either.
    libvirtd.shut_off();
    let old = libvirtd.place.path("vdb.qcow2");
    run(
        "qemu-img",
        &[
            "amend",
            "-f",
            "qcow2",
            "-o",
            "compat=0.10",
            old.to_str().unwrap(),
        ],
    );
    libvirtd.boot();
    let said = libvirtd.backup("old", &[]);
    assert!(said.contains("changes are not tracked"), "{said}");
    let said = libvirtd.backup("older", &[]);
    assert!(said.contains("its changes were not tracked"), "{said}");
}

#[test]
fn mistakes_are_named() {
    let Some(libvirtd) = Libvirtd::of_two() else {
        return;
    };
    let uri = libvirtd.uri();
    let backup = |arguments: &[&str]| {
        let all = [&["backup", "web01", "--libvirt"], arguments].concat();
        libvirtd.place.run(&all)
    };
    let said = failed(backup(&["nobody", "--connect", &uri]));
    assert!(said.contains("failed to get domain 'nobody'"), "{said}");
    let said = failed(backup(&["guest", "--connect", "qemu+ssh://host/system"]));
    assert!(said.contains("on the host where it runs"), "{said}");
    let nowhere = "qemu+unix:///system?socket=/nowhere";
    let begun = Instant::now();
    let said = failed(backup(&["guest", "--connect", nowhere]));
    assert!(
        said.contains("--connect URI") && begun.elapsed() < Duration::from_secs(10),
        "{said}"
    );
    let mut command = libvirtd.command(&[]);
    let said = failed(command.env("PATH", "/nowhere").output().unwrap());
    assert!(said.contains("Debian: libvirt-clients"), "{said}");
}
