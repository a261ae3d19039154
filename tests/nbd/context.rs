//! Meta contexts of the daemon's exports: the depth in the chain as QEMU reports it, and the changes since a point.

use std::fmt::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;

use restorefs::block::WriteAt;
use restorefs::nbd::client::Client;
use restorefs::nbd::proto::uri::Uri;

use crate::kit::need::has;
use crate::kit::place::{Daemon, Place};
use crate::raw::{Raw, STATUS};
use crate::tool;

const CLUSTER: usize = 65_536;
/// More than a region (512 MiB), so that equal and different regions both occur.
const CLUSTERS: usize = 8192 + 64;

/// Writes whole clusters of one byte into a sparse file.
fn fill(path: &Path, clusters: &[(usize, u8)]) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    file.set_len((CLUSTERS * CLUSTER) as u64).unwrap();
    for (cluster, byte) in clusters {
        file.write_all_at(&vec![*byte; CLUSTER], (cluster * CLUSTER) as u64)
            .unwrap();
    }
}

/// Four points of `vda`: what is written, then one more, then one goes back and one becomes zero, then nothing but `vdb`.
fn history(place: &Place) {
    let path = place.path("a.raw");
    std::fs::write(place.path("b.raw"), vec![7; CLUSTER]).unwrap();
    let steps: [(&str, &[(usize, u8)]); 4] = [
        ("p1", &[(0, 1), (1, 2), (5, 3), (8191, 4), (8200, 5)]),
        ("p2", &[(1, 9), (6, 6), (8200, 8)]),
        ("p3", &[(1, 2), (5, 0), (8192, 3)]),
        ("p4", &[]),
    ];
    for (n, (point, clusters)) in steps.into_iter().enumerate() {
        fill(&path, clusters);
        if n == 3 {
            std::fs::write(place.path("b.raw"), vec![8; CLUSTER]).unwrap();
        }
        place.ok(&[
            "backup",
            "web01",
            "vda=a.raw",
            "vdb=b.raw",
            "--point",
            point,
        ]);
        std::fs::copy(&path, place.path(&format!("{point}.raw"))).unwrap();
    }
}

/// `offset length flags` of each extent, as nbdinfo tells them.
fn map(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let text = tool::run("nbdinfo", &[&format!("--map={context}"), "--json", uri]);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |value: &serde_json::Value, key: &str| value[key].as_u64().unwrap();
    let extents = all.as_array().unwrap().iter();
    extents
        .map(|e| (number(e, "offset"), number(e, "length"), number(e, "type")))
        .collect()
}

/// The extents of a map that says `flags` of each cluster, neighbours joined.
fn extents(flags: impl Iterator<Item = u64>) -> Vec<(u64, u64, u64)> {
    let mut all: Vec<(u64, u64, u64)> = Vec::new();
    for (at, flags) in flags.enumerate() {
        match all.last_mut() {
            Some(last) if last.2 == flags => last.1 += CLUSTER as u64,
            _ => all.push(((at * CLUSTER) as u64, CLUSTER as u64, flags)),
        }
    }
    all
}

fn joined(all: Vec<(u64, u64, u64)>) -> Vec<(u64, u64, u64)> {
    let mut out: Vec<(u64, u64, u64)> = Vec::new();
    for extent in all {
        match out.last_mut() {
            Some(last) if last.2 == extent.2 => last.1 += extent.1,
            _ => out.push(extent),
        }
    }
    out
}

/// Which clusters of two files differ.
fn differences(place: &Place, now: &str, since: &str) -> Vec<(u64, u64, u64)> {
    let open = |name: &str| std::fs::File::open(place.path(&format!("{name}.raw"))).unwrap();
    let (now, since) = (open(now), open(since));
    extents((0..CLUSTERS).map(|cluster| {
        let read = |file: &std::fs::File| {
            let mut bytes = vec![0; CLUSTER];
            file.read_exact_at(&mut bytes, (cluster * CLUSTER) as u64)
                .unwrap();
            bytes
        };
        u64::from(read(&now) != read(&since))
    }))
}

/// Names that the server lists for a query, sorted.
fn listed(daemon: &Daemon, export: &str, queries: &[&str]) -> Vec<String> {
    ask(daemon, 9, export, queries)
        .into_iter()
        .map(|(_, name)| name)
        .collect()
}

