//! What `ls`, `info` and the tree say of a point beside its content: what it takes, how deep it is, and its labels.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::kit::place::Place;
use crate::merge::back_up;

/// What the layer of a point's disk takes, as the filesystem says.
fn allocated(place: &Place, layer: &str) -> u64 {
    let path = format!("vms/web01/layers/{layer}.qcow2");
    std::fs::metadata(place.repo().join(path)).unwrap().blocks() * 512
}

fn column<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let heading = table.lines().next().unwrap();
    let at = heading.find(name).unwrap();
    // Columns that are aligned to the right end where their heading ends.
    let cells = table.lines().skip(1).map(|line| {
        let begin = line[..at.min(line.len())]
            .rfind("  ")
            .map_or(0, |begin| begin + 2);
        line[begin..].trim_start().split("  ").next().unwrap()
    });
    cells.collect()
}

#[test]
fn a_point_says_what_it_takes_and_how_deep_it_is() {
    let place = Place::new();
    back_up(&place, 0, 3, &[]);
    place.ok(&["keep", "web01@p01"]);
    place.ok(&["tag", "web01@p01", "release=1.2", "tried="]);
    let listed = place.json(&["ls", "web01"]);
    for (n, point) in listed.as_array().unwrap().iter().enumerate() {
        let disk = &point["disks"][0];
        let bytes = allocated(&place, disk["layer"].as_str().unwrap());
        assert!(bytes > 0);
        assert_eq!(point["stored_bytes"], bytes);
        assert_eq!(disk["stored_bytes"], bytes);
        assert_eq!(disk["depth"], n + 1);
        assert_eq!(point["kept"], n == 1);
        assert_eq!(point["check"], Value::Null);
        assert_eq!(point["checked_at"], Value::Null);
        let info = place.json(&["info", &format!("web01@p0{n}")]);
        for member in ["stored_bytes", "check", "checked_at", "kept", "tags"] {
            assert_eq!(info[member], point[member], "{member}");
        }
        for member in ["stored_bytes", "depth"] {
            assert_eq!(info["disks"][0][member], disk[member], "{member}");
        }
    }
    assert_eq!(listed[1]["tags"], json!({"release": "1.2", "tried": ""}));
    assert_eq!(listed[0]["tags"], json!({}));
    // The first layer has all of the disk, the others six clusters each at most.
    let stored = |n: usize| listed[n]["stored_bytes"].as_u64().unwrap();
    assert!(stored(0) > 2 * stored(1));
    let table = place.ok(&["ls", "web01"]);
    let labels = ["vda", "vda    kept release=1.2 tried", "vda"];
    for (line, labels) in table.lines().skip(1).zip(labels) {
        assert!(line.ends_with(labels), "{table}");
    }
    assert_eq!(column(&table, "CHECKED"), ["-", "-", "-"]);
    // A merge changes what a point takes and how deep it is.
    place.ok(&["forget", "web01@p01"]);
    place.ok(&["forget", "--compact", "web01"]);
    let listed = place.json(&["ls", "web01"]);
    let depths: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["disks"][0]["depth"])
        .collect();
    assert_eq!(depths, [1, 2]);
    let bytes = allocated(&place, listed[1]["disks"][0]["layer"].as_str().unwrap());
    assert_eq!(listed[1]["stored_bytes"], bytes);
    // One that is full again has depth 1, whatever its kind; the next one counts from there.
    place.ok(&["synthetic-full", "web01@latest"]);
    assert_eq!(place.json(&["ls", "web01"])[1]["disks"][0]["depth"], 1);
    assert_eq!(place.json(&["ls", "web01"])[1]["kind"], "incremental");
    back_up(&place, 3, 1, &[]);
    assert_eq!(place.json(&["ls", "web01"])[2]["disks"][0]["depth"], 2);
}

#[test]
fn a_differential_and_a_disk_that_is_full_again_have_their_own_depth() {
    let place = Place::new();
    back_up(&place, 0, 2, &[]);
    back_up(&place, 2, 1, &["--differential"]);
    back_up(&place, 3, 1, &["--full"]);
    place.disk("b.raw", 4, 9);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--point",
        "p04",
    ]);
    let listed = place.json(&["ls", "web01"]);
    let depths: Vec<Vec<u64>> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|point| {
            let disks = point["disks"].as_array().unwrap();
            disks
                .iter()
                .map(|disk| disk["depth"].as_u64().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(depths, [vec![1], vec![2], vec![2], vec![1], vec![2, 1]]);
}

#[test]
fn a_layer_that_is_missing_is_said_where_its_bytes_would_be() {
    let place = Place::new();
    back_up(&place, 0, 2, &[]);
    let listed = place.json(&["ls", "web01"]);
    let layer = listed[1]["disks"][0]["layer"].as_str().unwrap();
    let path = place.repo().join(format!("vms/web01/layers/{layer}.qcow2"));
    std::fs::rename(&path, place.path("away")).unwrap();
    let table = place.ok(&["ls", "web01"]);
    assert_eq!(column(&table, "STORED")[1], "missing", "{table}");
    assert_eq!(place.json(&["ls", "web01"])[1]["stored_bytes"], Value::Null);
}
