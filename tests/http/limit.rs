//! Clients that ask for too much: long heads and bodies, many connections, nonsense. Others are served meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::noise::noise;
use crate::kit::wait::eventually;
use crate::scene::{Scene, VMS};
use crate::wire::{connect, exchange, rest, status};

/// Clients that may follow the events at the same time.
const FOLLOWERS_MAX: usize = 64;
/// Connections that ask nothing.
const IDLE: usize = 1_000;
/// LIMIT: KiB by which the daemon may grow for a body that it refuses.
const GROWTH_KIB_MAX: u64 = 64 << 10;

/// That somebody else is served, and soon.
fn is_served(scene: &Scene, token: &str) {
    let begun = Instant::now();
    scene.get("/api/v1/status").token(token).expect(200);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_head_that_does_not_come_or_does_not_end_is_ended() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let mut slow = connect(scene.port());
    let begun = Instant::now();
    slow.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    slow.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n")
        .unwrap();
    let mut got = [0; 4096];
    loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not ended");
        // A byte now and then does not help.
        if slow.write_all(b"x").is_err() {
            break;
        }
        match slow.read(&mut got) {
            Ok(0) => break,
            Ok(length) => assert_eq!(status(&String::from_utf8_lossy(&got[..length])), 408),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    assert!(begun.elapsed() > Duration::from_secs(10));
    let long = format!(
        "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let got = status(&exchange(scene.port(), long.as_bytes()));
    assert!(got == 431 || got == 400 || got == 0, "{got}");
    let address = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let got = status(&exchange(scene.port(), address.as_bytes()));
    assert!(got == 414 || got == 431 || got == 0, "{got}");
    is_served(&scene, &token);
}

#[test]
fn a_body_of_a_gibibyte_is_refused_before_it_is_read() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let session = format!("{VMS}/web01/sessions/s");
    let before = scene.figure("VmRSS");
    let head = |path: &str, more: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n{more}\r\n"
        )
    };
    // By its length: not a byte of it was sent.
    let mut stream = connect(scene.port());
    stream
        .write_all(head(&session, "Content-Length: 1073741824\r\n").as_bytes())
        .unwrap();
    let mut got = [0; 4096];
    let length = stream.read(&mut got).unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&got[..length])), 413);
    drop(stream);
    scene
        .ask("PUT", &session)
        .token(&token)
        .json(&json!({}))
        .expect(201);
    // Without a length, to both kinds of bodies.
    for (path, least) in [
        (session.clone(), 1 << 20),
        (format!("{session}/attached/a"), 16 << 20),
    ] {
        let mut stream = connect(scene.port());
        stream
            .write_all(head(&path, "Transfer-Encoding: chunked\r\n").as_bytes())
            .unwrap();
        let piece = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
        let mut sent = 0_u64;
        while sent < 1 << 30 && stream.write_all(&piece).is_ok() {
            sent += 0x10000;
        }
        assert!(sent < 1 << 30, "all of it was taken");
        assert!(sent >= least, "{path}: {sent}");
    }
    let grown = scene.figure("VmRSS").saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB");
    scene.ask("DELETE", &session).token(&token).expect(204);
    // A body where none is expected is not waited for.
    let get = head("/api/v1/status", "Content-Length: 1073741824\r\n").replace("PUT", "GET");
    let mut stream = connect(scene.port());
    stream.write_all(get.as_bytes()).unwrap();
    let length = stream.read(&mut got).unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&got[..length])), 200);
    is_served(&scene, &token);
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let mut idle = Vec::new();
    for n in 0..IDLE {
        idle.push(connect(scene.port()));
        if n % 100 == 99 {
            is_served(&scene, &token);
        }
    }
    for _ in 0..5 {
        is_served(&scene, &token);
    }
    let threads = scene.figure("Threads");
    assert!(threads < 100, "{threads}");
    // Those that are there long are ended without being asked.
    let begun = Instant::now();
    for stream in idle.into_iter().take(20) {
        assert!(rest(stream).is_some());
    }
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    is_served(&scene, &token);
}

/// A PING of HTTP/2 (RFC 9113, 6.7).
const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// The preface of HTTP/2 with empty settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The time until the daemon ends a connection on which `beat` is sent each half second.
fn time_to_end(mut stream: TcpStream, beat: &[u8]) -> Duration {
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let begun = Instant::now();
    let mut got = [0; 4096];
    loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not ended");
        if stream.write_all(beat).is_err() {
            return begun.elapsed();
        }
        match stream.read(&mut got) {
            Ok(0) => return begun.elapsed(),
            Ok(_) => std::thread::sleep(Duration::from_millis(500)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return begun.elapsed(),
        }
    }
}

