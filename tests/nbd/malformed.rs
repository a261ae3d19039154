//! Clients that break the protocol, or die: their connection ends, or they get an error; everybody else is served on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::error::Result;
use restorefs::nbd::client::Client;
use restorefs::nbd::server::ServerLimits;

use crate::kit::wait::eventually;
use crate::raw::{CACHE, DISC, FLUSH, READ, Raw, STATUS, TRIM, WRITE, ZEROES};
use crate::world::World;

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;
const SIZE: u64 = 8 << 20;
const UNSUP: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const TOO_BIG: u32 = 0x8000_0009;

/// Somebody else is served as if nothing had happened.
fn check_alive(world: &World) {
    let client = Client::connect(&world.uri("plain").parse().unwrap()).unwrap();
    let mut bytes = [1; 512];
    client.read_at(512, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 512]);
    client.disconnect().unwrap();
}

fn world() -> World {
    let world = World::new();
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    world
}

#[test]
fn greetings_and_options_that_make_no_sense() {
    let world = world();
    let socket = world.socket();
    for flags in [0u32, 2, 4, 7, u32::MAX] {
        let mut raw = Raw::connect(&socket);
        raw.take::<18>();
        raw.say(&flags.to_be_bytes());
        assert!(raw.is_refused(), "{flags}");
    }
    let mut raw = Raw::greeted(&socket);
    raw.say(b"IHAVEOPX\0\0\0\x03\0\0\0\0");
    assert!(raw.is_refused());
    // Longer than anybody passes over.
    let mut raw = Raw::greeted(&socket);
    raw.say(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    assert!(raw.is_refused());
    // An export that is not there, the old way.
    let mut raw = Raw::greeted(&socket);
    raw.option(1, b"nothing");
    assert!(raw.is_refused());
    let mut raw = Raw::greeted(&socket);
    raw.option(0x7777, b"what?");
    assert_eq!(raw.answer(0x7777).0, UNSUP);
    raw.option(5, &[]);
    assert_eq!(raw.answer(5).0, UNSUP);
    raw.option(7, &vec![0; 100_000]);
    assert_eq!(raw.answer(7).0, TOO_BIG);
    raw.option(3, b"data");
    assert_eq!(raw.answer(3).0, INVALID);
    raw.option(8, b"data");
    assert_eq!(raw.answer(8).0, INVALID);
    for data in [
        &b""[..],
        b"\xff\xff\xff\xff",
        b"\0\0\0\x05plain",
        b"\0\0\0\x05plain\0\x02\0\x03",
        b"\0\0\0\x02\xff\xff\0\0",
    ] {
        raw.option(7, data);
        assert_eq!(raw.answer(7).0, INVALID, "{data:?}");
    }
    raw.option(10, b"\0\0\0\x05plain\0\0\0\x01\0\0\0\x0fbase:allocation");
    assert_eq!(raw.answer(10).0, INVALID, "structured replies come first");
    raw.option(8, &[]);
    assert_eq!(raw.answer(8).0, 1);
    raw.option(10, b"\0\0\0\x05plain\xff\xff\xff\xff\0\0\0\x01x");
    assert_eq!(raw.answer(10).0, INVALID);
    raw.option(9, b"\0\0\0\x05plain\0\0\0\0");
    assert_eq!(raw.answer(9), (4, b"\0\0\0\0base:allocation".to_vec()));
    assert_eq!(raw.answer(9).0, 1);
    for name in ["nothing", "a/b/c", "../../etc", ""] {
        let data = [
            &(name.len() as u32).to_be_bytes()[..],
            name.as_bytes(),
            &[0, 0],
        ]
        .concat();
        raw.option(7, &data);
        assert_eq!(raw.answer(7).0, UNKNOWN, "{name}");
    }
    raw.option(2, &[]);
    assert_eq!(raw.answer(2).0, 1);
    assert!(raw.is_refused());
    check_alive(&world);
}

#[test]
fn a_handshake_without_end_is_ended() {
    use std::io::Write;
    let world = world();
    let mut raw = Raw::greeted(&world.socket());
    let mut all = Vec::new();
    for _ in 0..4097 {
        all.extend(b"IHAVEOPT\0\0\x77\x77\0\0\0\0");
    }
    let mut sending = raw.0.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let _ = sending.write_all(&all);
    });
    for _ in 0..4096 {
        assert_eq!(raw.answer(0x7777).0, UNSUP);
    }
    assert!(raw.is_refused());
    sender.join().unwrap();
    check_alive(&world);
}

#[test]
fn clients_that_die_at_each_byte_of_the_handshake() {
    let world = world();
    let mut all = 3u32.to_be_bytes().to_vec();
    all.extend(b"IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x07\0\0\0\x0b\0\0\0\x05plain\0\0");
    for length in 0..all.len() {
        let mut raw = Raw::connect(&world.socket());
        raw.say(&all[..length]);
        assert!(raw.is_hung_up(), "{length}");
    }
    check_alive(&world);
}

