//! `verify` and `check` by the program itself: what is told, kept and shown, and which guest files damage harms, compared with the
//! filesystem's own tool.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::need::{can_mount, has};
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::tool;

const CLUSTER: usize = 65_536;
const BLOCK: usize = 4_096;

/// Points `p0` to `p<count - 1>` of a disk of 32 clusters, each with other bytes in one more cluster.
fn with_points(vm: &str, count: usize) -> Place {
    let place = Place::new();
    back_up(&place, vm, 0, count);
    place
}

fn back_up(place: &Place, vm: &str, first: usize, count: usize) {
    for n in first..first + count {
        let mut bytes = noise(7, 32 * CLUSTER);
        for changed in 0..=n {
            let at = changed * CLUSTER;
            bytes[at..at + CLUSTER].copy_from_slice(&noise(100 + changed as u64, CLUSTER));
        }
        std::fs::write(place.path("a.raw"), &bytes).unwrap();
        let point = format!("p{n}");
        place.ok(&["backup", vm, "vda=a.raw", "--point", &point]);
    }
}

/// The layers of the points, by ascending `seq`.
fn layers(place: &Place, vm: &str) -> Vec<PathBuf> {
    let points = place.json(&["ls", vm]);
    let points = points.as_array().unwrap().iter();
    let layers = points.map(|point| point["disks"][0]["layer"].as_str().unwrap());
    let dir = place.repo().join("vms").join(vm).join("layers");
    layers
        .map(|layer| dir.join(format!("{layer}.qcow2")))
        .collect()
}

/// Flips a bit of a file, as a disk would.
pub(crate) fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    let file = file.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Where a cluster of the disk lies in a layer: the clusters of the test disks differ from each other.
pub(crate) fn offset_in(layer: &Path, cluster: &[u8]) -> u64 {
    let bytes = std::fs::read(layer).unwrap();
    let at = bytes.chunks(CLUSTER).position(|chunk| chunk == cluster);
    (at.expect("the layer holds the cluster") * CLUSTER) as u64
}

/// Runs a command that finds damage, and returns its answer.
fn damaged(place: &Place, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    let output = place.run(&all);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn point<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let mut points = answer["vms"][0]["points"].as_array().unwrap().iter();
    points.find(|point| point["point"] == name).unwrap()
}

fn checks(place: &Place, vm: &str) -> Vec<Value> {
    let points = place.json(&["ls", vm]);
    let points = points.as_array().unwrap().iter();
    points.map(|point| point["check"].clone()).collect()
}

#[test]
fn damage_is_told_exactly_kept_and_gone_when_it_is_mended() {
    let place = with_points("web01", 3);
    let answer = place.json(&["verify"]);
    assert_eq!(answer["kept"], true);
    assert_eq!(checks(&place, "web01"), ["sound", "sound", "sound"]);
    let layers = layers(&place, "web01");
    // Cluster 1 of the first point is covered by the second one; cluster 20 is in all points.
    let disk = noise(7, 32 * CLUSTER);
    let covered = offset_in(&layers[0], &disk[CLUSTER..2 * CLUSTER]);
    let shared = offset_in(&layers[0], &disk[20 * CLUSTER..21 * CLUSTER]);
    let good = std::fs::read(&layers[0]).unwrap();
    flip(&layers[0], covered + 5);
    let answer = damaged(&place, &["verify", "web01"]);
    let range = &point(&answer, "p0")["damage"]["ranges"][0];
    assert_eq!(range["disk"], "vda");
    assert_eq!(range["offset"], CLUSTER);
    assert_eq!(range["length_bytes"], CLUSTER);
    assert_eq!(range["file_offset"], covered);
    let slot = range["layer"].as_str().unwrap();
    assert!(layers[0].ends_with(format!("{slot}.qcow2")));
    assert!(point(&answer, "p1")["damage"].is_null());
    assert_eq!(checks(&place, "web01"), ["damaged", "sound", "sound"]);
    flip(&layers[0], shared);
    let text = place.run(&["verify"]);
    assert_eq!(text.status.code(), Some(3));
    let text = String::from_utf8(text.stdout).unwrap();
    let place_of = format!(
        "{slot}.qcow2 at offset {shared}: disk vda, bytes {} to {}:",
        20 * CLUSTER,
        21 * CLUSTER
    );
    assert!(text.contains(&place_of), "{text}");
    assert!(text.contains("in p0, p1, p2"), "{text}");
    // The same damage keeps the time at which it was found.
    let found = place.json(&["ls", "web01"])[2]["checked_at"].clone();
    damaged(&place, &["verify"]);
    assert_eq!(place.json(&["ls", "web01"])[2]["checked_at"], found);
    assert_eq!(checks(&place, "web01"), ["damaged", "damaged", "damaged"]);
    // Retention forgets nothing that is damaged; what a person names goes.
    place.ok(&["forget", "web01", "--keep-last", "1"]);
    assert_eq!(checks(&place, "web01").len(), 3);
    std::fs::write(&layers[0], good).unwrap();
    assert!(place.ok(&["verify"]).contains("no damage found"));
    assert_eq!(checks(&place, "web01"), ["sound", "sound", "sound"]);
    place.ok(&["forget", "web01", "--keep-last", "1"]);
    assert_eq!(checks(&place, "web01").len(), 1);
}

