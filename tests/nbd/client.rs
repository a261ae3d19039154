//! Our client against qemu-nbd, nbdkit and the `nbd` crate's server.

use std::os::unix::net::UnixListener;
use std::path::Path;

use restorefs::block::{ExtentKind, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::nbd::client::{Client, list};
use restorefs::nbd::proto::Mode;
use restorefs::nbd::proto::uri::Uri;

use crate::kit::need::has;
use crate::tool::Server;

const MIB: usize = 1 << 20;

pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(length)
        .collect()
}

/// 64 MiB, of which a few stretches are data.
fn sparse_file(path: &Path) -> Vec<u8> {
    let mut all = vec![0; 64 * MIB];
    let data = pattern(3 * MIB);
    all[MIB..4 * MIB].copy_from_slice(&data);
    all[40 * MIB..43 * MIB].copy_from_slice(&data);
    std::fs::write(path, []).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(64 << 20).unwrap();
    for at in [1u64 << 20, 40 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&file, &data, at).unwrap();
    }
    all
}

pub(crate) fn read(client: &Client, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.read_at(offset, &mut bytes).unwrap();
    bytes
}

/// What all servers must do; `data_bytes` is what they say is data.
fn check(uri: &str, expected: &[u8], data_bytes: Option<u64>) {
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    assert_eq!(client.size_bytes(), expected.len() as u64);
    assert!(read(&client, 0, expected.len()) == expected, "{uri}");
    assert_eq!(
        read(&client, MIB as u64 + 13, 1000),
        &expected[MIB + 13..][..1000]
    );
    assert_eq!(client.knows_extents(), data_bytes.is_some());
    let mut past = [0; 2];
    let error = client
        .read_at(expected.len() as u64 - 1, &mut past)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // Threads at once, each its own stretch.
    std::thread::scope(|scope| {
        for n in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for step in 0..16 {
                    let at = (n * 7 + step * 3) % 63 * MIB + 512 * n;
                    assert!(read(client, at as u64, 70_000) == expected[at..at + 70_000]);
                }
            });
        }
    });
    if let Some(data_bytes) = data_bytes {
        let (mut at, mut data) = (0, 0);
        while at < client.size_bytes() {
            let extent = client.extent_at(at, client.size_bytes() - at).unwrap();
            let end = at + extent.length_bytes;
            if extent.kind.reads_zero() {
                let zeroes = &expected[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()];
                assert!(zeroes.iter().all(|byte| *byte == 0));
            } else {
                data += extent.length_bytes;
            }
            at = end;
        }
        assert_eq!(data, data_bytes, "{uri}");
    }
    client.disconnect().unwrap();
}

