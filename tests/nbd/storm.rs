//! Many bad clients at once, on both doors of a daemon: good ones are served meanwhile, and nothing is left behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::nbd::client::Client;
use restorefs::nbd::proto::uri::Uri;
use restorefs::nbd::server::{Security, Server, ServerLimits, Service};
use restorefs::tls::ServerTls;
use tokio::sync::watch;

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::wait::eventually;
use crate::raw::{READ, Raw, WRITE};
use crate::tls::Secure;
use crate::world::World;

/// Connections of one address before TLS.
const STRANGERS: usize = 32;
/// Connections of one listener.
const PLACES: usize = 128;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    memory_kib: u64,
}

fn holdings(pid: u32) -> Holdings {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let count = |name: &str| std::fs::read_dir(proc.join(name)).unwrap().count();
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    Holdings {
        descriptors: count("fd"),
        threads: count("task"),
        memory_kib: line.split_whitespace().nth(1).unwrap().parse().unwrap(),
    }
}

fn good(uri: &str) {
    let client = Client::connect(&uri.parse::<Uri>().unwrap()).unwrap();
    client.read_at(0, &mut [0; 4096]).unwrap();
    client.disconnect().unwrap();
}

/// Connects and begins as told; the connection is kept by the caller.
fn bad(secure: &Secure, kind: usize) -> Vec<Box<dyn std::any::Any>> {
    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
    let socket = &secure.daemon.socket;
    let tcp = || TcpStream::connect(secure.address).unwrap();
    let mut say = |mut stream: TcpStream, bytes: &[u8]| {
        let _ = stream.write_all(bytes);
        kept.push(Box::new(stream));
    };
    match kind % 10 {
        // Half open: nothing is ever said.
        0 => say(tcp(), b""),
        1 => say(tcp(), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
        2 => say(tcp(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        3 => say(
            tcp(),
            b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0\x16\x03\x01\xff\xff\x01",
        ),
        4 => say(tcp(), b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\x0f\xff\xffxxxx"),
        5 => kept.push(Box::new(UnixStream::connect(socket).unwrap())),
        6 => {
            let mut raw = Raw::greeted(socket);
            raw.say(b"IHAVEOPT\0\0\0\x07\0\0\xff\0half of it");
            kept.push(Box::new(raw.0));
        }
        7 => {
            // A payload that does not come, of a session that is aborted in the end.
            let mut raw = Raw::open(socket, "web01/s/vda");
            raw.request(0, WRITE, 1, 0, 1 << 20);
            raw.say(&[1; 100]);
            kept.push(Box::new(raw.0));
        }
        8 => {
            // Replies that nobody takes.
            let mut raw = Raw::open(socket, "web01/p1/vda");
            for n in 0..32 {
                raw.request(0, READ, n, 0, 1 << 20);
            }
            kept.push(Box::new(raw.0));
        }
        _ => {
            let mut raw = Raw::extended(socket, "web01/p1/vda");
            raw.request_extended(1 << 5, READ, 1, 0, 32 << 20);
            raw.say(&[1; 5000]);
            kept.push(Box::new(raw.0));
        }
    }
    kept
}

/// Whether the server has hung up. What it said before is passed over.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buf = [0; 64];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_thousand_bad_connections_leave_nothing_behind() {
    if !can_certify() {
        return;
    }
    let secure = Secure::new();
    secure.place.ok(&["begin", "web01", "--session", "s"]);
    let (near, far) = (
        secure.daemon.uri("web01/p1/vda"),
        secure.uri("web01/p1/vda"),
    );
    // Once over everything, so that what is made once is there.
    good(&near);
    good(&far);
    let pid = secure.daemon.child.id();
    let before = holdings(pid);
    let there = Client::connect(&far.parse::<Uri>().unwrap()).unwrap();
    let here = Client::connect(&near.parse::<Uri>().unwrap()).unwrap();
    for round in 0..4 {
        let mut kept = Vec::new();
        for n in 0..60 {
            kept.extend(bad(&secure, n));
        }
        good(&near);
        good(&far);
        let during = holdings(pid);
        assert!(
            during.descriptors < before.descriptors + 2 * PLACES + 50,
            "{during:?}"
        );
        drop(kept);
        eventually(&format!("round {round} is over"), || {
            holdings(pid).descriptors <= before.descriptors + 4
        });
    }
    // All at once, and more than there are places: strangers of one address have a few, clients get in all the same, and the other door
    // does not notice.
    let crowd: Vec<TcpStream> = (0..1000)
        .filter_map(|_| TcpStream::connect(secure.address).ok())
        .collect();
    assert_eq!(crowd.len(), 1000);
    let mut refused = 0;
    eventually("those beyond the limit are turned away", || {
        refused = crowd.iter().filter(|stream| is_closed(stream)).count();
        refused >= 1000 - STRANGERS
    });
    assert!(refused <= 1000 - STRANGERS + 2, "{refused}");
    good(&near);
    good(&far);
    there.read_at(4096, &mut [0; 4096]).unwrap();
    let during = holdings(pid);
    assert!(
        during.descriptors < before.descriptors + PLACES + 60,
        "{during:?}"
    );
    let crowd_near: Vec<UnixStream> = (0..1000)
        .filter_map(|_| UnixStream::connect(&secure.daemon.socket).ok())
        .collect();
    assert!(crowd_near.len() > PLACES);
    here.read_at(4096, &mut [0; 4096]).unwrap();
    there.read_at(8192, &mut [0; 4096]).unwrap();
    drop((crowd, crowd_near));
    eventually("there is room again", || {
        Client::connect(&near.parse::<Uri>().unwrap()).is_ok()
            && Client::connect(&far.parse::<Uri>().unwrap()).is_ok()
    });
    drop((there, here));
    eventually("all descriptors are given back", || {
        holdings(pid).descriptors <= before.descriptors + 2
    });
    let after = holdings(pid);
    // Threads for blocking work rest for ten seconds before they go; they have a bound.
    assert!(after.threads <= before.threads + 64, "{before:?} {after:?}");
    assert!(
        after.memory_kib < before.memory_kib + (300 << 10),
        "{before:?} {after:?}"
    );
    secure.place.ok(&["abort", "web01/s"]);
    secure.daemon.stop();
}

#[test]
fn tls_has_to_begin_in_time_a_byte_a_moment_is_not_enough() {
    if !can_certify() {
        return;
    }
    let world = World::new();
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    let authority = Authority::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let limits = ServerLimits {
        tls_timeout: Duration::from_millis(600),
        ..ServerLimits::default()
    };
    let service = Service::new(world.catalog.clone(), limits);
    let security = Security::Tls(ServerTls::load(&authority.server()).unwrap());
    let entered = runtime.enter();
    let server = Server::bind_tcp("127.0.0.1:0".parse().unwrap(), security, &service).unwrap();
    let anywhere = "0.0.0.0:0".parse().unwrap();
    assert!(Server::bind_tcp(anywhere, Security::Loopback, &service).is_err());
    drop(entered);
    let address = server.address().unwrap();
    let (stop, stopped) = watch::channel(false);
    let served = runtime.spawn(server.run(stopped));
    let mut slow = b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0".to_vec();
    // Into the handshake of TLS: a record of 512 bytes, of which few come.
    slow.extend(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
    for quick in [0, 4, 20, slow.len() - 1] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let begun = Instant::now();
        stream.write_all(&slow[..quick]).unwrap();
        for byte in &slow[quick..] {
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(6), "{quick}: {took:?}");
    }
    let directory = authority.client("anybody");
    let uri = format!(
        "nbds://localhost:{}/plain?tls-certificates={}",
        address.port(),
        directory.display()
    );
    good(&uri);
    stop.send(true).unwrap();
    runtime.block_on(served).unwrap();
}

/// Sets the flag when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Strangers who hold connections and say nothing, opened anew as fast as they are closed: a client with a certificate gets in each time.
#[test]
fn silent_strangers_keep_no_client_out() {
    if !can_certify() {
        return;
    }
    let world = World::new();
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    let authority = Authority::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let limits = ServerLimits {
        connections: 4,
        strangers: 40,
        strangers_of_one: 30,
        ..ServerLimits::default()
    };
    let service = Service::new(world.catalog.clone(), limits);
    let security = Security::Tls(ServerTls::load(&authority.server()).unwrap());
    let entered = runtime.enter();
    let server = Server::bind_tcp("127.0.0.1:0".parse().unwrap(), security, &service).unwrap();
    drop(entered);
    let address = server.address().unwrap();
    let (stop, stopped) = watch::channel(false);
    let served = runtime.spawn(server.run(stopped));
    let directory = authority.client("anybody");
    let uri = format!(
        "nbds://localhost:{}/plain?tls-certificates={}",
        address.port(),
        directory.display()
    );
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when the test fails in between.
        let _end = Over(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut held = std::collections::VecDeque::new();
                while !over.load(Ordering::Relaxed) {
                    held.extend(TcpStream::connect(address));
                    if held.len() > 200 {
                        held.pop_front();
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(600));
        for _ in 0..30 {
            good(&uri);
        }
    });
    // Those with certificates have a bound of their own.
    let uri: Uri = uri.parse().unwrap();
    let inside: Vec<Client> = (0..4).map(|_| Client::connect(&uri).unwrap()).collect();
    assert!(Client::connect(&uri).is_err());
    drop(inside);
    eventually("a place is free", || Client::connect(&uri).is_ok());
    stop.send(true).unwrap();
    runtime.block_on(served).unwrap();
}

#[test]
fn a_connection_that_is_lost_is_followed_by_one_that_goes_on() {
    let world = World::new();
    let (_, disk) = world.begin("s1", 8 << 20);
    let uri: Uri = world.uri("web01/s1/vda").parse().unwrap();
    let client = Client::connect(&uri).unwrap();
    client.write_at(0, &[1; 65_536]).unwrap();
    client.flush().unwrap();
    drop(client);
    eventually("it is gone", || disk.writers() == 0);
    assert!(!disk.is_finished());
    let client = Client::connect(&uri).unwrap();
    let mut read = [0; 512];
    client.read_at(0, &mut read).unwrap();
    assert_eq!(read, [1; 512]);
    client.write_at(65_536, &[2; 65_536]).unwrap();
    client.disconnect().unwrap();
    assert!(disk.is_finished());
    world.commit("s1");
    let client = Client::connect(&world.uri("web01/latest/vda").parse().unwrap()).unwrap();
    let mut read = vec![0; 131_072];
    client.read_at(0, &mut read).unwrap();
    assert!(read == [[1; 65_536], [2; 65_536]].concat());
}
