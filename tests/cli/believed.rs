//! The index finds a point, and the point's own sidecar describes it. A change of one of the two files is found, and
//! the error names the right file.

use serde_json::{Value, json};

use crate::kit::place::Place;

/// A point with a disk and an attached file, and a way to change what the index says of it.
struct Pair {
    place: Place,
    disk: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let place = Place::new();
        let disk = place.disk("a.raw", 5, 1);
        std::fs::write(place.path("note.txt"), "by the way").unwrap();
        place.ok(&[
            "backup",
            "web01",
            "vda=a.raw",
            "--attach",
            "note.txt",
            "--point",
            "one",
        ]);
        Self { place, disk }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.place.repo().join(file)
    }

    /// Changes a sidecar as an editor does that knows of no hash in it.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        value.as_object_mut().unwrap().remove("blake3");
        std::fs::write(&path, serde_json::to_string_pretty(&value).unwrap() + "\n").unwrap();
    }

    /// All that a restore makes is what was backed up.
    fn check(&self, what: &str) {
        let out = self.place.path("out");
        let _ = std::fs::remove_dir_all(&out);
        self.place.ok(&["restore", "web01@one", "--to", "out"]);
        assert!(
            std::fs::read(out.join("vda.raw")).unwrap() == self.disk,
            "{what}"
        );
        assert_eq!(
            std::fs::read(out.join("attached/note.txt")).unwrap(),
            b"by the way",
            "{what}"
        );
        let disks = self.place.json(&["ls", "web01@one:/disks"]);
        assert_eq!(disks[0]["size_bytes"], json!(self.disk.len()), "{what}");
        let attached = self.place.json(&["ls", "web01@one:/attached"]);
        assert_eq!(attached[0]["size_bytes"], 10, "{what}");
    }
}

const INDEX: &str = "vms/web01/index.json";

#[test]
fn the_points_own_sidecar_is_believed_and_not_the_index() {
    for (what, change) in [
        (
            "no attached files",
            (|point| point["attached"] = json!([])) as fn(&mut Value),
        ),
        ("another hash of the file", |point| {
            point["attached"][0]["blake3"] = json!("00".repeat(32));
        }),
        ("another hash of the point", |point| {
            point["point_blake3"] = json!("00".repeat(32))
        }),
        ("another size of the file", |point| {
            point["attached"][0]["size_bytes"] = json!(7)
        }),
        ("other sizes of the disk", |point| {
            point["disks"][0]["source_bytes"] = json!(512);
            point["disks"][0]["size_bytes"] = json!(512);
        }),
        ("no disks", |point| point["disks"] = json!([])),
    ] {
        let pair = Pair::new();
        pair.edit(INDEX, |index| change(&mut index["points"][0]));
        pair.check(what);
    }
}

#[test]
fn an_index_that_is_damaged_is_not_believed_and_is_written_anew() {
    let pair = Pair::new();
    let path = pair.path(INDEX);
    let good = std::fs::read(&path).unwrap();
    // In a number of which any value could be.
    let text = String::from_utf8(good.clone()).unwrap();
    let at = text.find("\"data_bytes\": ").unwrap() + 14;
    let mut bytes = good;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let said = pair.place.run(&["ls", "web01"]);
    assert!(said.status.success());
    assert!(String::from_utf8_lossy(&said.stderr).contains("index.json"));
    pair.check("a flipped bit");
    let said = pair.place.run(&["rebuild-catalog"]);
    assert!(said.status.success());
    assert!(String::from_utf8_lossy(&said.stderr).contains("index.json is rebuilt"));
    let after = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    assert!(after.ends_with("\"\n}\n") && after.contains(&text[at..at + 6]));
    pair.check("written anew");
}

#[test]
fn a_sidecar_that_is_not_what_was_written_is_named() {
    let pair = Pair::new();
    for (file, args) in [
        ("restorefs.json", &["ls"][..]),
        ("vms/web01/vm.json", &["ls", "web01"]),
        ("vms/web01/points/one/point.json", &["info", "web01@one"]),
    ] {
        let path = pair.path(file);
        let good = std::fs::read(&path).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        // A digit of a time, of which any is as good.
        let at = text.find("_at\": \"").unwrap() + 10;
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let said = pair.place.fails(3, args);
        assert!(
            said.contains(file.rsplit('/').next().unwrap()),
            "{file}: {said}"
        );
        std::fs::write(&path, &good).unwrap();
        pair.place.ok(args);
        if file.ends_with("vm.json") {
            // Of a release that wrote no hash; the next change brings it.
            pair.edit(file, |vm| vm["display_name"] = json!("Web 1"));
            pair.check("edited by hand");
        }
    }
}

