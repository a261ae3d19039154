//! Bounds: connections of an export, idle connections, slow ones, long lists.

use std::sync::Arc;
use std::time::{Duration, Instant};

use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::error::{ErrorKind, Result};
use restorefs::nbd::client::{Client, list};
use restorefs::nbd::server::ServerLimits;
use restorefs::repo::Ending;

use crate::kit::place::Place;
use crate::kit::wait::eventually;
use crate::raw::{READ, Raw, WRITE};
use crate::world::World;

const POLICY: u32 = 0x8000_0002;

fn plain() -> Arc<dyn ReadAt> {
    Arc::new(MemoryDisk::from_bytes(&[7; 65_536]))
}

fn world(change: impl FnOnce(&mut ServerLimits)) -> World {
    let mut limits = ServerLimits::default();
    change(&mut limits);
    let world = World::with(limits);
    world.add("plain", plain());
    world.add("other", plain());
    world
}

fn go(raw: &mut Raw, export: &str) -> u32 {
    let data = [
        &(export.len() as u32).to_be_bytes()[..],
        export.as_bytes(),
        &[0, 0],
    ]
    .concat();
    raw.option(7, &data);
    loop {
        match raw.answer(7).0 {
            3 => {}
            kind => return kind,
        }
    }
}

#[test]
fn an_export_has_so_many_connections_and_others_are_served() {
    let world = world(|limits| limits.export_connections = 2);
    let first = Raw::open(&world.socket(), "plain");
    let _second = Raw::open(&world.socket(), "plain");
    let mut third = Raw::greeted(&world.socket());
    assert_eq!(go(&mut third, "plain"), POLICY);
    // It may choose another one, or ask again when somebody has left.
    drop(first);
    eventually("a place is free", || go(&mut third, "plain") == 1);
    let client = Client::connect(&world.uri("other").parse().unwrap()).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
    // The old way cannot answer an error.
    let mut fourth = Raw::greeted(&world.socket());
    fourth.option(1, b"plain");
    assert!(fourth.is_refused());
}

/// A disk that sleeps before it answers.
struct Sleepy(Duration);

impl ReadAt for Sleepy {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }
    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<()> {
        std::thread::sleep(self.0);
        buf.fill(5);
        Ok(())
    }
}

#[test]
fn a_reader_that_asks_for_nothing_is_let_go_and_one_that_waits_is_not() {
    let idle = Duration::from_millis(400);
    let world = world(|limits| limits.idle_timeout = idle);
    world.add("sleepy", Arc::new(Sleepy(idle * 3)));
    let begun = Instant::now();
    let mut reader = Raw::open(&world.socket(), "plain");
    assert_eq!(reader.ask(0, READ, 0, 512).data, [7; 512]);
    assert!(reader.is_refused());
    assert!(begun.elapsed() >= idle);
    let mut waiter = Raw::open(&world.socket(), "sleepy");
    assert_eq!(waiter.ask(0, READ, 0, 512).data, [5; 512]);
    assert!(waiter.is_refused());
    // A writer is its session's business.
    let (session, disk) = world.begin("s1", 8 << 20);
    let mut writer = Raw::open(&world.socket(), "web01/s1/vda");
    writer.request(0, WRITE, 1, 0, 512);
    writer.say(&[1; 512]);
    assert_eq!(writer.reply().error, 0);
    std::thread::sleep(idle * 4);
    assert_eq!(writer.ask(0, READ, 0, 512).data, [1; 512]);
    session.end(&Ending::aborted()).unwrap();
    assert!(writer.is_refused(), "the session is over");
    eventually("its connection has ended", || disk.writers() == 0);
}

#[test]
fn a_header_in_single_bytes_has_to_come_in_time() {
    let world = world(|limits| limits.stall_timeout = Duration::from_millis(500));
    let mut raw = Raw::open(&world.socket(), "plain");
    use std::io::Write;
    let begun = Instant::now();
    for byte in 0x2560_9513_u32.to_be_bytes().into_iter().chain([0; 24]) {
        if raw.0.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody minds");
    }
    assert!(raw.is_refused());
    let client = Client::connect(&world.uri("plain").parse().unwrap()).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
    // A payload, too: the session's disk is then unfinished.
    let (_, disk) = world.begin("s1", 8 << 20);
    let mut raw = Raw::open(&world.socket(), "web01/s1/vda");
    raw.request(0, WRITE, 1, 0, 65_536);
    for _ in 0..20 {
        if raw.0.write_all(&[1]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(raw.is_refused());
    eventually("its connection has ended", || disk.writers() == 0);
    assert!(!disk.is_finished());
    let client = Client::connect(&world.uri("web01/s1/vda").parse().unwrap()).unwrap();
    client.write_at(0, &[1; 512]).unwrap();
    client.disconnect().unwrap();
    assert!(disk.is_finished());
}

#[test]
fn a_list_has_a_bound() {
    let world = world(|_| {});
    let disk = plain();
    for n in 0..70_000 {
        world.add(&format!("vm{n}/point/vda"), Arc::clone(&disk));
    }
    let uri = world.uri("").parse().unwrap();
    let names = list(&uri).unwrap();
    assert_eq!(names.len(), 65_536);
    // Who does not read it does not stop others.
    let mut lazy: Vec<Raw> = (0..4).map(|_| Raw::greeted(&world.socket())).collect();
    for raw in &mut lazy {
        raw.option(3, &[]);
    }
    assert_eq!(list(&uri).unwrap().len(), 65_536);
}

/// Copies the point `p0` under the names `p1`, `p2`, ...: to commit so many takes minutes.
fn multiply(place: &Place, count: usize) {
    let points = place.repo().join("vms/web01/points");
    let text = std::fs::read_to_string(points.join("p0/point.json")).unwrap();
    let mut sidecar: serde_json::Value = serde_json::from_str(&text).unwrap();
    for n in 1..count {
        let name = format!("p{n}");
        sidecar["point_id"] = format!("00000000-0000-4000-8000-{n:012}").into();
        sidecar["name"] = name.clone().into();
        sidecar["seq"] = (n + 1).into();
        std::fs::create_dir(points.join(&name)).unwrap();
        let bytes = serde_json::to_vec(&sidecar).unwrap();
        std::fs::write(points.join(&name).join("point.json"), bytes).unwrap();
    }
    place.ok(&["rebuild-catalog"]);
}

#[test]
fn thousands_of_points_are_listed_and_described() {
    const POINTS: usize = 2000;
    let place = Place::new();
    place.disk("a.raw", 1, 1);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p0"]);
    multiply(&place, POINTS);
    let daemon = place.serve(&[]);
    let uri = daemon.uri("").parse().unwrap();
    let begun = Instant::now();
    let names = list(&uri).unwrap();
    // Each point has one disk; the newest is also `latest`.
    assert_eq!(names.len(), POINTS + 1);
    assert_eq!(names[0].name, "web01/latest/vda");
    assert_eq!(names[1].name, format!("web01/p{}/vda", POINTS - 1));
    assert!(names[1].description.contains("65536 bytes"));
    assert!(begun.elapsed() < Duration::from_secs(30));
    let error = Client::connect(&daemon.uri("web01/p9999/vda").parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let client = Client::connect(&daemon.uri("web01/p7/vda").parse().unwrap()).unwrap();
    client.read_at(0, &mut [0; 512]).unwrap();
    daemon.stop();
}
