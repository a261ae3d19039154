//! `status`: the verdict for people and monitors.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::kit::place::Place;
use crate::merge::back_up;

/// Runs `status`; returns the exit code, the first line, and all of the output.
fn status(place: &Place, more: &[&str]) -> (i32, String, String) {
    let mut args = vec!["status"];
    args.extend_from_slice(more);
    let output = place.run(&args);
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap_or_default().to_owned();
    (output.status.code().unwrap(), first, text)
}

fn json(place: &Place, more: &[&str]) -> Value {
    let mut args = vec!["status", "--json"];
    args.extend_from_slice(more);
    serde_json::from_slice(&place.run(&args).stdout).unwrap()
}

#[test]
fn a_repository_that_is_well_says_so_in_its_first_line() {
    let place = Place::new();
    let (code, first, _) = status(&place, &["--max-age", "1h"]);
    assert_eq!(code, 0);
    assert!(first.starts_with("OK: 0 VMs"), "{first}");
    back_up(&place, 0, 3, &[]);
    place.disk("b.raw", 4, 9);
    place.ok(&["backup", "db01", "vda=b.raw", "--point", "first"]);
    let (code, first, text) = status(&place, &["--max-age", "26h"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        first.starts_with("OK: 2 VMs, the oldest last point is "),
        "{first}"
    );
    assert!(first.ends_with(" free"), "{first}");
    for part in [
        "db01",
        "first",
        "web01",
        "p02",
        "space: ",
        "trash: 0 B",
        "daemon: none",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(status(&place, &["-q"]).2.lines().count(), 1);
    place.fails(2, &["status", "--max-age", "soon"]);
    place.fails(10, &["-r", "nowhere", "status"]);
    // Points that nobody needs by themselves are hidden; what was removed lies in the trash.
    place.ok(&["forget", "web01@p01", "--no-merge"]);
    let health = json(&place, &[]);
    assert_eq!(health["verdict"], "ok");
    let web01 = &health["vms"][1];
    assert_eq!(web01["vm"], "web01");
    assert_eq!(web01["points"], 2);
    assert_eq!(web01["depth"], 3);
    assert_eq!(web01["hidden_layers"], 1);
    assert!(web01["hidden_bytes"].as_u64().unwrap() >= 65_536);
    assert_eq!(web01["unchecked_points"], 2);
    assert_eq!(web01["last"]["point"], "p02");
    assert!(health["trash_bytes"].as_u64().unwrap() > 0);
    assert!(health["space"]["free_bytes"].as_u64().unwrap() > 0);
    let daemon = place.serve(&[]);
    let (code, _, text) = status(&place, &[]);
    assert_eq!(code, 0);
    let pid = daemon.child.id();
    assert!(text.contains(&format!("daemon: pid {pid} on ")), "{text}");
    daemon.stop();
}

#[test]
fn an_old_last_point_and_a_vm_without_one_are_late() {
    let place = Place::new();
    back_up(&place, 0, 1, &[]);
    std::thread::sleep(Duration::from_millis(1100));
    let (code, first, text) = status(&place, &["--max-age", "0s"]);
    assert_eq!(code, 4);
    assert!(
        first.starts_with("LATE: web01 (no point of the last 0s); 1 VM"),
        "{first}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("web01") && line.ends_with("late"))
    );
    // A VM whose only session was aborted has no point.
    let daemon = place.serve(&[]);
    place.ok(&["begin", "db01", "vda=1M", "--session", "one"]);
    place.ok(&["abort", "db01/one"]);
    daemon.stop();
    assert_eq!(status(&place, &[]).0, 0);
    let (code, first, text) = status(&place, &["--max-age", "26h"]);
    assert_eq!(code, 4);
    assert!(first.starts_with("LATE: db01 ("), "{first}");
    assert!(
        text.lines()
            .any(|line| line.starts_with("db01") && line.ends_with("no point"))
    );
    let health = json(&place, &["--max-age", "26h"]);
    assert_eq!(health["verdict"], "late");
    assert_eq!(health["vms"][0]["is_late"], true);
    assert_eq!(health["vms"][1]["is_late"], false);
}

/// Every kind of damage that can be seen without reading layers, and the same repository when it is mended.
#[test]
fn damage_is_red_and_stronger_than_age() {
    let place = Place::new();
    back_up(&place, 0, 3, &[]);
    place.disk("b.raw", 4, 9);
    place.ok(&["backup", "db01", "vda=b.raw", "--point", "first"]);
    let listed = place.json(&["ls", "web01"]);
    let layer = |n: usize| listed[n]["disks"][0]["layer"].as_str().unwrap().to_owned();
    place.ok(&["forget", "web01@p01", "--no-merge"]);
    let vm = place.repo().join("vms/web01");
    let sums = std::fs::read_dir(vm.join("layers")).unwrap();
    let sums: Vec<PathBuf> = sums
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(&layer(2)))
        .filter(|path| path.extension().is_some_and(|e| e == "sums"))
        .collect();
    let changed = |path: &PathBuf, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, change(bytes)).unwrap();
    };
    let flip = |mut bytes: Vec<u8>| {
        bytes[20] ^= 1;
        bytes
    };
    let say_damaged = |bytes: Vec<u8>| {
        let mut index: Value = serde_json::from_slice(&bytes).unwrap();
        let members = index.as_object_mut().unwrap();
        members.remove("blake3");
        members["points"][0]["check"] = "damaged".into();
        members["points"][0]["checked_at"] = "2026-11-20T02:00:00Z".into();
        serde_json::to_vec(&index).unwrap()
    };
    type Harm<'a> = (PathBuf, Option<&'a dyn Fn(Vec<u8>) -> Vec<u8>>, &'a str);
    let harms: [Harm<'_>; 8] = [
        (
            vm.join(format!("layers/{}.qcow2", layer(0))),
            None,
            "web01@p00: ",
        ),
        (
            vm.join(format!("layers/{}.qcow2", layer(1))),
            None,
            "web01: vms/web01/layers/",
        ),
        (
            vm.join(format!("layers/{}.qcow2", layer(2))),
            None,
            "web01@p02: ",
        ),
        (sums[0].clone(), None, ".sums is missing"),
        (vm.join("index.json"), Some(&flip), "index.json"),
        (
            vm.join("index.json"),
            Some(&say_damaged),
            "web01@p00: verifying has found damage",
        ),
        (vm.join("vm.json"), Some(&flip), "vm.json"),
        (vm.join("vm.json"), None, "vm.json"),
    ];
    for (path, change, says) in harms {
        let aside = place.path("aside");
        std::fs::copy(&path, &aside).unwrap();
        match change {
            Some(change) => changed(&path, change),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let (code, first, text) = status(&place, &["--max-age", "26h"]);
        assert_eq!(code, 3, "{says}: {text}");
        assert!(first.starts_with("DAMAGED: web01; "), "{first}");
        let fault = text.lines().find(|line| line.starts_with("damaged: "));
        assert!(
            fault.is_some_and(|line| line.contains(says)),
            "{says}: {text}"
        );
        let said = place.fails(3, &["status", "-q"]);
        assert!(said.contains("damage is known of 1 VM"), "{said}");
        // Both are said; damage decides.
        std::thread::sleep(Duration::from_millis(1100));
        let (code, first, _) = status(&place, &["--max-age", "0s"]);
        assert_eq!(code, 3);
        assert!(first.contains("LATE: db01, "), "{first}");
        let health = json(&place, &["--max-age", "0s"]);
        assert_eq!(health["verdict"], "damaged");
        assert!(!health["vms"][1]["damage"].as_array().unwrap().is_empty());
        std::fs::rename(&aside, &path).unwrap();
        let (code, _, text) = status(&place, &["--max-age", "26h"]);
        assert_eq!(code, 0, "{says}: {text}");
    }
}