/// A model of writes: whatever the alignment, the export is what a vector would be.
pub(crate) fn check_writes(uri: &str) {
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    let size = usize::try_from(client.size_bytes()).unwrap();
    let mut model = read(&client, 0, size);
    let data = pattern(5 * MIB);
    for (at, length) in [
        (0, 5 * MIB),
        (1, 1),
        (511, 2),
        (513, 70_000),
        (size - 3, 3),
        (MIB - 1, 2 * MIB + 7),
    ] {
        client.write_at(at as u64, &data[..length]).unwrap();
        model[at..at + length].copy_from_slice(&data[..length]);
    }
    for (at, length) in [
        (100, 3),
        (65_536, 65_536),
        (MIB + 5, 3 * MIB),
        (size - 700, 1000),
    ] {
        client.punch(at as u64, length as u64).unwrap();
        let end = (at + length).min(size);
        model[at..end].fill(0);
    }
    client.flush().unwrap();
    assert!(read(&client, 0, size) == model, "{uri}");
    let extent = client.extent_at(2 << 20, 4096).unwrap();
    assert!(extent.length_bytes > 0);
    let error = client.write_at(size as u64, &[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    client.disconnect().unwrap();
    let again = Client::connect(&uri.parse().unwrap()).unwrap();
    assert!(read(&again, 0, size) == model, "{uri}");
}

fn check_mode(uri: &str, mode: Mode) {
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    assert_eq!(client.mode(), mode, "{uri}");
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&a| a.to_owned()).collect()
}

#[test]
fn qemu_nbd_is_read_and_written() {
    if !has("qemu-nbd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let expected = sparse_file(&path);
    let file = path.to_str().unwrap();
    let server = Server::start("qemu-nbd", |socket| {
        strings(&[
            "-k", socket, "-f", "raw", "-r", "-t", "-e", "8", "-x", "a/b c", file,
        ])
    });
    check(&server.uri("a/b%20c"), &expected, Some(6 << 20));
    check_mode(&server.uri("a/b%20c"), Mode::Extended);
    let uri: Uri = server.uri("a/b%20c").parse().unwrap();
    let names: Vec<String> = list(&uri).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["a/b c"]);
    let error = Client::connect(&server.uri("other").parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let client = Client::connect(&uri).unwrap();
    assert_eq!(
        client.write_at(0, &[0]).unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    drop((client, server));
    let server = Server::start("qemu-nbd", |socket| {
        strings(&["-k", socket, "-f", "raw", "-t", "-e", "8", file])
    });
    check_writes(&server.uri(""));
}

#[test]
fn nbdkit_is_read_and_written_with_and_without_what_it_can_do() {
    if !has("nbdkit") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let expected = sparse_file(&path);
    let file = format!("file={}", path.display());
    let start = |arguments: &[&str]| {
        let mut all = strings(arguments);
        all.extend(strings(&["file", &file]));
        Server::start("nbdkit", |socket| {
            let mut whole = strings(&["-f", "--unix", socket]);
            whole.extend(all);
            whole
        })
    };
    check(&start(&["-r"]).uri(""), &expected, Some(6 << 20));
    // It falls back: to structured replies, to simple ones, to the oldest way to choose.
    check_mode(&start(&["-r"]).uri(""), Mode::Structured);
    check_mode(&start(&["-r", "--no-sr"]).uri(""), Mode::Simple);
    check(&start(&["-r", "--no-sr"]).uri(""), &expected, None);
    check(
        &start(&["-r", "--mask-handshake=0"]).uri(""),
        &expected,
        None,
    );
    check(
        &start(&["-r", "--mask-handshake=1"]).uri(""),
        &expected,
        Some(6 << 20),
    );
    check(
        &start(&["-r", "--filter=noextents"]).uri(""),
        &expected[..],
        Some(64 << 20),
    );
    check_writes(&start(&[]).uri(""));
    check_writes(&start(&["--filter=nozero"]).uri(""));
    check_writes(&start(&["--filter=blocksize-policy"]).uri(""));
}

#[test]
fn unaligned_requests_are_made_whole_where_the_server_takes_whole_blocks() {
    if !has("nbdkit") {
        return;
    }
    let server = Server::start("nbdkit", |socket| {
        let policy = [
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=1M",
        ];
        let mut all = strings(&[
            "-f",
            "--unix",
            socket,
            "--filter=blocksize-policy",
            "memory",
            "16M",
        ]);
        all.extend(strings(&policy));
        all.push("blocksize-error-policy=error".to_owned());
        all
    });
    let client = Client::connect(&server.uri("").parse().unwrap()).unwrap();
    assert_eq!(client.block_size().minimum, 4096);
    drop(client);
    check_writes(&server.uri(""));
}

#[test]
fn a_server_that_fails_is_an_error_with_its_meaning() {
    if !has("nbdkit") {
        return;
    }
    let server = Server::start("nbdkit", |socket| {
        strings(&[
            "-f",
            "--unix",
            socket,
            "--filter=error",
            "memory",
            "16M",
            "error-pwrite=ENOSPC",
            "error-pwrite-rate=100%",
            "error-pread=EIO",
            "error-pread-rate=100%",
        ])
    });
    let client = Client::connect(&server.uri("").parse().unwrap()).unwrap();
    assert_eq!(
        client.write_at(0, &[1; 512]).unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    assert_eq!(
        client.read_at(0, &mut [1; 512]).unwrap_err().kind(),
        ErrorKind::Io
    );
    // The connection lives on.
    assert_eq!(client.extent_at(0, 4096).unwrap().kind, ExtentKind::Hole);
    client.disconnect().unwrap();
}

#[test]
fn the_crate_nbd_serves_our_client() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let content = pattern(3 * MIB);
    let copy = content.clone();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        nbd::server::handshake(&stream, |name| {
            assert_eq!(name, "x");
            Ok(nbd::Export::<()> {
                size: copy.len() as u64,
                ..nbd::Export::<()>::default()
            })
        })
        .unwrap();
        nbd::server::transmission(&stream, std::io::Cursor::new(copy)).unwrap();
    });
    let client = Client::connect(&Uri::unix(socket, "x")).unwrap();
    assert!(read(&client, 0, content.len()) == content);
    client.write_at(100, &[7; 1000]).unwrap();
    assert_eq!(read(&client, 99, 3), [content[99], 7, 7]);
    client.punch(100, 1000).unwrap();
    assert_eq!(read(&client, 99, 3), [content[99], 0, 0]);
    client.disconnect().unwrap();
    server.join().unwrap();
}

#[test]
fn nobody_and_somebody_else_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let uri = Uri::unix(&socket, "x");
    assert_eq!(
        Client::connect(&uri).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        for greeting in [
            &b"SSH-2.0-OpenSSH_9.2p1 Debian"[..],
            b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53",
            b"NBD",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut stream, greeting).unwrap();
        }
    });
    let error = Client::connect(&uri).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.to_string().contains("not an NBD server"), "{error}");
    assert_eq!(
        Client::connect(&uri).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        Client::connect(&uri).unwrap_err().kind(),
        ErrorKind::Disconnected
    );
    server.join().unwrap();
}
