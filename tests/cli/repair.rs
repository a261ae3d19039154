//! `repair`: damage of every kind is mended from a copy, or from another point, and nothing else changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kit::chance::Chance;
use crate::kit::noise::noise;
use crate::kit::place::Place;
use crate::tool;
use crate::verify::{flip, offset_in};

const CLUSTER: usize = 65_536;

/// Points of one VM: a full one, and increments with clusters of their own; zstd or not. A hidden layer is among them.
fn with_points(extra: &[&str]) -> Place {
    let place = Place::new();
    for n in 0..5_usize {
        let mut bytes = noise(7, 24 * CLUSTER);
        // Bytes that compress.
        bytes[..8 * CLUSTER].fill(0x11);
        for changed in 0..=n {
            let at = (changed + 6) * CLUSTER;
            bytes[at..at + 2 * CLUSTER].copy_from_slice(&noise(100 + changed as u64, 2 * CLUSTER));
            bytes[changed * 4096] = 0x40 + n as u8;
        }
        std::fs::write(place.path("a.raw"), &bytes).unwrap();
        std::fs::write(place.path(&format!("p{n}.raw")), &bytes).unwrap();
        let point = format!("p{n}");
        std::fs::write(place.path("domain.xml"), format!("<domain n='{n}'/>\n")).unwrap();
        let mut args = vec!["backup", "web01", "vda=a.raw", "--point", &point];
        args.extend(["--attach", "domain.xml"]);
        args.extend(extra);
        place.ok(&args);
    }
    place.ok(&["forget", "web01@p2", "--no-merge"]);
    place
}

fn copied(place: &Place) {
    tool::ok(place, "cp", &["-a", "repo", "copy"]);
}

/// All files that repair must not touch unless they are damaged, with their bytes.
fn committed(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let vm = place.repo().join("vms/web01");
    let mut files = BTreeMap::new();
    let mut dirs = vec![vm.join("layers"), vm.join("points")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => {
                    files.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
    }
    files
}

/// Sums that are of no layer any more: the next owner of the lock removes them.
fn superseded<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let is_current = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some((slot, layer)) = name
            .strip_suffix(".sums")
            .and_then(|name| name.split_once('.'))
        else {
            return true;
        };
        let file = path.with_file_name(format!("{slot}.qcow2"));
        let id = uuid::Uuid::parse_str(layer).unwrap();
        let header = std::fs::read(file).unwrap();
        header[..4096]
            .windows(16)
            .any(|bytes| bytes == id.as_bytes())
    };
    files.filter(|path| !is_current(path)).cloned().collect()
}

/// Every point reads as what was backed up.
fn check_contents(place: &Place) {
    for n in [0, 1, 3, 4] {
        let target = format!("out-{n}.raw");
        let _ = std::fs::remove_file(place.path(&target));
        place.ok(&["restore", &format!("web01@p{n}"), "vda", &target]);
        let (found, stated) = (place.path(&target), place.path(&format!("p{n}.raw")));
        assert!(
            std::fs::read(found).unwrap() == std::fs::read(stated).unwrap(),
            "p{n}"
        );
    }
}

