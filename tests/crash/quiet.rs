//! Disks that no client flushes: written data is durable some seconds after the last write.

use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::block::filter::Power;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::ManualClock;
use restorefs::error::ErrorKind;
use restorefs::ingest::{
    BeginRequest, DiskRequest, DiskWriter, Engine, Flusher, Registry, Session, Telling,
};
use restorefs::repo::{Owner, Repository};
use restorefs::store::fault::Faults;
use restorefs::store::{Stage, Store};

use crate::history::{disk, open_engine, vm};
use crate::pair::Places;
use crate::volatile_pair::{VolatilePair, fresh};

const BYTES: usize = 8 * 65_536;

struct World {
    clock: Arc<ManualClock>,
    sessions: Arc<Registry>,
    session: Arc<Session>,
    disk: Arc<DiskWriter>,
    flusher: Flusher,
}

impl World {
    fn new((store, stage): (Arc<dyn Store>, Arc<dyn Stage>)) -> Self {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let repository = Arc::new(Repository::open_store(store, stage).unwrap());
        let owner = Owner::open(repository, clock.clone(), "test").unwrap();
        let limits = PoolLimits {
            layers: 8,
            memory_bytes: 1 << 20,
        };
        let engine = Engine::new(Arc::new(owner), Pool::new(limits));
        let sessions = Registry::resume(engine).unwrap();
        let mut request = BeginRequest::new(vm());
        request.disks.push(DiskRequest {
            name: disk(),
            source_bytes: Some(BYTES as u64),
            key: None,
            full: false,
        });
        let session = sessions.begin(&request, Telling::Wait).unwrap();
        let disk = session.disk(&disk()).unwrap();
        Self {
            clock,
            sessions,
            session,
            disk,
            flusher: Flusher::default(),
        }
    }

    fn write(&self, at: usize, fill: u8, length: usize) {
        let at = at as u64;
        let mut reservation = self.session.reserve(&self.disk, at, length as u64).unwrap();
        reservation.bytes_mut().fill(fill);
        reservation.submit().unwrap();
    }

    fn after(&mut self, seconds: i64) {
        self.clock.advance(seconds);
        assert!(self.flusher.round(&self.sessions));
    }
}

/// Whether what was written is there after the power was lost.
fn survives(store: &VolatilePair, bytes: &[u8]) -> bool {
    (0..12).all(|seed| {
        let left = store.after_power_loss(seed);
        let engine = open_engine(left.sides()).unwrap();
        let name = engine.owner.repository().session_names(&vm()).unwrap();
        let session = Session::resume(&engine, &vm(), &name[0]).unwrap();
        let mut found = vec![0xaa; BYTES];
        session
            .disk(&disk())
            .unwrap()
            .read_at(0, &mut found)
            .unwrap();
        found == bytes
    })
}

fn a_quiet_disk_is_durable_without_a_flush_and_a_busy_one_is_left_alone(places: Places) {
    let power = Power::steady();
    let store = VolatilePair::new(&power, &fresh(places));
    let mut world = World::new(store.sides());
    let mut bytes = vec![0; BYTES];
    // While it is written all the time, nothing is flushed.
    for n in 0..7 {
        world.write(n * 65_536, 7, 65_536);
        bytes[n * 65_536..(n + 1) * 65_536].fill(7);
        // And a part of a cluster, which waits for the rest of it.
        world.write(7 * 65_536 + n * 512, 9, 512);
        bytes[7 * 65_536 + n * 512..][..512].fill(9);
        let before = power.flushes();
        world.after(3);
        assert_eq!(power.flushes(), before);
        assert!(world.disk.has_unflushed());
    }
    assert!(!survives(&store, &bytes), "it was durable anyway");
    world.after(4);
    world.after(1);
    assert!(!world.disk.has_unflushed() && world.disk.unflushed_bytes() == 0);
    assert!(survives(&store, &bytes));
    // Then there is nothing to do, and that is no sign of life.
    let before = power.flushes();
    world.after(60);
    assert_eq!(power.flushes(), before);
    assert!(world.session.idle().as_secs() >= 60);
    // A zeroed range is a record, too.
    world.disk.zero(0, 65_536).unwrap();
    bytes[..65_536].fill(0);
    world.after(1);
    world.after(5);
    assert!(survives(&store, &bytes));
}

fn after_a_gigabyte_a_busy_disk_is_flushed_too(places: Places) {
    let mut world = World::new(fresh(places).sides());
    for n in 0..(1 << 30) / BYTES {
        assert_eq!(world.disk.unflushed_bytes(), (n * BYTES) as u64);
        world.write(0, 1 + (n % 2) as u8, BYTES);
        if n % 256 == 0 {
            world.after(0);
        }
    }
    assert_eq!(world.disk.unflushed_bytes(), 1 << 30);
    world.after(0);
    assert_eq!(world.disk.unflushed_bytes(), 0);
}

fn a_disk_that_cannot_be_flushed_is_said_and_tried_again_later(places: Places) {
    let run = |faults: &Arc<Faults>| {
        let mut world = World::new(fresh(places).faulty(faults));
        world.write(0, 7, 65_536);
        world.after(0);
        world
    };
    let none = Faults::none();
    let _world = run(&none);
    // The next change is the layer's fsync, then comes the log: where a full filesystem shows.
    let faults = Faults::fail_once(none.changes() + 1, ErrorKind::NoSpace);
    let mut world = run(&faults);
    world.after(5);
    let said = world.session.last_error();
    assert!(
        world.disk.has_unflushed() && said.is_some() && !world.disk.is_unsure(),
        "{said:?}"
    );
    for _ in 0..29 {
        world.after(1);
        assert!(world.disk.has_unflushed());
    }
    world.after(1);
    assert!(!world.disk.has_unflushed());
}

over_memories!(
    a_quiet_disk_is_durable_without_a_flush_and_a_busy_one_is_left_alone,
    after_a_gigabyte_a_busy_disk_is_flushed_too,
    a_disk_that_cannot_be_flushed_is_said_and_tried_again_later,
);