#[test]
fn requests_that_make_no_sense() {
    let world = world();
    let (_, disk) = world.begin("s1", SIZE);
    let mut raw = Raw::open(&world.socket(), "web01/s1/vda");
    for (flags, command, offset, length, error) in [
        (0, READ, SIZE, 512, EINVAL),
        (0, READ, SIZE - 512, 1024, EINVAL),
        (0, READ, u64::MAX - 511, 512, EINVAL),
        (0, READ, 0, 0, EINVAL),
        (0, READ, 0, u32::MAX, EINVAL),
        (0, READ, 1, 512, EINVAL),
        (0, READ, 0, 511, EINVAL),
        (2, READ, 0, 512, EINVAL),
        (0, TRIM, SIZE, 512, EINVAL),
        (0, TRIM, 3, 512, EINVAL),
        (0, ZEROES, SIZE, 512, ENOSPC),
        (0, ZEROES, 0, 513, EINVAL),
        (0x8000, ZEROES, 0, 512, EINVAL),
        (0, CACHE, SIZE, 512, EINVAL),
        (0, STATUS, SIZE, 512, EINVAL),
        (0, STATUS, 0, 0, EINVAL),
        (0, FLUSH, 512, 0, EINVAL),
        (0, 8, 0, 512, EINVAL),
        (0, 0xffff, 0, 512, EINVAL),
    ] {
        let said = raw.ask(flags, command, offset, length);
        assert_eq!(
            (said.cookie, said.error),
            (77, error),
            "{flags} {command} {offset} {length}"
        );
    }
    for (flags, offset, length, error) in [
        (0, SIZE, 512, ENOSPC),
        (0, 5, 512, EINVAL),
        (4, 0, 512, EINVAL),
        (0, 0, (32 << 20) + 512, EINVAL),
    ] {
        raw.request(flags, WRITE, 5, offset, length);
        raw.say(&vec![1; length as usize]);
        assert_eq!(raw.reply().error, error, "{flags} {offset} {length}");
    }
    // None of that wrote anything, and the connection is in step.
    assert_eq!(raw.ask(0, READ, 0, 4096).data, [0; 4096]);
    raw.request(0, WRITE, 6, 4096, 512);
    raw.say(&[3; 512]);
    assert_eq!(raw.reply().error, 0);
    assert_eq!(raw.ask(4, READ, 4096, 512).data, [3; 512], "don't fragment");
    assert_eq!(raw.ask(1, ZEROES, 4096, 512).error, 0, "FUA");
    assert_eq!(raw.ask(0, CACHE, 0, 1 << 20).error, 0);
    raw.request(0, DISC, 0, 0, 0);
    assert!(raw.is_refused());
    eventually("a goodbye", || disk.is_finished());
    let mut raw = Raw::open(&world.socket(), "plain");
    for command in [TRIM, ZEROES] {
        assert_eq!(raw.ask(0, command, 0, 512).error, EPERM);
    }
    raw.request(0, WRITE, 6, 0, 512);
    raw.say(&[3; 512]);
    assert_eq!(raw.reply().error, EPERM);
    assert_eq!(raw.ask(0, FLUSH, 0, 0).error, 0);
    check_alive(&world);
}

#[test]
fn extents_are_paged_and_zeroing_is_fast_only_where_all_is_zero() {
    let world = world();
    world.begin("s1", SIZE);
    let mut raw = Raw::open(&world.socket(), "web01/s1/vda");
    assert_eq!(raw.ask(0x10, ZEROES, 0, 1 << 20).error, 0);
    raw.request(0, WRITE, 6, 65_536, 65_536);
    raw.say(&[3; 65_536]);
    assert_eq!(raw.reply().error, 0);
    assert_eq!(raw.ask(0x10, ZEROES, 0, 1 << 20).error, ENOTSUP);
    assert_eq!(raw.ask(2, ZEROES, 1 << 20, 65_536).error, 0, "no hole");
    let extents = |length: u32, flags: u32| [length.to_be_bytes(), flags.to_be_bytes()].concat();
    assert_eq!(raw.ask(8, STATUS, 0, 1 << 20).data, extents(65_536, 3));
    assert_eq!(raw.ask(8, STATUS, 512, 1024).data, extents(1024, 3));
    let all = [extents(65_536, 3), extents(65_536, 0), extents(131_072, 3)].concat();
    assert_eq!(raw.ask(0, STATUS, 0, 262_144).data, all);
    let said = raw.ask(0, READ, 0, 262_144).data;
    assert!(said == [vec![0; 65_536], vec![3; 65_536], vec![0; 131_072]].concat());
}

