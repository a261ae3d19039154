//! Extended headers: how they are agreed on, requests of more than 4 GiB, payloads that lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use restorefs::block::{Extent, ExtentKind, MemoryDisk, ReadAt};
use restorefs::error::Result;
use restorefs::nbd::client::Client;
use restorefs::nbd::proto::Mode;
use restorefs::nbd::server::ServerLimits;

use crate::client::check_writes;
use crate::kit::need::has;
use crate::kit::wait::eventually;
use crate::raw::{CACHE, DISC, FLUSH, READ, Raw, STATUS, TRIM, WRITE, ZEROES};
use crate::tool::run;
use crate::world::World;

const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;
const INVALID: u32 = 0x8000_0003;
const EXTENDED_REQUIRED: u32 = 0x8000_000a;
const PAYLOAD: u16 = 1 << 5;
const FAST: u16 = 1 << 4;
const GIB: u64 = 1 << 30;

/// Flags of an export that is opened with GO.
fn flags(raw: &mut Raw, export: &str) -> u16 {
    let data = [
        &(export.len() as u32).to_be_bytes()[..],
        export.as_bytes(),
        &[0, 0],
    ]
    .concat();
    raw.option(6, &data);
    let (kind, fact) = raw.answer(6);
    assert_eq!(kind, 3);
    assert_eq!(raw.answer(6).0, 1);
    u16::from_be_bytes(fact[10..].try_into().unwrap())
}

#[test]
fn they_are_agreed_on_once_and_there_is_no_way_back() {
    let world = World::new();
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    let mut raw = Raw::greeted(&world.socket());
    raw.option(11, b"data");
    assert_eq!(raw.answer(11).0, INVALID);
    // Structured replies may come first.
    raw.option(8, &[]);
    assert_eq!(raw.answer(8).0, 1);
    raw.option(11, &[]);
    assert_eq!(raw.answer(11), (1, Vec::new()));
    raw.option(11, &[]);
    assert_eq!(raw.answer(11).0, INVALID);
    raw.option(8, &[]);
    assert_eq!(raw.answer(8).0, EXTENDED_REQUIRED);
    // DF is there; payloads for BLOCK_STATUS are not.
    let said = flags(&mut raw, "plain");
    assert_eq!((said & (1 << 7), said & (1 << 12)), (1 << 7, 0));
    raw.option(1, b"plain");
    assert!(raw.is_refused(), "EXPORT_NAME after extended headers");
    // Without them the magic numbers are those of old, and with them they are not.
    let mut raw = Raw::open(&world.socket(), "plain");
    raw.request_extended(0, READ, 1, 0, 512);
    assert!(raw.is_refused());
    let mut raw = Raw::extended(&world.socket(), "plain");
    raw.request(0, READ, 1, 0, 512);
    raw.say(&[0; 4]);
    assert!(raw.is_refused());
}

