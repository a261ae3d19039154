//! Clients that take their downloads slowly, or not at all, while a backup comes in.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::guest;
use crate::kit::need::has_all;
use crate::kit::noise::noise;
use crate::kit::shell::{run, text};
use crate::kit::wait::eventually;
use crate::scene::{POINT, Scene, VMS};
use crate::wire::connect;

/// Clients that ask for an archive and take nothing of it, with as many tokens.
const CLIENTS: usize = 200;
const TOKENS: usize = 20;
/// Downloads that are served at a time.
const SERVED: usize = 8;
/// LIMIT: threads of the daemon.
const THREADS_MAX: u64 = 400;
/// Bytes of the disk that is backed up meanwhile.
const INGEST: usize = 48 << 20;

/// A guest whose archive is more than all buffers on the way to a client.
fn scene() -> Option<Scene> {
    if !has_all(&["curl", "mke2fs", "nbdcopy"]) {
        return None;
    }
    let mut scene = Scene::empty();
    let staging = scene.place.path("staging");
    guest::write(
        &staging.join("etc/fstab"),
        b"LABEL=root / ext4 defaults 0 1\n",
    );
    guest::write(&staging.join("srv/large"), &noise(8, 48 << 20));
    guest::format(&scene.place, &staging, "guest.raw", 72);
    scene.back_up("web01", "guest.raw", "one");
    scene.start(&[]);
    Some(scene)
}

/// Asks for an archive, and takes no more than the head of the answer.
fn ask(scene: &Scene, token: &str) -> (TcpStream, String) {
    let mut stream = connect(scene.port());
    let request = format!(
        "GET {POINT}/archive?format=tar&path=/files/srv HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut got = [0; 1024];
    let length = stream.read(&mut got).unwrap();
    let head = String::from_utf8_lossy(&got[..length]).into_owned();
    (stream, head)
}

/// Backs a disk up by a session of this name, and returns how long its bytes took.
fn ingest(scene: &Scene, name: &str, seed: u64) -> Duration {
    let source = noise(seed, INGEST);
    let file = scene.place.path(name);
    std::fs::write(&file, &source).unwrap();
    let vm = format!("{VMS}/{name}");
    let session = format!("{vm}/sessions/s");
    let body = json!({"disks": [{"name": "vda", "size_bytes": INGEST}]});
    let begun = scene.ask("PUT", &session).unix().json(&body).value(201);
    let uri = begun["disk_results"][0]["uri"].as_str().unwrap();
    let started = Instant::now();
    run("nbdcopy", &["--flush", text(&file), uri]);
    let took = started.elapsed();
    let commit = scene.ask("POST", &format!("{session}/commit")).unix();
    commit.json(&json!({"point": "p"})).expect(200);
    let restored = scene.place.restored(&format!("{name}@p"), "vda");
    assert!(restored == source, "{name}");
    took
}

#[test]
fn slow_readers_are_bounded_ended_and_do_not_stop_a_backup() {
    let Some(scene) = scene() else {
        return;
    };
    let tokens: Vec<String> = (0..TOKENS)
        .map(|n| scene.token(&format!("t{n}"), "restore", "*"))
        .collect();
    let alone = ingest(&scene, "alone", 31);
    let asked = Instant::now();
    let clients: Vec<(TcpStream, String)> = (0..CLIENTS)
        .map(|n| ask(&scene, &tokens[n % TOKENS]))
        .collect();
    let (served, refused): (Vec<_>, Vec<_>) = clients
        .into_iter()
        .partition(|(_, head)| head.starts_with("HTTP/1.1 200"));
    assert_eq!((served.len(), refused.len()), (SERVED, CLIENTS - SERVED));
    for (_, head) in &refused {
        assert!(head.starts_with("HTTP/1.1 429"), "{head}");
        assert!(head.contains("\"advice\":\"try again"), "{head}");
    }
    drop(refused);
    let beside = ingest(&scene, "beside", 32);
    let threads = scene.figure("Threads");
    assert!(threads < THREADS_MAX, "{threads}");
    let ratio = alone.as_secs_f64() / beside.as_secs_f64();
    println!(
        "ingest beside {SERVED} slow readers: {ratio:.2} of its speed alone; {threads} threads"
    );
    // They have had a minute, and have taken nothing of it.
    let log = || {
        scene
            .log()
            .matches("the client took less than 1 MiB in 60 s")
            .count()
    };
    while log() < SERVED {
        assert!(
            asked.elapsed() < Duration::from_secs(100),
            "{}",
            scene.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(
        asked.elapsed() > Duration::from_secs(55),
        "{:?}",
        asked.elapsed()
    );
    // The places are free again, although the clients are still there.
    let path = format!("{POINT}/archive?format=tar&path=/files/srv");
    let answer = scene.get(&path).token(&tokens[0]).expect(200);
    assert!(answer.body.len() > 48 << 20);
    drop(served);
}

#[test]
fn a_caller_has_two_downloads_at_a_time() {
    let Some(scene) = scene() else {
        return;
    };
    let (one, two) = (
        scene.token("one", "restore", "*"),
        scene.token("two", "restore", "*"),
    );
    let held: Vec<_> = (0..2).map(|_| ask(&scene, &one)).collect();
    assert!(
        held.iter()
            .all(|(_, head)| head.starts_with("HTTP/1.1 200"))
    );
    let path = format!("{POINT}/content?path=/files/srv/large");
    let answer = scene.get(&path).token(&one).expect(429);
    assert!(
        answer.value()["detail"]
            .as_str()
            .unwrap()
            .contains("token one has 2 downloads")
    );
    assert!(scene.get(&path).token(&two).expect(200).body == noise(8, 48 << 20));
    // What is no download is not concerned.
    let files = scene.token("files", "read", "*");
    scene
        .get(&format!("{POINT}/files?path=/"))
        .token(&files)
        .expect(200);
    drop(held);
    // A client that goes away gives its place back.
    eventually("a place", || {
        scene.get(&path).token(&one).run().status == 200
    });
}