#[test]
fn a_request_out_of_step_and_a_payload_without_end_close_the_connection() {
    let world = world();
    let (_, disk) = world.begin("s1", SIZE);
    let open = || Raw::open(&world.socket(), "web01/s1/vda");
    let mut raw = open();
    raw.say(&[0x55; 28]);
    assert!(raw.is_refused());
    let mut raw = open();
    raw.request(0, WRITE, 1, 0, u32::MAX);
    assert!(raw.is_refused());
    // None of them wrote: the disk has not been touched.
    assert_eq!(disk.writers(), 0);
    for length in [0, 1, 4096, 65_535] {
        let mut raw = open();
        raw.request(0, WRITE, 1, 0, 65_536);
        raw.say(&vec![9; length]);
        assert!(raw.is_hung_up());
        eventually("the connection has ended", || disk.writers() == 0);
        assert!(!disk.is_finished());
    }
    let mut raw = open();
    assert_eq!(
        raw.ask(0, READ, 0, 65_536).data,
        [0; 65_536],
        "half a payload was written"
    );
    // A header cut off is no goodbye.
    assert_eq!(raw.ask(0, FLUSH, 0, 0).error, 0);
    raw.say(&[0x25, 0x60, 0x95]);
    assert!(raw.is_hung_up());
    eventually("the connection has ended", || disk.writers() == 0);
    assert!(!disk.is_finished());
    check_alive(&world);
}

/// A disk that counts what is read.
struct Counted(AtomicU64);

impl ReadAt for Counted {
    fn size_bytes(&self) -> u64 {
        1 << 40
    }
    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.fetch_add(buf.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn clients_that_take_no_replies_hold_no_more_than_the_limit() {
    let limits = ServerLimits {
        bytes: 64 << 20,
        ..ServerLimits::default()
    };
    let world = World::with(limits);
    let disk = Arc::new(Counted(AtomicU64::new(0)));
    world.add("big", disk.clone());
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    let mut clients: Vec<Raw> = (0..64).map(|_| Raw::open(&world.socket(), "big")).collect();
    for client in &mut clients {
        for n in 0..16 {
            client.request(0, READ, n, n << 20, 1 << 20);
        }
    }
    // What the sockets hold has been sent; all else waits within the limit.
    let mut last = u64::MAX;
    eventually("it has come to rest", || {
        let now = disk.0.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut last, now) == now
    });
    let (own, sockets) = (64 << 20, 64 << 20);
    assert!(last <= (64 << 20) + own + sockets, "{last}");
    assert!(last >= 32 << 20, "{last}");
    // When they die, others are served; when they read, they get everything.
    clients.truncate(8);
    check_alive(&world);
    for client in &mut clients {
        let mut cookies: Vec<u64> = (0..16)
            .map(|_| {
                let said = client.reply();
                assert_eq!((said.error, said.data.len()), (0, 1 << 20));
                said.cookie
            })
            .collect();
        cookies.sort_unstable();
        assert!(cookies.into_iter().eq(0..16));
    }
}

#[test]
fn too_many_connections_are_turned_away_and_slow_handshakes_end() {
    let limits = ServerLimits {
        connections: 2,
        handshake_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    let world = World::with(limits);
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    let _first = Raw::open(&world.socket(), "plain");
    let mut second = Raw::greeted(&world.socket());
    let mut third = Raw::connect(&world.socket());
    assert!(third.is_refused());
    assert!(second.is_refused(), "it sleeps in its handshake");
    check_alive(&world);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_end_a_connection_at_most(
        options in prop::collection::vec((0u32..12, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        requests in prop::collection::vec((any::<u16>(), 0u16..10, any::<u64>(), 0u32..70_000), 0..8),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        use std::io::Write;
        thread_local! {
            static WORLD: World = world();
        }
        WORLD.with(|world| {
            let mut raw = Raw::greeted(&world.socket());
            let mut bytes = Vec::new();
            for (option, data) in &options {
                bytes.extend(b"IHAVEOPT");
                bytes.extend(option.to_be_bytes());
                bytes.extend((data.len() as u32).to_be_bytes());
                bytes.extend(data);
            }
            bytes.extend(&garbage);
            // The server may hang up before it has taken everything.
            let _ = raw.0.write_all(&bytes);
            assert!(raw.is_hung_up());
            let mut raw = Raw::open(&world.socket(), "plain");
            let mut bytes = Vec::new();
            for (flags, command, offset, length) in &requests {
                bytes.extend(0x2560_9513_u32.to_be_bytes());
                bytes.extend(flags.to_be_bytes());
                bytes.extend(command.to_be_bytes());
                bytes.extend([1; 8]);
                bytes.extend((offset % 70_000).to_be_bytes());
                bytes.extend(length.to_be_bytes());
            }
            bytes.extend(&garbage);
            let _ = raw.0.write_all(&bytes);
            assert!(raw.is_hung_up());
            check_alive(world);
        });
    }
}