#[test]
fn a_check_reads_no_data_and_finds_everything_else() {
    let place = with_points("web01", 3);
    assert!(place.ok(&["check"]).contains("no damage found"));
    // Nothing but damage is worth keeping of a look at the structure.
    assert_eq!(place.json(&["check"])["kept"], false);
    let layers = layers(&place, "web01");
    let bytes = std::fs::read(&layers[0]).unwrap();
    let disk = noise(7, 32 * CLUSTER);
    flip(
        &layers[0],
        offset_in(&layers[0], &disk[20 * CLUSTER..21 * CLUSTER]),
    );
    place.ok(&["check"]);
    std::fs::write(&layers[0], &bytes).unwrap();
    // The last clusters are tables.
    flip(&layers[0], bytes.len() as u64 - CLUSTER as u64);
    let answer = damaged(&place, &["check"]);
    for name in ["p0", "p1", "p2"] {
        let fault = point(&answer, name)["damage"]["faults"][0]
            .as_str()
            .unwrap();
        assert!(
            fault.contains(layers[0].file_name().unwrap().to_str().unwrap()),
            "{fault}"
        );
    }
    assert_eq!(checks(&place, "web01"), ["damaged", "damaged", "damaged"]);
    std::fs::write(&layers[0], &bytes).unwrap();
    place.ok(&["check"]);
    // A layer that is moved away is damage of the points that need it, and of no other.
    std::fs::rename(&layers[2], place.path("aside")).unwrap();
    let answer = damaged(&place, &["check", "web01"]);
    assert!(point(&answer, "p1")["damage"].is_null());
    let fault = point(&answer, "p2")["damage"]["faults"][0]
        .as_str()
        .unwrap();
    assert!(fault.starts_with("a layer is missing"), "{fault}");
    std::fs::rename(place.path("aside"), &layers[2]).unwrap();
    let sidecar = place.repo().join("vms/web01/points/p1/point.json");
    flip(&sidecar, 100);
    let answer = damaged(&place, &["check", "web01"]);
    let fault = point(&answer, "p1")["damage"]["faults"][0]
        .as_str()
        .unwrap();
    assert!(fault.contains("points/p1/point.json"), "{fault}");
    flip(&sidecar, 100);
    place.ok(&["check", "web01"]);
}

