//! kill -9 of the daemon in the middle of a stream: the client does not need to send flushed data again.

use restorefs::block::{ReadAt, WriteAt};
use restorefs::nbd::client::Client;

use crate::kit::place::{Daemon, Place};

const MIB: usize = 1 << 20;
const HALF: usize = 12 * MIB;

fn content(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(2 * HALF);
    while bytes.len() < 2 * HALF {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn connect(daemon: &Daemon, export: &str) -> Client {
    Client::connect(&daemon.uri(export).parse().unwrap()).unwrap()
}

fn write(client: &Client, bytes: &[u8], from: usize, to: usize) {
    for at in (from..to).step_by(MIB) {
        let end = (at + MIB).min(to);
        client.write_at(at as u64, &bytes[at..end]).unwrap();
    }
}

#[test]
fn the_second_half_is_enough_after_a_kill_and_again_after_another() {
    let place = Place::new();
    // A parent, so that what was not sent could be mistaken for it.
    place.disk("a.raw", 2 * HALF / 65_536, 1);
    place.disk("b.raw", 2 * HALF / 65_536, 1);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--point",
        "one",
    ]);
    let disks = [("vda", content(1)), ("vdb", content(2))];
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01", "--point", "two"]);
    let session = format!("web01/{}", begun["session"].as_str().unwrap());
    let mut clients = Vec::new();
    for (name, bytes) in &disks {
        let client = connect(&daemon, &format!("{session}/{name}"));
        write(&client, bytes, 0, HALF);
        client.flush().unwrap();
        // On its way when the daemon dies: not answered as durable.
        write(&client, &vec![0xee; 2 * HALF], HALF, HALF + 3 * MIB);
        clients.push(client);
    }
    daemon.kill();
    drop(clients);
    let shown = place.json(&["sessions"]);
    assert_eq!(shown[0]["live"], false);
    assert_eq!(shown[0]["idle_seconds"], serde_json::Value::Null);

    let daemon = place.serve(&[]);
    for (name, bytes) in &disks {
        let client = connect(&daemon, &format!("{session}/{name}"));
        let mut found = vec![0; HALF];
        client.read_at(0, &mut found).unwrap();
        assert!(
            found == bytes[..HALF],
            "{name}: something that was flushed is lost"
        );
        // The last quarter goes by FUA-less writes and a flush; then another kill.
        write(&client, bytes, HALF + HALF / 2, 2 * HALF);
        client.flush().unwrap();
    }
    daemon.kill();
    let daemon = place.serve(&[]);
    // A disk whose last connection died is not finished.
    let said = place.fails(2, &["commit", &session]);
    assert!(said.contains("neither finished nor declared"), "{said}");
    for (name, bytes) in &disks {
        let client = connect(&daemon, &format!("{session}/{name}"));
        write(&client, bytes, HALF, HALF + HALF / 2);
        client.flush().unwrap();
        client.disconnect().unwrap();
    }
    place.ok(&["commit", &session]);
    for (name, bytes) in &disks {
        assert!(place.restored("web01@two", name) == *bytes, "{name}");
    }
    // This process was sent a quarter of each disk, and no more was needed.
    let job = &place.json(&["jobs", "-n1"])[0];
    for disk in job["disks"].as_array().unwrap() {
        assert_eq!(
            disk["received_bytes"].as_u64(),
            Some(HALF as u64 / 2),
            "{job}"
        );
    }
    let info = place.json(&["info", "web01@two"]);
    for disk in info["disks"].as_array().unwrap() {
        assert_eq!(disk["changed_bytes"].as_u64(), Some(2 * HALF as u64));
    }
    daemon.stop();
}

#[test]
fn a_disk_that_was_finished_stays_so_after_a_kill_until_it_is_written_again() {
    let place = Place::new();
    place.disk("a.raw", 2 * HALF / 65_536, 1);
    place.disk("b.raw", 2 * HALF / 65_536, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "vdb=b.raw"]);
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01", "--point", "two"]);
    let session = format!("web01/{}", begun["session"].as_str().unwrap());
    let commit_lacks = |disk: &str| {
        let said = place.fails(2, &["commit", &session]);
        assert!(
            said.contains(&format!("disk {disk} is neither finished")),
            "{said}"
        );
    };
    // Not whole clusters, and not flushed: the goodbye is enough.
    let goes = |daemon: &Daemon, name: &str, bytes: &[u8]| {
        let client = connect(daemon, &format!("{session}/{name}"));
        client.write_at(512, &bytes[..100_000]).unwrap();
        client.write_at(900_000, &bytes[..1024]).unwrap();
        client.disconnect().unwrap();
    };
    let (first, second) = (content(4), content(5));
    goes(&daemon, "vda", &first);
    daemon.kill();

    let daemon = place.serve(&[]);
    commit_lacks("vdb");
    goes(&daemon, "vdb", &first);
    // Written again, in place, and not brought to an end.
    let client = connect(&daemon, &format!("{session}/vda"));
    client.write_at(512, &second[..512]).unwrap();
    daemon.kill();
    drop(client);

    let daemon = place.serve(&[]);
    commit_lacks("vda");
    goes(&daemon, "vda", &second);
    daemon.kill();

    let daemon = place.serve(&[]);
    place.ok(&["commit", &session]);
    for (name, bytes) in [("vda", &second), ("vdb", &first)] {
        let mut expected = std::fs::read(place.path("a.raw")).unwrap();
        expected[512..100_512].copy_from_slice(&bytes[..100_000]);
        expected[900_000..901_024].copy_from_slice(&bytes[..1024]);
        assert!(place.restored("web01@two", name) == expected, "{name}");
    }
    daemon.stop();
}

#[test]
fn a_killed_daemons_session_is_listed_and_ended_without_one() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01", "vda=8M"]);
    let session = format!("web01/{}", begun["session"].as_str().unwrap());
    let client = connect(&daemon, &format!("{session}/vda"));
    write(&client, &content(3), 0, 4 * MIB);
    client.flush().unwrap();
    daemon.kill();
    assert!(place.ok(&["sessions"]).contains("suspended"));
    place.fails(1, &["abort", "web01/other"]);
    place.ok(&["abort", &session]);
    assert_eq!(place.json(&["sessions"]), serde_json::json!([]));
    let layers = place.repo().join("vms/web01/layers");
    assert_eq!(std::fs::read_dir(layers).unwrap().count(), 0);
    assert_eq!(place.json(&["jobs"])[0]["result"], "aborted");
}

#[test]
fn what_nobody_flushed_survives_a_kill_some_seconds_later() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let begun = place.json(&["begin", "web01", "vda=24M"]);
    let name = begun["session"].as_str().unwrap().to_owned();
    let export = format!("web01/{name}/vda");
    let bytes = content(7);
    let client = connect(&daemon, &export);
    write(&client, &bytes, 0, HALF);
    let log = place
        .repo()
        .join(format!("vms/web01/points/.{name}.partial/vda.map"));
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
    let begun = std::time::Instant::now();
    while std::fs::metadata(&log).unwrap().len() == 0 {
        assert!(begun.elapsed().as_secs() < 60, "it is not flushed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    daemon.kill();
    drop(client);
    let daemon = place.serve(&[]);
    let client = connect(&daemon, &export);
    let mut found = vec![0; HALF];
    client.read_at(0, &mut found).unwrap();
    assert!(found == bytes[..HALF]);
    daemon.stop();
}