/// What leads to no data is proved after the data: the disk is there and right, and the damage is told.
#[test]
fn a_restore_tells_of_damage_that_its_data_does_not_need() {
    let pair = Pair::new();
    let layers = std::fs::read_dir(pair.path("vms/web01/layers")).unwrap();
    let mut files: Vec<_> = layers.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let layer = files
        .iter()
        .find(|path| path.extension().unwrap() == "qcow2")
        .unwrap();
    let sums = files
        .iter()
        .find(|path| path.extension().unwrap() == "sums")
        .unwrap();
    let good = std::fs::read(layer).unwrap();
    let find = |text: &[u8]| {
        good.windows(text.len())
            .position(|part| part == text)
            .unwrap()
    };
    // The name of a feature in the header; the last refcount block or table, which is at the end; flags of the sums.
    let last = good.iter().rposition(|byte| *byte != 0).unwrap();
    let places = [(layer, find(b"dirty bit")), (layer, last), (sums, 44)];
    for (path, at) in places {
        let good = std::fs::read(path).unwrap();
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(path, open).unwrap();
        std::fs::write(path, &bytes).unwrap();
        let _ = std::fs::remove_file(pair.place.path("out.raw"));
        let said = pair
            .place
            .fails(3, &["restore", "web01@one", "vda", "out.raw"]);
        assert!(
            said.contains("every cluster of it verified, but"),
            "{at}: {said}"
        );
        assert!(
            said.contains(path.file_name().unwrap().to_str().unwrap()),
            "{at}: {said}"
        );
        assert!(std::fs::read(pair.place.path("out.raw")).unwrap() == pair.disk);
        std::fs::write(path, &good).unwrap();
    }
    pair.check("whole again");
}

/// One VM that is damaged stops no backup of the others.
#[test]
fn a_vm_that_is_damaged_is_left_alone_and_the_others_go_on() {
    let pair = Pair::new();
    let place = &pair.place;
    place.ok(&["backup", "db01", "vda=a.raw", "--point", "one"]);
    let path = pair.path("vms/web01/vm.json");
    let good = std::fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    place.ok(&["backup", "db01", "vda=a.raw", "--point", "two"]);
    for args in [&["backup", "web01", "vda=a.raw"][..], &["rebuild-catalog"]] {
        // The log comes first.
        let output = place.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(
            said.contains("\nrestorefs: ") && said.contains("vm.json"),
            "{said}"
        );
    }
    let daemon = place.serve(&[]);
    place.ok(&["backup", "db01", "vda=a.raw", "--point", "three"]);
    place.fails(3, &["begin", "web01"]);
    daemon.stop();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::write(&path, &good).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    pair.check("restored from a copy");
    // No serial was given twice meanwhile.
    let mut serials = std::collections::BTreeSet::new();
    for vm in ["web01", "db01"] {
        let index = std::fs::read(pair.path(&format!("vms/{vm}/index.json"))).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        for point in index["points"].as_array().unwrap() {
            assert!(serials.insert(point["serial"].as_u64().unwrap()), "{index}");
        }
    }
    assert_eq!(serials.len(), 5);
}

/// A VM that has lost its sidecar is no place for a new VM, whose points would count from 1 again.
#[test]
fn a_vm_without_its_sidecar_is_damaged_and_not_new() {
    let pair = Pair::new();
    let place = &pair.place;
    place.ok(&["backup", "db01", "vda=a.raw", "--point", "one"]);
    let path = pair.path("vms/web01/vm.json");
    let good = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for args in [
        &["backup", "web01", "vda=a.raw"][..],
        &["rebuild-catalog"],
        &["ls"],
        &["ls", "web01"],
        &["ls", "web01@one:/disks"],
        &["info", "web01@one"],
        &["restore", "web01@one:/attached", "--to", "out"],
    ] {
        // The log comes first.
        let output = place.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(
            said.contains("restorefs: ") && said.contains("vm.json"),
            "{said}"
        );
    }
    // The others are listed all the same.
    let listed = place.run(&["ls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("db01"));
    assert!(!path.exists());
    // What was begun and never had a point is no VM.
    std::fs::create_dir_all(pair.path("vms/new/points/.x.partial")).unwrap();
    std::fs::write(&path, &good).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    place.ok(&["ls"]);
    pair.check("restored from a copy");
}

/// Of a point whose own sidecar is damaged nothing is shown as if it were whole.
#[test]
fn files_of_a_point_whose_sidecar_is_damaged_are_not_listed_as_none() {
    let pair = Pair::new();
    let place = &pair.place;
    let path = "vms/web01/points/one/point.json";
    std::fs::set_permissions(
        pair.path(path),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let mut bytes = std::fs::read(pair.path(path)).unwrap();
    bytes[60] ^= 1;
    std::fs::write(pair.path(path), bytes).unwrap();
    for args in [
        &["ls", "web01@one"][..],
        &["ls", "web01@one:/disks"],
        &["ls", "web01@one:/files"],
        &["restore", "web01@one:/files", "--to", "out"],
        &["restore", "web01@one:/files", "--to", "out.tar"],
    ] {
        let said = place.fails(3, args);
        assert!(said.contains("point.json"), "{args:?}: {said}");
    }
    assert!(!place.path("out").exists() && !place.path("out.tar").exists());
}