/// Random damage, also of several files at once, files that are cut, and files that are missing: all is clean afterwards, and what was
/// sound is as it was, byte for byte.
fn random_damage_is_repaired(extra: &[&str], seed: u64, rounds: usize) {
    let place = with_points(extra);
    copied(&place);
    let copy = place.path("copy");
    let mut chance = Chance(seed);
    for round in 0..rounds {
        let mut before = committed(&place);
        let superseded = superseded(before.keys());
        before.retain(|path, _| !superseded.contains(path));
        let files: Vec<&PathBuf> = before.keys().collect();
        let mut damaged = Vec::new();
        for _ in 0..=chance.below(3) {
            let path = files[chance.below(files.len())].clone();
            if damaged.contains(&path) {
                continue;
            }
            let length = before[&path].len();
            match chance.below(8) {
                0 if path.extension().is_some_and(|end| end != "json") => {
                    std::fs::remove_file(&path).unwrap();
                }
                1 => {
                    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                    file.set_len(chance.below(length) as u64).unwrap();
                }
                _ => flip(&path, chance.below(length) as u64),
            }
            damaged.push(path);
        }
        let repair = [
            "repair",
            "web01",
            "--from",
            copy.to_str().unwrap(),
            "--json",
        ];
        let repaired = place.run(&repair);
        let answer = String::from_utf8_lossy(&repaired.stdout).into_owned();
        assert!(repaired.status.success(), "{round}: {damaged:?} {answer}");
        let verified = place.run(&["verify"]);
        assert!(verified.status.success(), "{round}: {damaged:?} {answer}");
        let after = committed(&place);
        let stem = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.split('.').next().unwrap().to_owned()
        };
        for (path, bytes) in &before {
            let is_damaged = damaged.iter().any(|damaged| stem(damaged) == stem(path));
            assert!(
                is_damaged || after.get(path) == Some(bytes),
                "{round}: {} has changed, damaged were {damaged:?}; {answer}",
                path.display()
            );
        }
    }
    check_contents(&place);
    assert!(place.ok(&["check"]).contains("no damage found"));
    let layers = place.repo().join("vms/web01/layers");
    for entry in std::fs::read_dir(layers).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".open"), "{name}");
    }
}

#[test]
fn random_damage_comes_back_from_a_copy() {
    random_damage_is_repaired(&[], 0x5eed, 50);
}

#[test]
fn random_damage_of_compressed_layers_comes_back_from_a_copy() {
    random_damage_is_repaired(&["--compress", "zstd"], 0xfeed, 50);
}

fn layer_of(place: &Place, point: &str) -> PathBuf {
    let points = place.json(&["ls", "web01"]);
    let mut points = points.as_array().unwrap().iter();
    let point = points.find(|found| found["name"] == point).unwrap();
    let slot = point["disks"][0]["layer"].as_str().unwrap();
    place.repo().join(format!("vms/web01/layers/{slot}.qcow2"))
}

/// The copy has merged layers that are apart here: it has the content, in other files.
#[test]
fn a_copy_with_other_layers_gives_content() {
    let place = with_points(&[]);
    copied(&place);
    let copy = place.path("copy");
    let copy = copy.to_str().unwrap();
    place.ok(&["-r", copy, "forget", "--compact", "web01"]);
    place.ok(&["-r", copy, "synthetic-full", "web01@p1"]);
    let layer = layer_of(&place, "p1");
    let disk = std::fs::read(place.path("p1.raw")).unwrap();
    flip(
        &layer,
        offset_in(&layer, &disk[7 * CLUSTER..8 * CLUSTER]) + 9,
    );
    let said = place.ok(&["repair", "web01@p1", "--from", copy]);
    assert!(said.contains("64.0 KiB taken from"), "{said}");
    assert!(said.contains("whole again: p1"), "{said}");
    check_contents(&place);
}

/// Without a copy, another point with the same content helps, and what nobody has is named.
#[test]
fn another_point_gives_what_it_has_and_the_rest_is_named() {
    let place = with_points(&[]);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "again", "--full"]);
    let layer = layer_of(&place, "p4");
    let disk = std::fs::read(place.path("p4.raw")).unwrap();
    let shared = offset_in(&layer, &disk[11 * CLUSTER..12 * CLUSTER]);
    flip(&layer, shared + 1);
    let answer = place.json(&["repair", "web01"]);
    let repaired = &answer["repaired"]["layers"][0];
    assert_eq!(repaired["mended_bytes"], CLUSTER);
    assert_eq!(repaired["from"][0], "here: again");
    assert_eq!(answer["whole"], serde_json::json!(["p4"]));
    // Only p1 has this cluster: it was written anew after it.
    let layer = layer_of(&place, "p1");
    let disk = std::fs::read(place.path("p1.raw")).unwrap();
    flip(
        &layer,
        offset_in(&layer, &disk[8 * CLUSTER..9 * CLUSTER]) + 9,
    );
    let output = place.run(&["repair", "web01", "--json"]);
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(3));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let repaired = &answer["repaired"]["layers"][0];
    assert_eq!(
        (&repaired["mended_bytes"], &repaired["left_bytes"]),
        (&0.into(), &CLUSTER.into())
    );
    let points = answer["verified"]["points"].as_array().unwrap();
    let damaged = points.iter().filter(|point| !point["damage"].is_null());
    let damaged: Vec<&str> = damaged
        .map(|point| point["point"].as_str().unwrap())
        .collect();
    assert_eq!(damaged, ["p1"]);
}

