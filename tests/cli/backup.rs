//! `backup`: full, incremental, differential, two disks, formats, growth, attachments.

use std::process::Command;

use crate::kit::need::has;
use crate::kit::place::Place;

fn changed(place: &Place, point: &str) -> u64 {
    place.json(&["info", point])["disks"][0]["changed_bytes"]
        .as_u64()
        .unwrap()
}

#[test]
fn an_incremental_stores_the_clusters_that_changed() {
    let place = Place::new();
    let mut disk = place.disk("a.raw", 30, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    disk[65_536 * 4 + 100] ^= 1;
    disk[65_536 * 7..65_536 * 8].fill(0);
    std::fs::write(place.path("a.raw"), &disk).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "two"]);
    assert_eq!(changed(&place, "web01@two"), 2 * 65_536);
    assert_eq!(place.restored("web01@two", "vda"), disk);
    assert_eq!(
        place.restored("web01@one", "vda"),
        place.disk("x.raw", 30, 1)
    );
    let info = place.json(&["info", "WEB01@TWO"]);
    assert_eq!(place.json(&["ls", "Web01"]).as_array().unwrap().len(), 2);
    assert_eq!(info["kind"], "incremental");
    assert_eq!(info["parent"]["name"], "one");
    // Nothing changed: an empty layer.
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "three"]);
    assert_eq!(changed(&place, "web01@three"), 0);
}

#[test]
fn full_and_differential() {
    let place = Place::new();
    place.disk("a.raw", 12, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.disk("b.raw", 12, 2);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "two"]);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "--point",
        "three",
        "--differential",
    ]);
    let info = place.json(&["info", "web01@three"]);
    assert_eq!(
        (info["kind"].as_str(), info["parent"]["name"].as_str()),
        (Some("differential"), Some("one"))
    );
    assert_eq!(changed(&place, "web01@three"), 0);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "four", "--full"]);
    let info = place.json(&["info", "web01@four"]);
    assert_eq!(info["kind"], "full");
    assert!(info["parent"].is_null());
}

#[test]
fn a_point_has_all_disks_or_says_why_not() {
    let place = Place::new();
    place.disk("a.raw", 6, 1);
    let b = place.disk("b.raw", 9, 2);
    place.ok(&["backup", "db01", "vda=a.raw", "vdb=b.raw"]);
    let said = place.fails(2, &["backup", "db01", "vda=a.raw"]);
    assert!(
        said.contains("vdb") && said.contains("--unchanged vdb"),
        "{said}"
    );
    let said = place.fails(
        1,
        &["backup", "db01", "vda=a.raw", "--unchanged", "vdb,vdc"],
    );
    assert!(said.contains("db01 has no disk vdc"), "{said}");
    let said = place.fails(
        1,
        &[
            "backup",
            "db01",
            "vda=a.raw",
            "vdb=b.raw",
            "--change-id",
            "vdx=1",
        ],
    );
    assert!(said.contains("db01 has no disk vdx"), "{said}");
    let said = place.fails(
        2,
        &[
            "backup",
            "db01",
            "vda=a.raw",
            "vdb=b.raw",
            "--unchanged",
            "VDB",
        ],
    );
    assert!(said.contains("has a source and --unchanged"), "{said}");
    // That is said before anything is copied.
    for job in place.json(&["jobs"]).as_array().unwrap() {
        let received = job["disks"][0]["received_bytes"].as_u64().unwrap();
        assert_eq!(received > 0, job["result"] == "committed", "{job}");
    }
    assert_eq!(place.json(&["ls", "db01"]).as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["sessions"]), serde_json::json!([]));
    place.ok(&[
        "backup",
        "db01",
        "vda=a.raw",
        "--unchanged",
        "vdb",
        "--point",
        "two",
    ]);
    assert_eq!(place.restored("db01@two", "vdb"), b);
    place.ok(&[
        "backup",
        "db01",
        "vda=a.raw",
        "--without",
        "vdb",
        "--point",
        "three",
    ]);
    let said = place.fails(1, &["restore", "db01@three", "vdb", "x.raw"]);
    assert!(said.contains("has no disk vdb"), "{said}");
    // A new disk in an old VM is full, and that is said.
    let output = place.run(&[
        "backup",
        "db01",
        "vda=a.raw",
        "vdb=b.raw",
        "--point",
        "four",
    ]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("stored in full"));
}