fn ask(daemon: &Daemon, option: u32, export: &str, queries: &[&str]) -> Vec<(u32, String)> {
    let mut raw = Raw::greeted(&daemon.socket);
    raw.option(8, &[]);
    assert_eq!(raw.answer(8).0, 1);
    raw.option(option, &query(export, queries));
    let mut found = Vec::new();
    loop {
        match raw.answer(option) {
            (4, data) => found.push((
                u32::from_be_bytes(data[..4].try_into().unwrap()),
                String::from_utf8(data[4..].to_vec()).unwrap(),
            )),
            (1, _) => return found,
            (kind, data) => panic!("{kind:#x} {}", String::from_utf8_lossy(&data)),
        }
    }
}

fn query(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (export.len() as u32).to_be_bytes().to_vec();
    data.extend(export.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

#[test]
fn contexts_are_listed_by_name_by_prefix_and_all_of_them() {
    let place = Place::new();
    history(&place);
    let daemon = place.serve(&[]);
    let list = |queries: &[&str]| listed(&daemon, "web01/p3/vda", queries);
    let depth = "qemu:allocation-depth";
    let since = |point: &str| format!("x-restorefs:changed-since:{point}");
    assert_eq!(
        list(&[]),
        [
            "base:allocation".to_owned(),
            depth.to_owned(),
            since("p2"),
            since("p1")
        ]
    );
    assert_eq!(list(&["base:"]), ["base:allocation"]);
    assert_eq!(list(&["qemu:"]), [depth]);
    assert_eq!(list(&["x-restorefs:"]), [since("p2"), since("p1")]);
    assert_eq!(list(&[&since("")]), [since("p2"), since("p1")]);
    assert_eq!(list(&["base:nonsense", "x:", ""]), [""; 0]);
    // A point itself, a later one, an unknown one, what is no name: not offered. Nor is a wildcard chosen.
    let set = |export: &str, queries: &[&str]| ask(&daemon, 10, export, queries);
    for point in ["p3", "p4", "p9", "latest", "", "../p1", "p1/vda"] {
        assert_eq!(set("web01/p3/vda", &[&since(point)]), [], "{point}");
    }
    assert_eq!(set("web01/p3/vda", &["base:", "qemu:", "x-restorefs:"]), []);
    // Numbers follow the queries; what is asked for twice is answered once.
    assert_eq!(
        set(
            "web01/p3/vda",
            &[depth, "base:allocation", &since("P1"), depth]
        ),
        [
            (1, depth.to_owned()),
            (2, "base:allocation".to_owned()),
            (3, since("P1"))
        ]
    );
    // The other branch: a point that is compared with p1 has no p2.
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--differential",
        "--point",
        "d",
    ]);
    assert_eq!(
        listed(&daemon, "web01/d/vda", &["x-restorefs:"]),
        [since("p1")]
    );
    assert_eq!(set("web01/d/vda", &[&since("p2")]), []);
    // Another disk in the place of the old one: another key.
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--key",
        "vdb=other",
        "--full=vdb",
        "--point",
        "k",
    ]);
    assert_eq!(set("web01/k/vdb", &[&since("p1")]), []);
    assert_eq!(set("web01/k/vda", &[&since("p1")]), [(1, since("p1"))]);
    daemon.stop();
}

#[test]
fn depth_is_what_qemu_says() {
    if !has("nbdinfo") || !has("qemu-nbd") {
        return;
    }
    let place = Place::new();
    history(&place);
    let daemon = place.serve(&[]);
    for point in ["p1", "p2", "p3", "p4"] {
        let info = place.json(&["info", &format!("web01@{point}")]);
        let slot = info["disks"][0]["layer"].as_str().unwrap().to_owned();
        let layer = place.repo().join(format!("vms/web01/layers/{slot}"));
        let theirs = tool::Server::start("qemu-nbd", |socket| {
            let layer = layer.to_str().unwrap();
            ["-k", socket, "-A", "-r", "-t", "-f", "qcow2", layer]
                .map(str::to_owned)
                .to_vec()
        });
        let depth = "qemu:allocation-depth";
        let ours = joined(map(&daemon.uri(&format!("web01/{point}/vda")), depth));
        assert_eq!(ours, joined(map(&theirs.uri(""), depth)), "{point}");
        let levels: Vec<u64> = ours.iter().map(|extent| extent.2).collect();
        assert_eq!(levels.contains(&1), point != "p4", "{point}");
    }
    daemon.stop();
}

