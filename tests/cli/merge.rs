//! Merging by the program itself: on real filesystems, beside readers of a daemon, and when its process is killed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use restorefs::block::ReadAt;
use restorefs::nbd::client::Client;

use crate::filesystem::Filesystem;
use crate::kit::need::{can_mount, has};
use crate::kit::place::Place;
use crate::tool;

const CLUSTER: usize = 65_536;
const CLUSTERS: usize = 96;

/// Backs up a disk `count` times, each time with some clusters changed; returns what each point has.
pub(crate) fn back_up(
    place: &Place,
    first: usize,
    count: usize,
    more: &[&str],
) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let path = place.path("a.raw");
    let mut bytes = std::fs::read(&path).unwrap_or_else(|_| place.disk("a.raw", CLUSTERS, 1));
    for n in first..first + count {
        for m in 0..6 {
            let cluster = (n * 11 + m * 5) % CLUSTERS;
            let fill = (n * 7 + m) as u8;
            let change = &mut bytes[cluster * CLUSTER..(cluster + 1) * CLUSTER];
            for (at, byte) in change.iter_mut().enumerate() {
                *byte = fill ^ (at >> 8) as u8;
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        let name = format!("p{n:02}");
        let mut args = vec!["backup", "web01", "vda=a.raw", "--point", &name];
        args.extend_from_slice(more);
        place.ok(&args);
        contents.insert(name, bytes.clone());
    }
    contents
}

pub(crate) fn layers(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.repo().join("vms/web01/layers")).unwrap();
    let mut layers: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "qcow2"))
        .collect();
    layers.sort();
    layers
}

/// Files below `layers/` that are no layers and no sums.
fn leftovers(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.repo().join("vms/web01/layers")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| {
            !name.ends_with(".qcow2") && !name.ends_with(".sums") || name.contains(".open")
        })
        .collect()
}

/// The points that are listed read as they were backed up, for us and for QEMU.
fn check(place: &Place, contents: &BTreeMap<String, Vec<u8>>) {
    let listed = place.json(&["ls", "web01"]);
    let points = listed.as_array().unwrap_or_else(|| panic!("{listed}"));
    assert!(!points.is_empty());
    for point in points {
        let name = point["name"].as_str().unwrap();
        assert!(
            place.restored(&format!("web01@{name}"), "vda") == contents[name],
            "{name}"
        );
        let layer = point["disks"][0]["layer"].as_str().unwrap();
        if has("qemu-img") {
            let top = format!("repo/vms/web01/layers/{layer}.qcow2");
            let args = ["convert", "-f", "qcow2", "-O", "raw", &top, "flat.raw"];
            tool::ok(place, "qemu-img", &args);
            let flat = std::fs::read(place.path("flat.raw")).unwrap();
            assert!(flat == contents[name], "QEMU reads {name}");
        }
    }
    for layer in layers(place) {
        if has("qemu-img") {
            tool::ok(place, "qemu-img", &["check", "-q", layer.to_str().unwrap()]);
        }
    }
}

fn points_that_are_kept_need_no_others(place: &Place, more: &[&str]) {
    let contents = back_up(place, 0, 8, more);
    assert_eq!(layers(place).len(), 8);
    // The layers below those that stay are merged, where that is worth it.
    place.ok(&["forget", "web01", "--keep-last", "2"]);
    check(place, &contents);
    let said = place.ok(&["forget", "--compact", "web01"]);
    assert_eq!(layers(place).len(), 2, "{said}");
    assert_eq!(leftovers(place), Vec::<String>::new());
    check(place, &contents);
    // A full layer: the one below is not needed by the newest any more.
    place.ok(&["synthetic-full", "web01@latest"]);
    let info = place.json(&["synthetic-full", "web01@latest"]);
    assert_eq!(info["layers"], 0, "{info}");
    check(place, &contents);
    // The next backup goes on as before.
    let mut all = contents;
    all.extend(back_up(place, 8, 1, more));
    check(place, &all);
}

/// Sets the depth of chains at which they are shortened; the sidecar's own hash goes.
fn set_max_depth(place: &Place, max_depth: u32) {
    let path = place.repo().join("restorefs.json");
    let mut format: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    format.as_object_mut().unwrap().remove("blake3");
    format["defaults"]["max_depth"] = max_depth.into();
    std::fs::write(&path, serde_json::to_vec(&format).unwrap()).unwrap();
}

fn depths(place: &Place) -> Vec<u64> {
    let listed = place.json(&["ls", "web01"]);
    let points = listed.as_array().unwrap().iter();
    let depths = points.map(|point| point["disks"][0]["depth"].as_u64().unwrap());
    depths.collect()
}

