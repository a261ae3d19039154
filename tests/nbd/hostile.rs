//! Servers that lie: our client answers with an error, soon, and believes nothing.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use restorefs::block::ReadAt;
use restorefs::error::{Error, ErrorKind};
use restorefs::nbd::client::{Client, list};
use restorefs::nbd::proto::uri::Uri;

/// Plays a server for one connection: after the handshake `after` says what it likes.
fn with_server<T>(
    after: impl FnOnce(&mut UnixStream) + Send + 'static,
    client: impl FnOnce(&Uri) -> T,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        after(&mut stream);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Whatever the client still says is heard, so that what we said is not lost.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let result = client(&Uri::unix(&socket, "x"));
    server.join().unwrap();
    result
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

fn greet(stream: &mut UnixStream) {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
}

fn take_option(stream: &mut UnixStream) -> u32 {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes(header[12..].try_into().unwrap());
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).unwrap();
    u32::from_be_bytes(header[8..12].try_into().unwrap())
}

/// An export of 1 MiB with structured replies and `base:allocation` as number 9.
fn handshake(stream: &mut UnixStream) {
    greet(stream);
    assert_eq!(take_option(stream), 11);
    stream.write_all(&reply(11, 0x8000_0001, &[])).unwrap();
    assert_eq!(take_option(stream), 8);
    open(stream, 8);
}

/// The same with extended headers.
fn extended_handshake(stream: &mut UnixStream) {
    greet(stream);
    assert_eq!(take_option(stream), 11);
    open(stream, 11);
}

fn open(stream: &mut UnixStream, option: u32) {
    stream.write_all(&reply(option, 1, &[])).unwrap();
    assert_eq!(take_option(stream), 10);
    stream
        .write_all(&reply(10, 4, b"\0\0\0\x09base:allocation"))
        .unwrap();
    stream.write_all(&reply(10, 1, &[])).unwrap();
    assert_eq!(take_option(stream), 7);
    let mut fact = vec![0, 0];
    fact.extend((1u64 << 20).to_be_bytes());
    fact.extend([0, 1]);
    stream.write_all(&reply(7, 3, &fact)).unwrap();
    stream.write_all(&reply(7, 1, &[])).unwrap();
}