/// A point that another program is just copying, or whose sidecar is lost: the other points are there, and its layers stay.
#[test]
fn a_point_without_a_sidecar_hides_no_other_and_loses_nothing() {
    let place = with_points("web01", 3);
    let points = place.repo().join("vms/web01/points");
    std::fs::create_dir(points.join("empty")).unwrap();
    assert_eq!(checks(&place, "web01").len(), 3);
    place.ok(&["check"]);
    place.ok(&["status"]);
    std::fs::remove_dir(points.join("empty")).unwrap();
    // Something else than the sidecar is in it, and no index knows the point.
    let sidecar = points.join("p1/point.json");
    std::fs::create_dir_all(points.join("p1/attached")).unwrap();
    std::fs::rename(&sidecar, place.path("aside.json")).unwrap();
    std::fs::remove_file(place.repo().join("vms/web01/index.json")).unwrap();
    let listed = place.json(&["ls"]);
    assert_eq!(listed[0]["points"], 2, "{listed}");
    let said = place.fails(3, &["check"]);
    assert!(
        said.contains("points/p1") && said.contains("point.json"),
        "{said}"
    );
    let red = place.run(&["status"]);
    assert_eq!(red.status.code(), Some(3));
    let count = || {
        std::fs::read_dir(place.repo().join("vms/web01/layers"))
            .unwrap()
            .count()
    };
    let before = count();
    place.ok(&["forget", "web01@p2"]);
    place.ok(&["forget", "--compact", "web01"]);
    assert_eq!(count(), before, "layers were cleaned up");
    let state = place.repo().join("vms/web01/state");
    let states = std::fs::read_dir(&state).map_or(0, Iterator::count);
    place.ok(&["trash", "--empty"]);
    std::fs::rename(place.path("aside.json"), &sidecar).unwrap();
    assert_eq!(std::fs::read_dir(&state).map_or(0, Iterator::count), states);
    place.ok(&["verify"]);
    let mut bytes = noise(7, 32 * CLUSTER);
    for changed in 0..2 {
        let at = changed * CLUSTER;
        bytes[at..at + CLUSTER].copy_from_slice(&noise(100 + changed as u64, CLUSTER));
    }
    assert!(place.restored("web01@p1", "vda") == bytes);
    // Now nobody stands in the way of cleaning up.
    place.ok(&["tag", "web01@p1", "a=b"]);
    place.ok(&["forget", "--compact", "web01"]);
    place.ok(&["check"]);
}

#[test]
fn bad_input_is_refused() {
    let place = with_points("web01", 1);
    for subset in ["0/7", "8/7", "x", "0%", "101%", "-1/7", "-5G"] {
        place.fails(2, &["verify", "--subset", subset]);
    }
    place.fails(2, &["verify", "--outdated-after", "soon"]);
    place.fails(2, &["verify", "--limit", "0"]);
    place.fails(2, &["verify", "--files", "some"]);
    place.fails(2, &["verify", "nothing*"]);
    place.fails(1, &["verify", "nothing"]);
    place.fails(1, &["check", "nothing"]);
    let empty = Place::new();
    assert_eq!(empty.json(&["verify"])["vms"].as_array().unwrap().len(), 0);
}

#[test]
fn a_subset_takes_what_waits_for_longest() {
    let place = with_points("web01", 4);
    let layers = |args: &[&str]| place.json(args)["vms"][0]["layers"].as_u64().unwrap();
    // Nothing was verified before: any share reads all of it.
    assert_eq!(layers(&["verify", "--subset", "3/50"]), 4);
    assert!(layers(&["verify", "--subset", "3/50"]) < 4);
    back_up(&place, "web01", 4, 1);
    assert_eq!(layers(&["verify", "--subset", "1"]), 1);
    // Whether that was all of the layer or everything but its data is a matter of its name.
    assert!(layers(&["verify", "--outdated-after", "1h"]) <= 1);
    assert_eq!(layers(&["verify", "--outdated-after", "1h"]), 0);
    assert_eq!(
        layers(&["verify", "--outdated-after", "0s", "--subset", "100%"]),
        5
    );
}

#[test]
fn results_are_told_where_they_cannot_be_kept() {
    if !can_mount() {
        return;
    }
    let place = with_points("web01", 2);
    let view = place.path("view");
    std::fs::create_dir(&view).unwrap();
    let mount = |args: &[&str]| {
        let done = Command::new("mount").args(args).status().unwrap();
        assert!(done.success(), "{args:?}");
    };
    let (repo, view) = (place.repo(), view.to_str().unwrap().to_owned());
    mount(&["--bind", repo.to_str().unwrap(), &view]);
    mount(&["-o", "remount,bind,ro", &view]);
    let run = place.run(&["--repo", &view, "verify", "--json"]);
    Command::new("umount").arg(&view).status().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("not kept in the repository"), "{said}");
    let answer: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(answer["kept"], false);
    assert!(point(&answer, "p1")["sound_since"].is_string());
    assert_eq!(checks(&place, "web01"), [Value::Null, Value::Null]);
}