#[test]
fn long_requests_work_and_every_reply_is_extended() {
    let world = World::new();
    let size = 8 << 40;
    let (_, disk) = world.begin("s1", size);
    let mut raw = Raw::extended(&world.socket(), "web01/s1/vda");
    raw.request_extended(PAYLOAD | 1, WRITE, 5, 6 * GIB, 65_536);
    raw.say(&[3; 65_536]);
    assert_eq!(raw.reply_extended(6 * GIB).error, 0);
    let said = raw.ask_extended(0, READ, 6 * GIB - 512, 1024);
    assert_eq!(said.data, [[0; 512], [3; 512]].concat());
    // One extent of 6 GiB.
    let entry = |length: u64, flags: u64| [length.to_be_bytes(), flags.to_be_bytes()].concat();
    let status = |raw: &mut Raw, offset, length| raw.ask_extended(0, STATUS, offset, length).data;
    let all = [
        &3u32.to_be_bytes()[..],
        &entry(6 * GIB, 3),
        &entry(65_536, 0),
        &entry(4 * GIB - 65_536, 3),
    ]
    .concat();
    assert_eq!(status(&mut raw, 0, 10 * GIB), all);
    let one = [&1u32.to_be_bytes()[..], &entry(5 * GIB, 3)].concat();
    assert_eq!(raw.ask_extended(1 << 3, STATUS, 0, 5 * GIB).data, one);
    // Zeroes and discards over everything; what was data is gone.
    assert_eq!(raw.ask_extended(FAST, ZEROES, 0, 10 * GIB).error, ENOTSUP);
    assert_eq!(raw.ask_extended(0, READ, 6 * GIB, 512).data, [3; 512]);
    assert_eq!(raw.ask_extended(0, CACHE, 0, 10 * GIB).error, 0);
    assert_eq!(raw.ask_extended(1, ZEROES, GIB, 9 * GIB + 512).error, 0);
    assert_eq!(raw.ask_extended(0, READ, 6 * GIB, 512).data, [0; 512]);
    assert_eq!(raw.ask_extended(FAST, ZEROES, 0, 10 * GIB).error, 0);
    assert_eq!(raw.ask_extended(0, TRIM, 0, 20 * GIB).error, 0);
    assert_eq!(raw.ask_extended(0, FLUSH, 0, 0).error, 0);
    assert_eq!(raw.ask_extended(0, ZEROES, GIB, size).error, ENOSPC);
    assert_eq!(raw.ask_extended(0, TRIM, 512, u64::MAX).error, EINVAL);
    raw.request_extended(0, DISC, 0, 0, 0);
    assert!(raw.is_refused());
    eventually("a goodbye", || disk.is_finished());
}

#[test]
fn payloads_that_lie() {
    let world = World::new();
    let (_, disk) = world.begin("s1", 8 << 20);
    let open = || Raw::extended(&world.socket(), "web01/s1/vda");
    let mut raw = open();
    // Passed over, refused, and the connection stays in step.
    for command in [READ, TRIM, ZEROES, FLUSH, CACHE, STATUS, 8, 0xffff] {
        raw.request_extended(PAYLOAD, command, 9, 0, 12);
        raw.say(&[1; 12]);
        assert_eq!(raw.reply_extended(0).error, EINVAL, "{command}");
    }
    assert_eq!(raw.ask_extended(PAYLOAD, WRITE, 0, 0).error, EINVAL);
    assert_eq!(raw.ask_extended(0, READ, 0, 1 << 32).error, EINVAL);
    assert_eq!(raw.ask_extended(0, READ, 0, u64::MAX).error, EINVAL);
    raw.request_extended(PAYLOAD, WRITE, 9, 8 << 20, 512);
    raw.say(&[1; 512]);
    assert_eq!(raw.reply_extended(8 << 20).error, ENOSPC);
    assert_eq!(raw.ask_extended(0, READ, 0, 4096).data, [0; 4096]);
    // QEMU does not say that a write has a payload.
    raw.request_extended(0, WRITE, 9, 512, 512);
    raw.say(&[4; 512]);
    assert_eq!(raw.reply_extended(512).error, 0);
    assert_eq!(raw.ask_extended(0, READ, 512, 512).data, [4; 512]);
    // Longer than any payload may be.
    for length in [(32 << 20) + 1, 1 << 32, u64::MAX] {
        let mut raw = open();
        raw.request_extended(PAYLOAD, STATUS, 9, 0, length);
        assert!(raw.is_refused(), "{length}");
    }
    assert_eq!(disk.writers(), 1);
}

/// A disk that takes its time.
struct Slow(AtomicU64);

impl ReadAt for Slow {
    fn size_bytes(&self) -> u64 {
        1 << 50
    }
    fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}