#[test]
fn a_backup_shortens_a_chain_that_is_too_deep() {
    for with_daemon in [false, true] {
        let place = Place::new();
        set_max_depth(&place, 4);
        let daemon = with_daemon.then(|| place.serve(&[]));
        let mut contents = back_up(&place, 0, 4, &[]);
        assert_eq!(depths(&place), [1, 2, 3, 4]);
        // Points need all layers: the newest becomes full.
        contents.extend(back_up(&place, 4, 3, &[]));
        assert_eq!(depths(&place), [1, 2, 3, 4, 1, 2, 3]);
        check(&place, &contents);
        // Two of them are hidden: they are merged, and nothing becomes full.
        place.ok(&["forget", "web01@p05", "web01@p06", "--no-merge"]);
        contents.remove("p05");
        contents.remove("p06");
        contents.extend(back_up(&place, 7, 2, &[]));
        let last = *depths(&place).last().unwrap();
        assert!((2..=4).contains(&last), "{last}");
        check(&place, &contents);
        let said = place.ok(&["jobs", "--kind", "merge"]);
        assert!(said.contains("completed"), "{said}");
        drop(daemon);
    }
}

#[test]
fn a_differential_goes_on_from_a_layer_that_a_merge_made_full() {
    let place = Place::new();
    let mut contents = back_up(&place, 0, 4, &[]);
    // p00 was the full one; what is left of it is in p01.
    place.ok(&["forget", "web01@p00"]);
    place.ok(&["forget", "--compact", "web01"]);
    contents.remove("p00");
    contents.extend(back_up(&place, 4, 1, &["--differential"]));
    check(&place, &contents);
    let info = place.json(&["info", "web01@p04"]);
    assert_eq!(info["parent"]["name"], "p01", "{info}");
    assert_eq!(info["kind"], "differential");
    // So does one from a layer that was made full.
    place.ok(&["synthetic-full", "web01@p03"]);
    contents.extend(back_up(&place, 5, 1, &["--differential"]));
    check(&place, &contents);
    let info = place.json(&["info", "web01@p05"]);
    assert_eq!(info["parent"]["name"], "p03", "{info}");
}

#[test]
fn points_that_are_kept_need_no_others_here() {
    for more in [&[][..], &["--compress", "zstd"]] {
        points_that_are_kept_need_no_others(&Place::new(), more);
    }
}

#[test]
fn points_that_are_kept_need_no_others_on_xfs_with_shared_extents() {
    if let Some(filesystem) = Filesystem::new("xfs", 400) {
        points_that_are_kept_need_no_others(&filesystem.place, &[]);
    }
}

#[test]
fn points_that_are_kept_need_no_others_without_links_and_shared_extents() {
    let place = Place::new();
    let contents = back_up(&place, 0, 5, &[]);
    let mut command = place.command(&["forget", "web01", "--keep-last", "1", "--compact"]);
    let output = command
        .env("RESTOREFS_REFUSE", "reflink,link,renameat2")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(layers(&place).len(), 1);
    check(&place, &contents);
}

#[test]
fn what_is_merged_later_is_left_alone_now() {
    let place = Place::new();
    let contents = back_up(&place, 0, 4, &[]);
    place.ok(&["forget", "web01", "--keep-last", "1", "--no-merge"]);
    assert_eq!(layers(&place).len(), 4);
    let plan = place.json(&["forget", "web01", "--keep-last", "1", "--dry-run"]);
    let mergeable = plan["vms"][0]["mergeable_bytes"].as_u64().unwrap();
    assert!(mergeable > 0, "{plan}");
    // What is wrong is said before anything is done.
    for limit in ["0", "x", "-1"] {
        let limit = format!("--limit={limit}");
        place.fails(2, &["forget", "web01", "--all", &limit]);
    }
    assert_eq!(layers(&place).len(), 4);
    let done = place.json(&["forget", "--compact", "web01", "--limit", "64M"]);
    let done = &done["vms"][0];
    assert_eq!(
        (&done["merged"]["layers"], &done["mergeable_bytes"]),
        (&3.into(), &0.into())
    );
    // It frees what was said, but for the tables of the files.
    let freed = done["merged"]["freed_bytes"].as_u64().unwrap();
    assert!(
        freed.abs_diff(mergeable) < 1 << 20,
        "{freed} of {mergeable}"
    );
    assert_eq!(layers(&place).len(), 1);
    check(&place, &contents);
}

