//! Disks that are called otherwise than in the parent: known by their keys, in backups and in sessions.

use serde_json::Value;

use crate::kit::place::Place;

/// `name kind changed_bytes` of each disk of the newest point.
fn latest(place: &Place) -> Vec<String> {
    let info = place.json(&["info", "web01@latest"]);
    let mut disks: Vec<String> = info["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| {
            let text = |field: &str| disk[field].as_str().unwrap().to_owned();
            format!(
                "{}:{} {} {}",
                text("name"),
                text("key"),
                text("kind"),
                disk["changed_bytes"]
            )
        })
        .collect();
    disks.sort();
    disks
}

#[test]
fn two_disks_swap_their_names_and_nothing_is_stored() {
    let place = Place::new();
    let (a, b) = (place.disk("a.raw", 30, 1), place.disk("b.raw", 30, 2));
    let keys = ["--key", "vda=K1", "--key", "vdb=K2"];
    let mut first = vec!["backup", "web01", "vda=a.raw", "vdb=b.raw"];
    first.extend(keys);
    place.ok(&first);
    place.ok(&[
        "backup",
        "web01",
        "vda=b.raw",
        "vdb=a.raw",
        "--key",
        "vda=K2",
        "--key",
        "vdb=K1",
    ]);
    assert_eq!(
        latest(&place),
        ["vda:K2 incremental 0", "vdb:K1 incremental 0"]
    );
    assert!(place.restored("web01@latest", "vda") == b);
    assert!(place.restored("web01@latest", "vdb") == a);
    // And back, the chain going on.
    place.ok(&first);
    assert_eq!(
        latest(&place),
        ["vda:K1 incremental 0", "vdb:K2 incremental 0"]
    );
    assert!(place.restored("web01@latest", "vda") == a);
    let vm = std::fs::read(place.repo().join("vms/web01/vm.json")).unwrap();
    let vm: Value = serde_json::from_slice(&vm).unwrap();
    assert_eq!(vm["disks"].as_array().unwrap().len(), 2, "{vm}");
}

#[test]
fn a_disk_that_is_renamed_goes_on_and_a_new_one_may_take_its_name() {
    let place = Place::new();
    place.disk("a.raw", 30, 1);
    let changed = place.disk("a2.raw", 31, 1);
    place.disk("b.raw", 9, 2);
    place.ok(&["backup", "web01", "vda=a.raw", "--key", "vda=K1"]);
    let output = place.run(&[
        "backup",
        "web01",
        "sda=a2.raw",
        "vda=b.raw",
        "--key",
        "sda=K1",
        "--key",
        "vda=K9",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("another disk has this name now"), "{said}");
    assert_eq!(
        latest(&place),
        ["sda:K1 incremental 65536", "vda:K9 full 393216"]
    );
    assert!(place.restored("web01@latest", "sda") == changed);
}

#[test]
fn a_session_says_where_its_disks_come_from_and_a_collision_is_refused() {
    let place = Place::new();
    place.disk("a.raw", 30, 1);
    place.disk("b.raw", 30, 2);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--key",
        "vda=K1",
        "--key",
        "vdb=K2",
    ]);
    let refused = ["backup", "web01", "vda=b.raw", "--key", "vda=K2"];
    let said = place.fails(2, &refused);
    assert!(said.contains("--without vda"), "{said}");
    let daemon = place.serve(&[]);
    place.fails(2, &refused);
    let said = place.fails(2, &["begin", "web01", "--key", "vda=K2"]);
    assert!(said.contains("--without vda"), "{said}");
    place.fails(1, &["begin", "web01", "--without", "vdx"]);
    // Nothing of them is left.
    assert_eq!(place.json(&["sessions"]), serde_json::json!([]));
    let begun = place.json(&["begin", "web01", "--key", "vda=K2", "--without", "vda"]);
    let disks = begun["disk_results"].as_array().unwrap();
    assert_eq!(disks.len(), 1);
    assert_eq!(disks[0]["kind"], "incremental");
    assert_eq!(disks[0]["size_bytes"].as_u64(), Some(30 * 65_536));
    place.ok(&[
        "abort",
        &format!("web01/{}", begun["session"].as_str().unwrap()),
    ]);
    place.ok(&[
        "backup",
        "web01",
        "vda=b.raw",
        "--key",
        "vda=K2",
        "--without",
        "vda",
    ]);
    assert_eq!(latest(&place), ["vda:K2 incremental 0"]);
    daemon.stop();
}