#[test]
fn qemu_img_maps_by_depth() {
    if !has("qemu-img") {
        return;
    }
    let place = Place::new();
    history(&place);
    let daemon = place.serve(&[]);
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export=web01/p3/vda,x-dirty-bitmap=qemu:allocation-depth",
        daemon.socket.display()
    );
    let text = tool::run(
        "qemu-img",
        &["map", "--output=json", "--image-opts", &options],
    );
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    // QEMU tells depth so: 0 is data, 1 is neither data nor zero, more is both.
    let theirs = all.as_array().unwrap().iter().map(|extent| {
        let depth = match (extent["data"].as_bool(), extent["zero"].as_bool()) {
            (Some(true), Some(false)) => 0,
            (Some(false), Some(false)) => 1,
            _ => 2,
        };
        let number = |key: &str| extent[key].as_u64().unwrap();
        (number("start"), number("length"), depth)
    });
    let ours = [(0, 1, 2), (1, 1, 1), (2, 3, 0), (5, 1, 1), (6, 1, 2)];
    let ours = ours.map(|(at, length, depth)| (at << 16, length << 16, depth));
    let theirs: Vec<(u64, u64, u64)> = joined(theirs.collect());
    assert_eq!(theirs[..5], ours, "{text}");
    daemon.stop();
}

#[test]
fn what_has_changed_is_exact() {
    if !has("nbdinfo") {
        return;
    }
    let place = Place::new();
    history(&place);
    let daemon = place.serve(&[]);
    for (now, since) in [
        ("p2", "p1"),
        ("p3", "p1"),
        ("p3", "p2"),
        ("p4", "p3"),
        ("p4", "p1"),
    ] {
        let context = format!("x-restorefs:changed-since:{since}");
        let found = joined(map(&daemon.uri(&format!("web01/{now}/vda")), &context));
        assert_eq!(found, differences(&place, now, since), "{now} {since}");
    }
    // Stored in full, and yet changed only where it differs: this point has p4 as its parent all the same.
    fill(&place.path("a.raw"), &[(2, 2)]);
    place.ok(&[
        "backup",
        "web01",
        "vda=a.raw",
        "vdb=b.raw",
        "--full=vda",
        "--point",
        "f",
    ]);
    std::fs::copy(place.path("a.raw"), place.path("f.raw")).unwrap();
    let uri = daemon.uri("web01/f/vda");
    let found = joined(map(&uri, "x-restorefs:changed-since:p1"));
    assert_eq!(found, differences(&place, "f", "p1"));
    daemon.stop();
}

#[test]
fn what_has_changed_is_exact_after_points_between_were_forgotten_and_merged() {
    if !has("nbdinfo") {
        return;
    }
    let place = Place::new();
    history(&place);
    // Layers of the points that stay take over what they need.
    let forgotten = place.json(&["forget", "web01@p2", "web01@p3"]);
    assert_eq!(forgotten["vms"][0]["points"].as_array().unwrap().len(), 2);
    let daemon = place.serve(&[]);
    let ask = |daemon: &Daemon| {
        let uri = daemon.uri("web01/p4/vda");
        joined(map(&uri, "x-restorefs:changed-since:p1"))
    };
    assert_eq!(ask(&daemon), differences(&place, "p4", "p1"));
    place.ok(&["forget", "--compact", "web01"]);
    place.ok(&["synthetic-full", "web01@p4"]);
    // The reader that was there before the merge, and a new one.
    assert_eq!(ask(&daemon), differences(&place, "p4", "p1"));
    daemon.stop();
    let daemon = place.serve(&[]);
    assert_eq!(ask(&daemon), differences(&place, "p4", "p1"));
    let gone = listed(&daemon, "web01/p4/vda", &["x-restorefs:changed-since:p2"]);
    assert_eq!(gone, Vec::<String>::new());
}