#[test]
fn a_layer_that_was_moved_away_costs_no_ancestor() {
    let place = Place::new();
    let contents = back_up(&place, 0, 5, &[]);
    let listed = place.json(&["ls", "web01"]);
    let layer = |n: usize| {
        let layer = listed[n]["disks"][0]["layer"].as_str().unwrap();
        place.repo().join(format!("vms/web01/layers/{layer}.qcow2"))
    };
    place.ok(&["forget", "web01@p00", "web01@p01", "--no-merge"]);
    std::fs::rename(layer(1), place.path("away")).unwrap();
    let files = || {
        let entries = std::fs::read_dir(place.repo().join("vms/web01/layers")).unwrap();
        entries.count()
    };
    let before = files();
    place.ok(&["forget", "web01@p02", "--no-merge"]);
    place.run(&["forget", "web01@p04"]);
    place.fails(3, &["forget", "--compact", "web01"]);
    assert_eq!(files(), before);
    assert_eq!(status(&place, &[]).0, 3);
    place.disk("b.raw", 4, 9);
    place.ok(&["backup", "db01", "vda=b.raw"]);
    assert_eq!(files(), before);
    assert_eq!(status(&place, &[]).0, 3);
    std::fs::rename(place.path("away"), layer(1)).unwrap();
    assert_eq!(status(&place, &[]).0, 0);
    assert!(place.restored("web01@p03", "vda") == contents["p03"]);
}

/// A look beside a writer is never red: the index and the listing are of different moments.
#[test]
fn a_look_beside_a_writer_sees_no_damage() {
    let place = Place::new();
    back_up(&place, 0, 3, &[]);
    let daemon = place.serve(&[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let (code, _, text) = status(&place, &["--max-age", "1h"]);
                assert_eq!(code, 0, "{text}");
            }
        });
        for n in 3..12 {
            back_up(&place, n, 1, &[]);
            place.ok(&["forget", "web01", "--keep-last", "2", "--compact"]);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    daemon.stop();
}

/// A chain that is too deep is said, and the next `forget` merges it, also where nothing is forgotten.
#[test]
fn a_chain_that_is_too_deep_is_said_and_merged() {
    let place = Place::new();
    let contents = back_up(&place, 0, 4, &[]);
    place.ok(&["forget", "web01@p01", "web01@p02", "--no-merge"]);
    let state = || {
        let (code, _, text) = status(&place, &[]);
        assert_eq!(code, 0, "{text}");
        let line = text.lines().find(|line| line.starts_with("web01")).unwrap();
        line.rsplit("  ").next().unwrap().trim().to_owned()
    };
    assert_eq!(state(), "ok");
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p04"]);
    let path = place.repo().join("restorefs.json");
    let mut format: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    format.as_object_mut().unwrap().remove("blake3");
    format["defaults"]["max_depth"] = 4.into();
    std::fs::write(&path, serde_json::to_vec(&format).unwrap()).unwrap();
    assert_eq!(state(), "too deep");
    assert_eq!(json(&place, &[])["vms"][0]["is_too_deep"], true);
    place.ok(&["forget", "web01", "--keep-last", "9", "--no-merge"]);
    assert_eq!(state(), "too deep");
    let said = place.ok(&["forget", "web01", "--keep-last", "9"]);
    assert!(said.contains("merged"), "{said}");
    assert_eq!(state(), "ok");
    for point in ["p00", "p03"] {
        assert!(place.restored(&format!("web01@{point}"), "vda") == contents[point]);
    }
}