#[test]
fn another_key_is_another_disk() {
    let place = Place::new();
    place.disk("a.raw", 6, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "--key",
        "vda=serial-1",
        "--point",
        "two",
    ]);
    assert_eq!(place.json(&["info", "web01@two"])["kind"], "incremental");
    let output = place.run(&[
        "backup",
        "web01",
        "vda=a.raw",
        "--key",
        "vda=serial-2",
        "--point",
        "three",
    ]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another disk has this name now"));
    assert_eq!(place.json(&["info", "web01@three"])["kind"], "full");
}

#[test]
fn disks_grow_but_do_not_shrink() {
    let place = Place::new();
    // No multiple of 512: shown as it is, padded for the guest.
    let mut disk = place.disk("a.raw", 5, 1);
    disk.truncate(5 * 65_536 - 700);
    std::fs::write(place.path("a.raw"), &disk).unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "one"]);
    assert_eq!(place.restored("web01@one", "vda"), disk);
    let grown = place.disk("b.raw", 9, 1);
    place.ok(&["backup", "web01", "vda=b.raw", "--point", "two"]);
    assert_eq!(place.restored("web01@two", "vda"), grown);
    let said = place.fails(2, &["backup", "web01", "vda=a.raw"]);
    assert!(
        said.contains("smaller than its parent") && said.contains("--full"),
        "{said}"
    );
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "--full",
        "vda",
        "--point",
        "three",
    ]);
    assert_eq!(place.restored("web01@three", "vda"), disk);
}

/// A pipe that nobody writes to would be waited for, and `/dev/zero` has no end.
#[test]
fn only_regular_files_are_attached() {
    let place = Place::new();
    place.disk("a.raw", 1, 1);
    crate::tool::ok(&place, "mkfifo", &["pipe"]);
    std::fs::create_dir(place.path("dir")).unwrap();
    for odd in ["pipe", "dir", "/dev/zero", "/dev/null"] {
        let said = place.fails(2, &["backup", "web01", "vda=a.raw", "--attach", odd]);
        assert!(said.contains("regular files"), "{odd}: {said}");
    }
}

#[test]
fn attached_files_go_with_the_point() {
    let place = Place::new();
    place.disk("a.raw", 3, 1);
    std::fs::write(place.path("domain.xml"), b"<domain/>\xff").unwrap();
    place.ok(&["backup", "web01", "vda=a.raw", "--attach", "domain.xml"]);
    place.ok(&["restore", "web01@latest", "--to", "out"]);
    assert_eq!(
        std::fs::read(place.path("out/attached/domain.xml")).unwrap(),
        b"<domain/>\xff"
    );
    assert_eq!(
        std::fs::read(place.path("out/vda.raw")).unwrap(),
        place.disk("x.raw", 3, 1)
    );
}

#[test]
fn compressed_layers_and_foreign_formats() {
    if !has("qemu-img") || !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    let disk = place.disk("a.raw", 12, 3);
    for (format, extension) in [
        ("qcow2", "qcow2"),
        ("vmdk", "vmdk"),
        ("vhdx", "vhdx"),
        ("vdi", "vdi"),
    ] {
        let file = format!("a.{extension}");
        let made = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format, "a.raw", &file])
            .current_dir(place.dir.path())
            .status()
            .unwrap();
        assert!(made.success());
        for method in ["none", "zlib", "zstd"] {
            place.ok(&[
                "backup",
                &format!("{format}-{method}"),
                &format!("vda={file}"),
                "--compress",
                method,
            ]);
            let mut shown = place.restored(&format!("{format}-{method}@latest"), "vda");
            shown.truncate(disk.len());
            assert_eq!(shown, disk, "{format} {method}");
        }
    }
}