#[test]
fn a_session_is_asked_while_it_is_written() {
    if !has("nbdinfo") {
        return;
    }
    let place = Place::new();
    history(&place);
    let daemon = place.serve(&[]);
    // It grows by two clusters, which were not there before.
    let size = ((CLUSTERS + 2) * CLUSTER).to_string();
    place.ok(&["begin", "web01", &format!("vda={size}"), "--session", "s"]);
    let uri: Uri = daemon.uri("web01/s/vda").parse().unwrap();
    let client = Client::connect(&uri).unwrap();
    client
        .write_at((3 * CLUSTER) as u64, &[1; CLUSTER])
        .unwrap();
    // As it was in p2, and is not in the parent.
    client.write_at(CLUSTER as u64, &[9; CLUSTER]).unwrap();
    client.write_at((8 * CLUSTER) as u64, &[1; 512]).unwrap();
    client.flush().unwrap();
    let found = joined(map(&uri.to_string(), "x-restorefs:changed-since:p2"));
    let mut expected = differences(&place, "p4", "p2");
    let file = place.path("p4.raw");
    fill(&file, &[(1, 9), (3, 1), (8, 1)]);
    let with = differences(&place, "p4", "p2");
    assert_ne!(expected, with);
    expected = with;
    expected.push(((CLUSTERS * CLUSTER) as u64, (2 * CLUSTER) as u64, 1));
    assert_eq!(found, joined(expected));
    // The session's own is at the top; p4 holds nothing, p3 is below it.
    let depth = joined(map(&uri.to_string(), "qemu:allocation-depth"));
    let at = |cluster: usize| {
        let offset = (cluster * CLUSTER) as u64;
        let extent = depth.iter().find(|e| offset < e.0 + e.1).unwrap();
        extent.2
    };
    let said = [0, 1, 2, 3, 5, 6, 7, 8, CLUSTERS].map(at);
    assert_eq!(said, [5, 1, 0, 1, 3, 4, 0, 1, 2], "{depth:?}");
    client.disconnect().unwrap();
    daemon.stop();
}

#[test]
fn each_context_has_a_chunk_of_its_own() {
    let place = Place::new();
    history(&place);
    let daemon = place.serve(&[]);
    let mut raw = Raw::greeted(&daemon.socket);
    raw.option(8, &[]);
    assert_eq!(raw.answer(8).0, 1);
    let export = "web01/p3/vda";
    let queries = [
        "base:allocation",
        "qemu:allocation-depth",
        "x-restorefs:changed-since:p2",
    ];
    raw.option(10, &query(export, &queries));
    for _ in queries {
        assert_eq!(raw.answer(10).0, 4);
    }
    assert_eq!(raw.answer(10).0, 1);
    let mut go = (export.len() as u32).to_be_bytes().to_vec();
    go.extend(export.as_bytes());
    go.extend([0, 1, 0, 3]);
    raw.option(7, &go);
    while raw.answer(7).0 == 3 {}
    // Clusters 0 to 6: the payloads of the chunks, without their numbers, come one after the other.
    let said = raw.ask(0, STATUS, 0, 7 * CLUSTER as u32);
    let mut text = String::new();
    for entry in said.data.chunks(8) {
        let length = u32::from_be_bytes(entry[..4].try_into().unwrap());
        let flags = u32::from_be_bytes(entry[4..].try_into().unwrap());
        write!(text, "{}:{flags} ", length as usize / CLUSTER).unwrap();
    }
    assert_eq!(
        (said.error, text.as_str()),
        (
            0,
            "2:0 3:3 1:2 1:0 1:3 1:1 3:0 1:1 1:2 1:0 1:1 3:0 1:1 1:0 "
        )
    );
    // One extent of each, none longer than what was asked for.
    let said = raw.ask(1 << 3, STATUS, 0, 4 * CLUSTER as u32);
    let lengths: Vec<usize> = said
        .data
        .chunks(8)
        .map(|e| u32::from_be_bytes(e[..4].try_into().unwrap()) as usize / CLUSTER)
        .collect();
    assert_eq!(lengths, [2, 1, 1]);
    drop(raw);
    daemon.stop();
}

#[test]
fn too_many_contexts_are_refused() {
    let place = Place::new();
    place.disk("a.raw", 2, 0);
    for n in 0..18 {
        place.ok(&["backup", "web01", "vda=a.raw", "--point", &format!("p{n}")]);
    }
    let daemon = place.serve(&[]);
    let names: Vec<String> = (0..17)
        .map(|n| format!("x-restorefs:changed-since:p{n}"))
        .collect();
    let queries: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut raw = Raw::greeted(&daemon.socket);
    raw.option(8, &[]);
    assert_eq!(raw.answer(8).0, 1);
    raw.option(10, &query("web01/p17/vda", &queries));
    assert_eq!(raw.answer(10).0, 0x8000_0009);
    raw.option(9, &query("web01/p17/vda", &["x"; 257]));
    assert_eq!(raw.answer(9).0, 0x8000_0009);
    raw.option(10, &query("web01/p17/vda", &queries[..16]));
    for _ in 0..16 {
        assert_eq!(raw.answer(10).0, 4);
    }
    assert_eq!(raw.answer(10).0, 1);
    daemon.stop();
}