#[test]
fn a_daemon_keeps_the_results_and_shows_the_task() {
    let place = with_points("web01", 3);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let with_mount: &[&str] = if can_mount() {
        &["--mount", "mnt"]
    } else {
        &[]
    };
    let daemon = place.serve(with_mount);
    let shown = || {
        let dir = place.path("mnt/web01/p1");
        let mut value = [0; 64];
        let got = rustix::fs::getxattr(&dir, "user.restorefs.check", &mut value[..]);
        let info = std::fs::read(dir.join("info.json")).unwrap();
        let info: Value = serde_json::from_slice(&info).unwrap();
        let got = got.map(|n| String::from_utf8(value[..n].to_vec()).unwrap());
        (got.ok(), info["check"].as_str().map(str::to_owned))
    };
    if can_mount() {
        assert_eq!(shown(), (None, None));
    }
    let answer = place.json(&["verify"]);
    assert_eq!(answer["kept"], true);
    if can_mount() {
        let sound = Some("sound".to_owned());
        eventually("the mount shows the result", || {
            shown() == (sound.clone(), sound.clone())
        });
        let listed = Command::new("getfattr")
            .arg("-d")
            .arg(place.path("mnt/web01/p1"))
            .output();
        if let Ok(listed) = listed {
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(listed.contains("user.restorefs.checked_at"), "{listed}");
        }
    }
    assert_eq!(checks(&place, "web01"), ["sound", "sound", "sound"]);
    let jobs = place.json(&["jobs"]);
    let verified = &jobs[0];
    assert_eq!(
        (&verified["kind"], &verified["result"]),
        (&"verify".into(), &"completed".into())
    );
    daemon.stop();
}

#[test]
fn a_verification_that_is_stopped_keeps_what_it_has() {
    let place = with_points("web01", 6);
    // At this rate all takes about 7 seconds. A slow machine begins to read later.
    let read = [3, 4, 5].into_iter().find_map(|seconds| {
        stop_after(&place, Duration::from_secs(seconds));
        Some(layers_read(&place)).filter(|read| *read > 0)
    });
    assert!(read.is_some_and(|read| read < 6), "{read:?}");
    assert!(place.ok(&["verify"]).contains("no damage found"));
    assert_eq!(layers_read(&place), 6);
}