#[test]
fn a_connection_without_a_request_is_ended_whatever_it_sends() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let mut pinging = connect(scene.port());
    pinging.write_all(PREFACE).unwrap();
    let mut kept = connect(scene.port());
    let request = format!(
        "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    kept.write_all(request.as_bytes()).unwrap();
    let mut got = [0; 64];
    kept.read_exact(&mut got).unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&got)), 200);
    let pinging = std::thread::spawn(|| time_to_end(pinging, &PING));
    let kept = time_to_end(kept, b"");
    let pinging = pinging.join().unwrap();
    for (what, took) in [("HTTP/2", pinging), ("HTTP/1.1", kept)] {
        assert!(took > Duration::from_secs(10), "{what}: {took:?}");
    }
    is_served(&scene, &token);
}

#[test]
fn a_follower_of_events_beyond_the_limit_is_refused() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let follow = || {
        let mut stream = connect(scene.port());
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut got = [0; 16];
        stream.read_exact(&mut got).unwrap();
        (stream, status(&String::from_utf8_lossy(&got)))
    };
    let mut followers: Vec<_> = (0..FOLLOWERS_MAX).map(|_| follow()).collect();
    assert!(followers.iter().all(|(_, status)| *status == 200));
    assert_eq!(follow().1, 429);
    is_served(&scene, &token);
    // Who goes away makes room.
    followers.pop();
    eventually("a place is free", || follow().1 == 200);
}

#[test]
fn requests_in_one_go_are_answered_in_order() {
    let Some(scene) = Scene::of_disks().map(Scene::started) else {
        return;
    };
    let token = scene.all();
    let mut all = String::new();
    for n in 0..50 {
        let end = if n == 49 { "Connection: close\r\n" } else { "" };
        all += &format!(
            "GET {VMS}/none{n:02} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{end}\r\n"
        );
    }
    let answer = exchange(scene.port(), all.as_bytes());
    let mut at = 0;
    for n in 0..50 {
        let found = answer[at..]
            .find(&format!("none{n:02}"))
            .unwrap_or_else(|| panic!("{n}: {answer}"));
        at += found;
    }
    assert_eq!(answer.matches("HTTP/1.1 404").count(), 50);
}

#[test]
fn nonsense_is_refused_and_harms_nobody() {
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    scene.start(&[]);
    let token = scene.all();
    for n in 0..40_u64 {
        let begin: &[u8] = match n % 4 {
            0 => b"GET / HTTP/1.1\r\n",
            1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            2 => b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            _ => b"\r\n",
        };
        let bytes = [begin, &noise(n + 1, 3_000)].concat();
        let mut stream = connect(scene.port());
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = rest(stream).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let got = status(&answer);
        assert!(got == 0 || (400..500).contains(&got), "{n}: {answer}");
    }
    // What two servers could read in two ways is read in none.
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        let request = format!(
            "POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{lines}\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        let answer = exchange(scene.port(), request.as_bytes());
        let got = status(&answer);
        assert!(got == 400 || got == 501 || got == 0, "{lines}: {answer}");
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{lines}: {answer}");
    }
    is_served(&scene, &token);
    assert!(!scene.log().contains("panicked"), "{}", scene.log());
    assert!(scene.stop().success());
}

#[test]
fn nonsense_instead_of_tls_harms_nobody() {
    if !can_certify() {
        return;
    }
    let Some(mut scene) = Scene::of_disks() else {
        return;
    };
    let authority = Authority::new();
    let server = authority.server();
    scene.start(&["--tls-certificates", server.to_str().unwrap()]);
    let token = scene.all();
    let mut idle = Vec::new();
    for n in 0..40_u64 {
        let mut bytes = noise(n + 1, 3_000);
        if n % 2 == 0 {
            // A record of a handshake.
            bytes.splice(0..0, [0x16, 3, 1, 0x0b, 0xb8]);
        }
        let mut stream = connect(scene.port());
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = rest(stream).unwrap();
        assert!(!answer.starts_with(b"HTTP"));
        // One that says nothing.
        idle.push(connect(scene.port()));
    }
    let begun = Instant::now();
    scene
        .get("/api/v1/status")
        .tls(&server)
        .token(&token)
        .expect(200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    for stream in idle {
        assert!(
            rest(stream).is_some(),
            "a client that does not begin TLS is kept"
        );
    }
    assert!(!scene.log().contains("panicked"), "{}", scene.log());
    assert!(scene.stop().success());
}