/// Readers of a kept point, over NBD, in the daemon's mount and in a follower's, while others are forgotten and merged.
#[test]
fn readers_of_a_daemon_notice_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mut contents = back_up(&place, 0, 4, &[]);
    let mountpoint = place.path("mnt");
    std::fs::create_dir(&mountpoint).unwrap();
    let daemon = place.serve(&["--mount", mountpoint.to_str().unwrap(), "--memory", "32M"]);
    place.ok(&["keep", "web01@p02"]);
    // A follower: another process, which knows of no swap.
    let followed = place.path("followed");
    std::fs::create_dir(&followed).unwrap();
    place.ok(&["mount", followed.to_str().unwrap(), "--memory", "32M"]);
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let wanted = contents["p02"].clone();
    std::thread::scope(|scope| {
        let over_nbd = || {
            while !stop.load(Ordering::Relaxed) {
                let export =
                    Client::connect(&daemon.uri("web01/p02/vda").parse().unwrap()).unwrap();
                let mut bytes = vec![0; wanted.len()];
                export.read_at(0, &mut bytes).unwrap();
                assert!(bytes == wanted, "wrong bytes over NBD");
                export.disconnect().unwrap();
                reads.fetch_add(1, Ordering::Relaxed);
            }
        };
        scope.spawn(over_nbd);
        for tree in [mountpoint.clone(), followed.clone()] {
            let (stop, reads, wanted) = (&stop, &reads, &wanted);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let bytes = std::fs::read(tree.join("web01/p02/disks/vda.raw")).unwrap();
                    assert!(bytes == *wanted, "wrong bytes in {}", tree.display());
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..6 {
            contents.extend(back_up(&place, 4 + round * 2, 2, &[]));
            place.ok(&["forget", "web01", "--keep-last", "1", "--compact"]);
        }
        // Another process that only reads does so, too.
        check(&place, &contents);
        let before = reads.load(Ordering::Relaxed);
        while reads.load(Ordering::Relaxed) < before + 2 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(layers(&place).len(), 2);
    place.ok(&["umount", followed.to_str().unwrap()]);
    drop(daemon);
    let _ = Command::new("umount").arg("-l").arg(&mountpoint).output();
}

#[test]
fn a_merge_that_is_killed_leaves_nothing_behind() {
    let place = Place::new();
    let contents = back_up(&place, 0, 5, &[]);
    place.ok(&["forget", "web01", "--keep-last", "1", "--no-merge"]);
    let mut merged = 0;
    for n in 0..12_u64 {
        let mut child = place
            .command(&["forget", "--compact", "web01"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(4 + n * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        check(&place, &contents);
        // The next owner of the lock removes the rest.
        place.ok(&["tag", "web01@latest", &format!("round={n}")]);
        assert_eq!(leftovers(&place), Vec::<String>::new());
        merged = layers(&place).len();
        if merged == 1 {
            break;
        }
    }
    place.ok(&["forget", "--compact", "web01"]);
    assert_eq!(layers(&place).len(), 1, "{merged} before");
    check(&place, &contents);
}

/// Without a daemon, the lock goes from one process to the other; a build of the one is no leftover for the other.
#[test]
fn backups_of_another_process_go_on() {
    let place = Place::new();
    let mut contents = back_up(&place, 0, 3, &[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let args = [
                    "forget",
                    "web01",
                    "--keep-last",
                    "2",
                    "--compact",
                    "--wait",
                    "60s",
                ];
                place.ok(&args);
            }
        });
        for n in 0..8 {
            contents.extend(back_up(&place, 3 + n, 1, &["--wait", "60s"]));
        }
        stop.store(true, Ordering::Relaxed);
    });
    place.ok(&["forget", "web01", "--keep-last", "2", "--compact"]);
    assert_eq!((layers(&place).len(), leftovers(&place)), (2, Vec::new()));
    check(&place, &contents);
}

/// A hidden layer that is damaged is not merged: exit code 3, its name, and all as it was; the other VM is merged.
#[test]
fn damage_is_named_and_nothing_is_merged_over_it() {
    let place = Place::new();
    let contents = back_up(&place, 0, 3, &[]);
    place.disk("b.raw", 4, 9);
    place.ok(&["backup", "other", "vda=b.raw"]);
    place.ok(&["forget", "web01", "--keep-last", "1", "--no-merge"]);
    // The full one is the oldest; names of one second are in no order.
    let size = |path: &PathBuf| path.metadata().unwrap().len();
    let oldest = layers(&place).into_iter().max_by_key(size).unwrap();
    let sound = std::fs::read(&oldest).unwrap();
    let mut bytes = sound.clone();
    // A cluster that was never written again, wherever it lies in the file.
    let cluster = |point: &str, n: usize| &contents[point][n * CLUSTER..(n + 1) * CLUSTER];
    let kept = (0..CLUSTERS).map(|n| cluster("p00", n));
    let mut kept = kept.zip((0..CLUSTERS).map(|n| cluster("p02", n)));
    let at = kept.find_map(|(first, last)| {
        let is_kept = first == last && first.iter().any(|byte| *byte != 0);
        let mut places = sound.chunks_exact(CLUSTER);
        places.position(|place| is_kept && place == first)
    });
    bytes[at.unwrap() * CLUSTER + 7] ^= 4;
    let write = |bytes: &[u8]| {
        std::fs::remove_file(&oldest).unwrap();
        std::fs::write(&oldest, bytes).unwrap();
    };
    write(&bytes);
    let mut command = place.command(&["forget", "--compact", "*"]);
    let output = command.env("RESTOREFS_REFUSE", "reflink").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{message}");
    let name = oldest.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name), "{message}");
    assert_eq!((layers(&place).len(), leftovers(&place)), (3, Vec::new()));
    write(&sound);
    place.ok(&["forget", "--compact", "web01"]);
    assert_eq!(layers(&place).len(), 1);
    check(&place, &contents);
}