/// Stops a verification, which then is a cancelled task.
fn stop_after(place: &Place, time: Duration) {
    let mut child = place
        .command(&["verify", "--limit", "600K"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(time);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let begun = Instant::now();
    eventually("the command ends", || child.try_wait().unwrap().is_some());
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let jobs = place.json(&["jobs"]);
    assert_eq!(
        (&jobs[0]["kind"], &jobs[0]["result"]),
        (&"verify".into(), &"cancelled".into())
    );
}

/// How many layers have a result of reading their data.
fn layers_read(place: &Place) -> usize {
    let state = place.repo().join("vms/web01/state");
    let files = std::fs::read_dir(state).unwrap().map(|file| file.unwrap());
    let kept = files.filter(|file| file.file_name().to_str().unwrap().ends_with(".checks.json"));
    let read = kept.filter(|file| {
        let kept = std::fs::read(file.path()).unwrap();
        let kept: Value = serde_json::from_slice(&kept).unwrap();
        !kept["regions"].as_array().unwrap().is_empty()
    });
    read.count()
}

/// A file below a directory over which the guest mounts another filesystem is named below `volumes/`, where the tree shows it.
#[test]
fn a_file_that_a_mount_covers_is_named() {
    if !has("mkfs.ext4") {
        return;
    }
    let place = Place::new();
    let (covered, seen) = (noise(5, 200_000), noise(6, 200_000));
    let put = |path: &str, bytes: &[u8]| {
        let path = place.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let fstab = "LABEL=root / ext4 defaults 0 1\nLABEL=data /srv/data ext4 defaults 0 2\n";
    put("root/etc/fstab", fstab.as_bytes());
    put("root/etc/os-release", b"ID=test\n");
    put("root/srv/data/deep/covered", &covered);
    put("root/srv/seen", &seen);
    put("data/file", b"data\n");
    for label in ["root", "data"] {
        let image = format!("{label}.raw");
        tool::ok(&place, "truncate", &["-s", "16M", &image]);
        let arguments = ["-qF", "-b", "4096", "-L", label, "-d", label, &image];
        tool::ok(&place, "mkfs.ext4", &arguments);
    }
    place.ok(&["backup", "web01", "vda=root.raw", "vdb=data.raw"]);
    let layer = layers(&place, "web01").remove(0);
    let disk = std::fs::read(place.path("root.raw")).unwrap();
    for bytes in [&covered, &seen] {
        let mut blocks = disk.chunks(BLOCK);
        // In the middle of the file, so that nothing else lies in the cluster.
        let middle = &bytes[24 * BLOCK..25 * BLOCK];
        let block = blocks.position(|block| block == middle).unwrap();
        let cluster = block * BLOCK / CLUSTER * CLUSTER;
        let at = offset_in(&layer, &disk[cluster..cluster + CLUSTER]);
        flip(&layer, at + (block * BLOCK - cluster) as u64);
    }
    let answer = damaged(&place, &["verify"]);
    let files = answer["vms"][0]["harmed"][0]["files"].as_array().unwrap();
    let paths: BTreeSet<&str> = files
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    let expected = ["/files/srv/seen", "/volumes/vda/raw/srv/data/deep/covered"];
    assert_eq!(paths, BTreeSet::from(expected), "{answer}");
}

/// An ext4 image with directories and files of many sizes.
fn guest(place: &Place) -> Option<Vec<u8>> {
    if !has("mkfs.ext4") || !has("debugfs") {
        return None;
    }
    let top = place.path("guest");
    for dir in 0..12 {
        let inside = top.join(format!("d{dir}"));
        std::fs::create_dir_all(&inside).unwrap();
        for file in 0..14 {
            let bytes = noise(dir * 100 + file, 3_000 + (file as usize) * 9_000);
            std::fs::write(inside.join(format!("f{file}")), bytes).unwrap();
        }
        std::os::unix::fs::symlink("f1", inside.join("short")).unwrap();
        std::os::unix::fs::symlink("x/".repeat(90), inside.join("long")).unwrap();
    }
    let image = place.path("a.raw");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-b", "4096", "-d"])
        .arg(&top)
        .arg(&image)
        .status()
        .unwrap();
    assert!(made.success());
    Some(std::fs::read(image).unwrap())
}

/// What debugfs(8) says of a path: the block of its inode, and its own blocks.
struct Where {
    inode: u64,
    blocks: BTreeSet<u64>,
}

/// Asks debugfs(8) where everything lies; directories first.
fn locate(place: &Place, paths: &[String]) -> BTreeMap<String, Where> {
    let commands: String = paths
        .iter()
        .map(|path| format!("imap {path}\nblocks {path}\n"))
        .collect();
    std::fs::write(place.path("commands"), commands).unwrap();
    let output = Command::new("debugfs")
        .args(["-f", "commands", "a.raw"])
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeMap::new();
    let mut parts = said.split("debugfs: imap ").skip(1);
    for path in paths {
        let part = parts.next().unwrap_or_else(|| panic!("{path}: {said}"));
        let inode = part.split("located at block ").nth(1).unwrap();
        let inode = inode.split(',').next().unwrap().trim().parse().unwrap();
        let blocks = part.split("debugfs: blocks ").nth(1).unwrap();
        let blocks = blocks.lines().nth(1).unwrap_or_default().split_whitespace();
        let blocks = blocks.filter_map(|block| block.parse().ok()).collect();
        found.insert(path.clone(), Where { inode, blocks });
    }
    found
}

#[test]
fn the_harmed_files_are_those_that_the_filesystems_own_tool_finds() {
    let place = Place::new();
    let Some(disk) = guest(&place) else {
        return;
    };
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p0"]);
    let layer = layers(&place, "web01").remove(0);
    let dirs: Vec<String> = (0..12).map(|dir| format!("/d{dir}")).collect();
    let mut paths = dirs.clone();
    for dir in &dirs {
        paths.extend((0..14).map(|file| format!("{dir}/f{file}")));
        paths.push(format!("{dir}/short"));
        paths.push(format!("{dir}/long"));
    }
    let places = locate(&place, &paths);
    let root = &locate(&place, &["/".to_owned()])["/"];
    let per_cluster = (CLUSTER / BLOCK) as u64;
    let of_cluster = |cluster: usize| {
        let first = cluster as u64 * per_cluster;
        first..first + per_cluster
    };
    // Clusters with something of a file; those of the root directory close the whole filesystem.
    let used = |cluster: &usize| {
        let blocks = of_cluster(*cluster);
        let is_root =
            blocks.contains(&root.inode) || root.blocks.iter().any(|b| blocks.contains(b));
        let mut all = places.values();
        !is_root
            && all.any(|w| blocks.contains(&w.inode) || w.blocks.iter().any(|b| blocks.contains(b)))
    };
    let clusters: Vec<usize> = (1..disk.len() / CLUSTER).filter(used).collect();
    assert!(clusters.len() > 30, "{clusters:?}");
    let (mut files, mut tried) = (0, 0);
    for cluster in clusters.into_iter().step_by(6) {
        let blocks = of_cluster(cluster);
        let harmed = |path: &str| {
            let at = &places[path];
            blocks.contains(&at.inode) || at.blocks.iter().any(|block| blocks.contains(block))
        };
        let mut expected = BTreeSet::new();
        for path in &paths {
            let parent = path.rsplit_once('/').unwrap().0;
            // What is in a directory that cannot be read is not known.
            if (parent.is_empty() || !harmed(parent)) && harmed(path) {
                expected.insert(format!("/files{path}"));
            }
        }
        let content = &disk[cluster * CLUSTER..(cluster + 1) * CLUSTER];
        let at = offset_in(&layer, content) + 77;
        flip(&layer, at);
        let answer = damaged(&place, &["verify"]);
        flip(&layer, at);
        let harmed = &answer["vms"][0]["harmed"][0];
        assert_eq!(harmed["point"], "p0");
        let told = harmed["files"].as_array().unwrap().iter();
        let told: BTreeSet<String> = told
            .map(|file| file["path"].as_str().unwrap().to_owned())
            .filter(|path| !path.contains("lost+found"))
            .collect();
        assert_eq!(told, expected, "cluster {cluster}");
        files += told.len();
        tried += 1;
    }
    assert!(tried > 5 && files > tried, "{tried} {files}");
    place.ok(&["verify"]);
}

#[test]
fn a_volume_that_cannot_be_opened_is_named_with_the_files_that_are_hit_in_it() {
    let place = Place::new();
    let Some(disk) = guest(&place) else {
        return;
    };
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p0"]);
    let layer = layers(&place, "web01").remove(0);
    let path = "/d3/f13".to_owned();
    let block = *locate(&place, std::slice::from_ref(&path))[&path]
        .blocks
        .last()
        .unwrap();
    let cluster = block as usize * BLOCK / CLUSTER;
    // The cluster of the superblock, in bytes that are not its own, and a block of a file.
    for at in [0, cluster] {
        let content = &disk[at * CLUSTER..(at + 1) * CLUSTER];
        flip(&layer, offset_in(&layer, content) + 200);
    }
    let answer = damaged(&place, &["verify", "--files", "all"]);
    let files = answer["vms"][0]["harmed"][0]["files"].as_array().unwrap();
    let paths: Vec<&str> = files
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"/volumes/vda/raw"), "{paths:?}");
    let file = format!("/files{path}");
    assert!(paths.contains(&file.as_str()), "{paths:?}");
    let none = damaged(&place, &["verify", "--files", "none"]);
    assert_eq!(none["vms"][0]["harmed"].as_array().unwrap().len(), 0);
}