#[test]
fn a_long_request_takes_turns_and_ends_with_its_client() {
    let world = World::with(ServerLimits {
        workers: 1,
        ..ServerLimits::default()
    });
    let slow = Arc::new(Slow(AtomicU64::new(0)));
    world.add("slow", slow.clone());
    world.add("plain", Arc::new(MemoryDisk::from_bytes(&[7; 65_536])));
    let mut raw = Raw::extended(&world.socket(), "slow");
    raw.request_extended(0, CACHE, 1, 0, 1 << 50);
    eventually("it has begun", || slow.0.load(Ordering::SeqCst) > 0);
    // The limit of workers is one (or a few): others are served all the same, on the same connection too.
    for _ in 0..5 {
        let begun = Instant::now();
        let client = Client::connect(&world.uri("plain").parse().unwrap()).unwrap();
        client.read_at(0, &mut [0; 512]).unwrap();
        client.disconnect().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    raw.request_extended(0, READ, 2, 0, 512);
    assert_eq!(raw.reply_extended(0).cookie, 2);
    drop(raw);
    let mut last = u64::MAX;
    eventually("nobody works for the dead", || {
        let now = slow.0.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(150));
        std::mem::replace(&mut last, now) == now
    });
}

#[test]
fn our_client_and_qemu_speak_them() {
    let world = World::new();
    world.begin("s1", 8 << 30);
    let uri = world.uri("web01/s1/vda");
    let client = Client::connect(&uri.parse().unwrap()).unwrap();
    assert_eq!(client.mode(), Mode::Extended);
    // One question is enough for a disk of 8 GiB.
    let extent = client.extent_at(0, 8 << 30).unwrap();
    assert_eq!(extent.length_bytes, 8 << 30);
    drop(client);
    let other = World::new();
    other.begin("s2", 64 << 20);
    check_writes(&other.uri("web01/s2/vda"));
    if !has("qemu-io") || !has("qemu-img") {
        return;
    }
    // One request of 6 GiB, which only extended headers can carry; without them QEMU would cut it.
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -n -z -u 1G 6G",
            "-c",
            "write -P 7 3G 64k",
            &uri,
        ],
    );
    let map = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(
        map.contains("\"start\": 3221225472, \"length\": 65536"),
        "{map}"
    );
    assert!(
        map.contains("\"start\": 3221291008, \"length\": 5368643584"),
        "{map}"
    );
}

/// Blocks of 512 bytes that are data and hole by turns.
struct Striped;

impl ReadAt for Striped {
    fn size_bytes(&self) -> u64 {
        10_000 * 512
    }
    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(1);
        Ok(())
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        let kind = if (offset / 512).is_multiple_of(2) {
            ExtentKind::Data
        } else {
            ExtentKind::Hole
        };
        Ok(Extent {
            kind,
            length_bytes: (512 - offset % 512).min(length_max),
        })
    }
}

#[test]
fn extents_come_in_pages_and_the_client_asks_on() {
    let world = World::new();
    world.add("striped", Arc::new(Striped));
    let mut raw = Raw::extended(&world.socket(), "striped");
    let said = raw.ask_extended(0, STATUS, 0, 10_000 * 512).data;
    assert_eq!((said.len() - 4) / 16, 4096);
    let said = raw.ask_extended(1 << 3, STATUS, 512, 9_999 * 512).data;
    assert_eq!(said[4..12], 512u64.to_be_bytes());
    assert_eq!(said.len(), 4 + 16);
    let mut raw = Raw::open(&world.socket(), "striped");
    assert_eq!(raw.ask(0, STATUS, 0, 10_000 * 512).data.len() / 8, 4096);
    let client = Client::connect(&world.uri("striped").parse().unwrap()).unwrap();
    let mut at = 0;
    while at < 10_000 * 512 {
        let extent = client.extent_at(at, 10_000 * 512 - at).unwrap();
        assert_eq!(extent, Striped.extent_at(at, u64::MAX).unwrap(), "{at}");
        at += extent.length_bytes;
    }
    if has("nbdinfo") {
        let map = run("nbdinfo", &["--map", &world.uri("striped")]);
        assert_eq!(map.lines().count(), 10_000);
    }
}
