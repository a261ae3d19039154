//! Change ids, and sessions to which only changes are sent.

use restorefs::block::WriteAt;
use restorefs::nbd::client::Client;
use serde_json::Value;

use crate::kit::place::{Daemon, Place};

fn write(daemon: &Daemon, session: &str, disk: &str, at: u64, bytes: &[u8]) {
    let uri = daemon.uri(&format!("{session}/{disk}"));
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    client.write_at(at, bytes).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
}

fn begun(answer: &Value) -> String {
    format!("web01/{}", answer["session"].as_str().unwrap())
}

#[test]
fn changes_are_taken_when_they_are_since_the_parent() {
    let place = Place::new();
    let mut a = place.disk("a.raw", 20, 1);
    let b = place.disk("b.raw", 20, 2);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--point",
        "one",
        "--change-id",
        "vda=c1,vdb=c1",
    ]);
    let daemon = place.serve(&[]);
    let first = place.json(&["begin", "web01"]);
    for disk in first["disk_results"].as_array().unwrap() {
        assert_eq!(disk["parent"], "one");
        assert_eq!(disk["previous_change_id"], "c1");
        assert!(disk.get("parent_disk").is_none());
    }
    place.ok(&["abort", &begun(&first)]);

    // Said at once and wrong: refused at once, and nothing is left.
    for (wrong, found) in [("vda=c0", "c1"), ("vda=c1,vdb=c7", "c7")] {
        let said = place.fails(
            2,
            &[
                "begin",
                "web01",
                "--changed-only",
                "--previous-change-id",
                wrong,
            ],
        );
        assert!(said.contains(found) && said.contains("c1"), "{said}");
        assert!(said.contains("--changed-only"), "{said}");
    }
    assert_eq!(place.json(&["sessions"]), serde_json::json!([]));

    let answer = place.json(&[
        "begin",
        "web01",
        "vdc=1M",
        "--changed-only",
        "--previous-change-id",
        "vda=c1",
        "--point",
        "two",
    ]);
    let new = &answer["disk_results"][2];
    assert_eq!(new["parent"], Value::Null);
    assert_eq!(new["previous_change_id"], Value::Null);
    let session = begun(&answer);
    write(&daemon, &session, "vda", 65_536, &[7; 65_536]);
    a[65_536..131_072].fill(7);
    write(&daemon, &session, "vdb", 0, &b[..65_536]);
    let whole = vec![9; 1 << 20];
    write(&daemon, &session, "vdc", 0, &whole);
    // Not said of vdb, then said wrongly; the session stays open.
    let said = place.fails(2, &["commit", &session]);
    assert!(said.contains("vdb") && said.contains("c1"), "{said}");
    let said = place.fails(2, &["commit", &session, "--previous-change-id", "vdb=c2"]);
    assert!(said.contains("c2") && said.contains("c1"), "{said}");
    let said = place.fails(
        2,
        &["commit", &session, "--previous-change-id", "vdb=c1,vdc=c1"],
    );
    assert!(said.contains("has no parent"), "{said}");
    place.ok(&[
        "commit",
        &session,
        "--previous-change-id",
        "vdb=c1",
        "--change-id",
        "vda=c2,vdc=c2",
    ]);
    for (disk, bytes) in [("vda", &a), ("vdb", &b), ("vdc", &whole)] {
        assert!(place.restored("web01@two", disk) == *bytes, "{disk}");
    }

    // It outlives the daemon; vdb was taken without an id, so that nothing can be counted from it.
    let answer = place.json(&["begin", "web01", "--changed-only", "--ttl", "2h"]);
    assert_eq!(answer["disk_results"][0]["previous_change_id"], "c2");
    assert_eq!(answer["disk_results"][1]["previous_change_id"], Value::Null);
    let session = begun(&answer);
    daemon.kill();
    let daemon = place.serve(&[]);
    write(&daemon, &session, "vda", 0, &[5; 65_536]);
    a[..65_536].fill(5);
    write(&daemon, &session, "vdb", 0, &b[..65_536]);
    let shown = place.json(&["sessions"]);
    assert_eq!(shown[0]["disks"][0]["door"], "nbd");
    assert_eq!(shown[0]["disks"][2]["door"], Value::Null);
    assert!(shown[0]["idle_seconds"].as_u64().unwrap() < 60);
    let table = place.ok(&["sessions"]);
    assert!(
        table.contains("vda (nbd, finished)") && table.contains("vdc (not written yet)"),
        "{table}"
    );
    let commit = ["commit", &session, "--previous-change-id", "vda=c2"];
    let mut with = commit.to_vec();
    with.extend(["--unchanged", "vdc"]);
    let said = place.fails(2, &with);
    assert!(
        said.contains("vdb") && said.contains("no change id"),
        "{said}"
    );
    // Without the disk, it is a point of the others.
    with.extend(["--without", "vdb"]);
    place.ok(&with);
    assert!(place.restored("web01@latest", "vda") == a);
    assert!(place.restored("web01@latest", "vdc") == whole);
    daemon.stop();
}

#[test]
fn flags_that_are_repeated_may_be_lists() {
    let place = Place::new();
    for name in ["a.raw", "b.raw", "c.raw"] {
        place.disk(name, 6, 1);
    }
    std::fs::write(place.path("x.txt"), "x").unwrap();
    std::fs::write(place.path("y,z.txt"), "y").unwrap();
    let three = ["backup", "web01", "vda=a.raw", "vdb=b.raw", "vdc=c.raw"];
    let run = |more: &[&str]| {
        let mut args = three.to_vec();
        args.extend_from_slice(more);
        place.ok(&args);
        place.json(&["info", "web01@latest"])
    };
    let listed = run(&[
        "--key",
        "vda=K1,vdb=K2",
        "--attach",
        "x.txt,a.raw",
        "--change-id",
        "vda=1,vdb=2,vdc=3",
    ]);
    assert_eq!(listed["disks"][1]["key"], "K2");
    assert_eq!(listed["disks"][2]["change_id"], "3");
    assert_eq!(listed["attached"].as_array().unwrap().len(), 2);
    let again = run(&[
        "--attach", "y,z.txt", "--attach", "x.txt", "--full", "vda,vdb",
    ]);
    assert_eq!(again["attached"].as_array().unwrap().len(), 2);
    let kinds: Vec<&str> = again["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["full", "full", "incremental"]);
    place.ok(&["backup", "web01", "vda=a.raw", "--unchanged", "vdb,vdc"]);
    place.ok(&["backup", "web01", "vda=a.raw", "--without", "vdb,vdc"]);
    let last = place.json(&["info", "web01@latest"]);
    assert_eq!(last["disks"].as_array().unwrap().len(), 1);
}