fn take_request(stream: &mut UnixStream) -> u64 {
    let mut header = [0; 28];
    stream.read_exact(&mut header).unwrap();
    u64::from_be_bytes(header[8..16].try_into().unwrap())
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

/// What a read of 512 bytes at 0 says when the server answers with `lie`.
fn read_with(lie: impl FnOnce(u64) -> Vec<u8> + Send + 'static) -> Error {
    with_server(
        |stream| {
            handshake(stream);
            let cookie = take_request(stream);
            let _ = stream.write_all(&lie(cookie));
        },
        |uri| {
            let client = Client::connect(uri).unwrap();
            client.read_at(0, &mut [1; 512]).unwrap_err()
        },
    )
}

#[test]
fn replies_that_lie_end_the_connection() {
    type Lie = Box<dyn FnOnce(u64) -> Vec<u8> + Send>;
    let at = |offset: u64, length: usize| [&offset.to_be_bytes()[..], &vec![1; length]].concat();
    let hole =
        |offset: u64, length: u32| [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
    let lies: Vec<(&str, Lie)> = vec![
        ("nothing", Box::new(|_| Vec::new())),
        ("a strange magic number", Box::new(|_| vec![0x55; 16])),
        (
            "another cookie",
            Box::new(move |c| chunk(1, 1, c + 1, &at(0, 512))),
        ),
        (
            "too many bytes",
            Box::new(move |c| chunk(1, 1, c, &at(0, 513))),
        ),
        (
            "too few bytes",
            Box::new(move |c| chunk(1, 1, c, &at(0, 511))),
        ),
        (
            "bytes of elsewhere",
            Box::new(move |c| chunk(1, 1, c, &at(512, 512))),
        ),
        (
            "an offset that overflows",
            Box::new(move |c| chunk(1, 1, c, &at(u64::MAX, 512))),
        ),
        (
            "bytes twice",
            Box::new(move |c| {
                [chunk(0, 1, c, &at(0, 512)), chunk(1, 2, c, &hole(0, 512))].concat()
            }),
        ),
        (
            "a hole too long",
            Box::new(move |c| chunk(1, 2, c, &hole(0, u32::MAX))),
        ),
        ("a hole cut off", Box::new(|c| chunk(1, 2, c, &[0; 11]))),
        (
            "a length without bytes",
            Box::new(|c| {
                let mut header = chunk(1, 1, c, &[]);
                header[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
                header
            }),
        ),
        (
            "an error chunk of 4 GiB",
            Box::new(|c| {
                let mut header = chunk(1, 0x8001, c, &[]);
                header[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
                header
            }),
        ),
        (
            "extents",
            Box::new(|c| chunk(1, 5, c, &[0, 0, 0, 9, 0, 0, 2, 0, 0, 0, 0, 0])),
        ),
        ("a type of the future", Box::new(|c| chunk(1, 99, c, &[]))),
        ("success without bytes", Box::new(|c| chunk(1, 0, c, &[]))),
        ("no end", Box::new(|c| chunk(0, 0, c, &[]))),
        (
            "a simple reply",
            Box::new(|c| {
                [
                    &0x6744_6698_u32.to_be_bytes()[..],
                    &[0; 4],
                    &c.to_be_bytes(),
                    &[1; 512],
                ]
                .concat()
            }),
        ),
    ];
    for (what, lie) in lies {
        let error = read_with(lie);
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{what}: {error}");
    }
    let error = read_with(|c| chunk(1, 0x8001, c, b"\0\0\0\x05\0\x06broken"));
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("broken"), "{error}");
}

fn extended(flags: u16, kind: u16, (cookie, offset): (u64, u64), payload: &[u8]) -> Vec<u8> {
    let mut out = 0x6e8a_278c_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend((payload.len() as u64).to_be_bytes());
    out.extend(payload);
    out
}

#[test]
fn extended_replies_that_lie_end_the_connection() {
    type Lie = Box<dyn FnOnce(u64) -> Vec<u8> + Send>;
    let data = |length: usize| [&4096u64.to_be_bytes()[..], &vec![1; length]].concat();
    let read = |lie: Lie| {
        with_server(
            |stream| {
                extended_handshake(stream);
                let mut header = [0; 32];
                stream.read_exact(&mut header).unwrap();
                assert_eq!(header[..8], [0x21, 0xe4, 0x1c, 0x71, 0, 0, 0, 0]);
                assert_eq!(header[24..], 512u64.to_be_bytes());
                let cookie = u64::from_be_bytes(header[8..16].try_into().unwrap());
                let _ = stream.write_all(&lie(cookie));
            },
            |uri| Client::connect(uri).unwrap().read_at(4096, &mut [9; 512]),
        )
    };
    read(Box::new(move |c| extended(1, 1, (c, 4096), &data(512)))).unwrap();
    let lies: Vec<(&str, Lie)> = vec![
        (
            "another request's offset",
            Box::new(move |c| extended(1, 1, (c, 512), &data(512))),
        ),
        (
            "a structured chunk",
            Box::new(move |c| chunk(1, 1, c, &[data(512), vec![0; 12]].concat())),
        ),
        (
            "a simple reply",
            Box::new(|c| {
                [
                    &0x6744_6698_u32.to_be_bytes()[..],
                    &[0; 4],
                    &c.to_be_bytes(),
                    &[1; 512],
                ]
                .concat()
            }),
        ),
        (
            "a length without end",
            Box::new(|c| {
                let mut header = extended(1, 1, (c, 4096), &[]);
                header[24..].copy_from_slice(&u64::MAX.to_be_bytes());
                header
            }),
        ),
        (
            "an error without end",
            Box::new(|c| {
                let mut header = extended(1, 0x8001, (c, 4096), &[]);
                header[24..].copy_from_slice(&(1u64 << 32).to_be_bytes());
                header
            }),
        ),
        (
            "too many bytes",
            Box::new(move |c| extended(1, 1, (c, 4096), &data(513))),
        ),
    ];
    for (what, lie) in lies {
        let error = read(lie).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{what}: {error}");
    }
}

#[test]
fn extents_that_lie_are_not_believed() {
    let extents = |payload: Vec<u8>| {
        with_server(
            move |stream| {
                handshake(stream);
                let cookie = take_request(stream);
                let _ = stream.write_all(&chunk(1, 5, cookie, &payload));
            },
            |uri| Client::connect(uri).unwrap().extent_at(4096, 8192),
        )
    };
    let say = |id: u32, all: &[(u32, u32)]| {
        let mut out = id.to_be_bytes().to_vec();
        for (length, flags) in all {
            out.extend(length.to_be_bytes());
            out.extend(flags.to_be_bytes());
        }
        out
    };
    for lie in [
        say(8, &[(8192, 3)]),
        say(9, &[]),
        say(9, &[(0, 3)]),
        say(9, &[(512, 0)])[..9].to_vec(),
    ] {
        let error = extents(lie).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    }
    // Far beyond what was asked for: cut to it.
    let extent = extents(say(9, &[(u32::MAX, 3), (u32::MAX, 0)])).unwrap();
    assert_eq!(extent.length_bytes, 8192);
}

#[test]
fn tls_that_lies_is_an_error() {
    use std::net::TcpListener;
    if !crate::kit::certificate::can_certify() {
        return;
    }
    let authority = crate::kit::certificate::Authority::new();
    let directory = authority.client("a");
    let garbage: [&[u8]; 5] = [
        b"",
        b"\x16\x03\x03\0\x02\x02",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"\x16\x03\x03\xff\xff\xff",
        &[0x55; 8192],
    ];
    for after in garbage {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
            stream.read_exact(&mut [0; 4 + 16]).unwrap();
            stream.write_all(&reply(5, 1, &[])).unwrap();
            let _ = stream.write_all(after);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let uri = format!(
            "nbds://127.0.0.1:{port}/x?tls-certificates={}",
            directory.display()
        );
        let error = Client::connect(&uri.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
        server.join().unwrap();
    }
}

#[test]
fn handshakes_that_lie_are_errors() {
    let connect = |after: Vec<u8>| {
        with_server(
            move |stream| {
                greet(stream);
                assert_eq!(take_option(stream), 11);
                let _ = stream.write_all(&after);
            },
            |uri| Client::connect(uri).unwrap_err(),
        )
    };
    let mut long = reply(11, 1, &[]);
    long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    for lie in [Vec::new(), vec![0; 20], reply(7, 1, &[]), long] {
        let error = connect(lie);
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    }
    let error = with_server(
        |stream| {
            greet(stream);
            assert_eq!(take_option(stream), 3);
            let _ = stream.write_all(&reply(3, 2, b"\0\0\0\xffx"));
        },
        |uri| list(uri).unwrap_err(),
    );
    assert_eq!(error.kind(), ErrorKind::Disconnected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_an_error(
        greeting: bool,
        option: bool,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        with_server(
            move |stream| {
                if greeting {
                    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
                    if option {
                        let _ = stream.write_all(&reply(11, 1, &[]));
                    }
                }
                let _ = stream.write_all(&bytes);
            },
            |uri| assert!(Client::connect(uri).is_err()),
        );
    }

    #[test]
    fn any_bytes_after_the_handshake_are_an_error(
        chunks in prop::collection::vec((any::<bool>(), 0u16..7, prop::collection::vec(any::<u8>(), 0..64)), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        // 600 bytes cannot be had from so few.
        let error = with_server(
            move |stream| {
                handshake(stream);
                let cookie = take_request(stream);
                let mut bytes = Vec::new();
                for (done, kind, payload) in &chunks {
                    bytes.extend(chunk(u16::from(*done), *kind, cookie, payload));
                }
                bytes.extend(&garbage);
                let _ = stream.write_all(&bytes);
            },
            |uri| Client::connect(uri).unwrap().read_at(0, &mut [0; 600]).unwrap_err(),
        );
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    }
}
