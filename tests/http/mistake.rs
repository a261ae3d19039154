//! `backup --server`: each mistake has an error of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kit::certificate::Authority;
use crate::kit::need::free_port;
use crate::kit::noise::noise;
use crate::pair::{Pair, fails};

#[test]
fn each_mistake_has_an_error_of_its_own() {
    let Some(pair) = Pair::new() else {
        return;
    };
    let disk = pair.write("a.raw", &noise(33, 1 << 20));
    let token = pair.token("agent", "ingest", "web*");
    let unknown = pair.secret("unknown", &format!("rfs_{}", "A".repeat(43)));
    let said = fails(pair.backup(&unknown, &[&disk]), 1);
    assert!(
        said.contains("does not know the token") && !said.contains("rfs_"),
        "{said}"
    );
    let reader = pair.token("reader", "read", "*");
    let said = fails(pair.backup(&reader, &[&disk]), 1);
    assert!(
        said.contains("the right \"ingest\" on web01 is missing"),
        "{said}"
    );
    let other = pair.token("other", "ingest", "db*");
    let said = fails(pair.backup(&other, &[&disk]), 1);
    assert!(said.contains("there is no VM web01"), "{said}");
    let said = fails(pair.backup(&token, &[&disk, "--repo", "offsite"]), 1);
    assert!(said.contains("offsite"), "{said}");
    let said = fails(pair.backup(&pair.path("none"), &[&disk]), 1);
    assert!(said.contains("cannot read the token"), "{said}");
    let empty = pair.secret("empty", "\n");
    let said = fails(pair.backup(&empty, &[&disk]), 2);
    assert!(said.contains("one token and nothing else"), "{said}");
    // Another authority than the server's, a client's certificate of another authority, no authority.
    let stranger = Authority::new();
    let with = |tls: &std::path::Path| pair.backup_of("web01", tls, &token, &[&disk]);
    let begun = Instant::now();
    let said = fails(with(&stranger.client("agent1")), 1);
    assert!(
        said.contains("the server's certificate is not accepted") && said.contains("ca-cert.pem"),
        "{said}"
    );
    let foreign = stranger.client("agent1");
    std::fs::copy(pair.tls.join("ca-cert.pem"), foreign.join("ca-cert.pem")).unwrap();
    let said = fails(with(&foreign), 1);
    assert!(said.contains("client's certificate"), "{said}");
    let bare = tempfile::tempdir().unwrap();
    let said = fails(with(bare.path()), 1);
    assert!(said.contains("ca-cert.pem"), "{said}");
    // A certificate that the access file does not name gets no export, and its session is ended.
    let nobody = pair.authority.client("nobody");
    let said = fails(with(&nobody), 1);
    assert!(said.contains("right ingest in its access file"), "{said}");
    // The name in the address is not one of the certificate's.
    let args = [
        "backup",
        "web01",
        &disk,
        "--server",
        &pair.url().replace("localhost", "127.0.0.2"),
        "--token-file",
        &token,
        "--tls-dir",
        pair.tls.to_str().unwrap(),
    ];
    let said = fails(pair.command(&args), 1);
    assert!(
        said.contains("the server's certificate is not accepted"),
        "{said}"
    );
    // Nothing listens there.
    let args = [
        "backup",
        "web01",
        &disk,
        "--server",
        &format!("https://localhost:{}", free_port()),
        "--token-file",
        &token,
        "--tls-dir",
        pair.tls.to_str().unwrap(),
    ];
    let said = fails(pair.command(&args), 1);
    assert!(said.contains("cannot be reached"), "{said}");
    for (server, what) in [
        ("http://192.0.2.7:8420", "loopback"),
        ("http://backup01.example", "loopback"),
        ("backup01", "no scheme"),
        ("https://agent:rfs_x@backup01", "no user"),
    ] {
        let said = fails(
            pair.command(&[
                "backup",
                "web01",
                &disk,
                "--server",
                server,
                "--token-file",
                &token,
            ]),
            2,
        );
        assert!(
            said.contains(what) && !said.contains("rfs_"),
            "{server}: {said}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert!(pair.sessions().is_empty());
}

/// Something that answers each connection so.
fn impostor(answer: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            answer(&mut stream);
        }
    });
    url
}

#[test]
fn a_server_that_is_no_restorefs_is_told_from_one() {
    let machine = tempfile::tempdir().unwrap();
    std::fs::write(machine.path().join("a.raw"), noise(34, 1 << 20)).unwrap();
    let text = |text: &'static str| impostor(move |stream| drop(stream.write_all(text.as_bytes())));
    let endless = |head: &'static str, part: &'static [u8]| {
        impostor(move |stream| {
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(part).is_ok() {}
        })
    };
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    for (url, what) in [
        (text("SSH-2.0-OpenSSH_9.2\r\n"), "no restorefs"),
        (
            text("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
            "no restorefs",
        ),
        (
            text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
            "no restorefs",
        ),
        (
            text("HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>"),
            "404 Not Found",
        ),
        (
            text(
                "HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n",
            ),
            "redirects to https://evil.example/",
        ),
        (
            text(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
            ),
            "redirects to /login",
        ),
        (
            text("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
            "proxy",
        ),
        (text(""), "closed the connection"),
        (
            text("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
            "closed the connection",
        ),
        (
            endless(
                Box::leak(format!("{json}\r\n[").into_boxed_str()),
                &[b' '; 65_536],
            ),
            "more than 16777216 bytes",
        ),
        (endless(json, b"X-None: 1\r\n"), "no restorefs"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_restorefs"));
        let args = ["backup", "web01", "vda=a.raw", "--server", &url];
        command
            .args(args)
            .current_dir(machine.path())
            .env_remove("RESTOREFS_REPO");
        let begun = Instant::now();
        let said = fails(command, 1);
        assert!(said.contains(what), "{what}: {said}");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
}