#[test]
fn a_daemon_swaps_what_was_repaired() {
    let place = with_points(&[]);
    copied(&place);
    let layer = layer_of(&place, "p0");
    flip(&layer, 5 * CLUSTER as u64 + 77);
    let lost = layer_of(&place, "p3");
    std::fs::remove_file(&lost).unwrap();
    let daemon = place.serve(&[]);
    let copy = place.path("copy");
    let output = place.run(&["repair", "web01", "--from", copy.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("put back from"), "{said}");
    assert!(lost.exists());
    let jobs = place.json(&["jobs"]);
    let jobs = jobs.as_array().unwrap();
    assert!(
        jobs.iter()
            .any(|job| job["kind"] == "repair" && job["result"] == "completed"),
        "{jobs:?}"
    );
    daemon.stop();
    check_contents(&place);
}

/// Killed at any instant, a repair leaves each layer damaged as before or mended; the next one goes on.
#[test]
fn a_repair_that_is_killed_costs_nothing() {
    let place = with_points(&[]);
    copied(&place);
    let mut chance = Chance(0x91);
    let copy = place.path("copy");
    let kills = 30;
    for round in 0..kills {
        let files: Vec<PathBuf> = committed(&place).into_keys().collect();
        for _ in 0..3 {
            let path = &files[chance.below(files.len())];
            let length = std::fs::metadata(path).map_or(0, |meta| meta.len());
            match chance.below(4) {
                _ if length == 0 => {}
                0 if path.extension().is_some_and(|end| end == "qcow2") => {
                    std::fs::remove_file(path).unwrap();
                }
                _ => flip(path, chance.below(length as usize) as u64),
            }
        }
        let mut child = place
            .command(&["repair", "web01", "--from", copy.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(chance.below(250) as u64));
        let _ = child.kill();
        child.wait().unwrap();
        if round % 5 == 4 {
            place.ok(&["repair", "web01", "--from", copy.to_str().unwrap()]);
            assert!(place.ok(&["verify"]).contains("no damage found"));
        }
    }
    check_contents(&place);
    // The next owner of the lock removes what was left.
    place.ok(&["backup", "web01", "vda=a.raw"]);
    for entry in std::fs::read_dir(place.repo().join("vms/web01/layers")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".open"), "{name}");
    }
}

#[test]
fn bad_input_is_refused() {
    let place = with_points(&[]);
    assert!(place.fails(1, &["repair", "nobody"]).contains("nobody"));
    place.fails(1, &["repair", "web01@nothing"]);
    let said = place.fails(10, &["repair", "web01", "--from", "./nowhere"]);
    assert!(said.contains("nowhere"), "{said}");
    let said = place.fails(2, &["repair", "web01", "--from", "./repo"]);
    assert!(
        said.contains("is the repository that is repaired"),
        "{said}"
    );
    place.ok(&["-r", "./other", "init"]);
    let said = place.fails(1, &["repair", "web01", "--from", "./other"]);
    assert!(said.contains("no copy of web01"), "{said}");
    assert!(
        place
            .ok(&["repair", "web01"])
            .contains("nothing was repaired")
    );
}
