//! A repository with an engine over it, for the model tests.

use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::ManualClock;
use restorefs::error::Result;
use restorefs::ingest::{Connection, DiskWriter, Engine};
use restorefs::point::ChainSource;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::repo::{Owner, Repository, Slot};
use restorefs::store::{Stage, Store};
use restorefs::types::{DiskName, VmName};

use crate::pair::{Pair, Places};

/// A repository and its owner; dropping the engine and opening again is a restart.
pub(crate) struct World {
    /// Where everything is.
    pub(crate) pair: Pair,
    /// Stands still until told otherwise.
    pub(crate) clock: Arc<ManualClock>,
    /// The engine of the present "process".
    pub(crate) engine: Option<Engine>,
    memory_bytes: u64,
}

impl World {
    /// A new repository; tables and leaves of sessions take at most `memory_bytes`.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        Self::over(Places::One, memory_bytes)
    }

    /// The same over store and workspace in these places.
    pub(crate) fn over(places: Places, memory_bytes: u64) -> Self {
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let mut world = Self {
            pair: init(places, &clock),
            clock,
            engine: None,
            memory_bytes,
        };
        world.start();
        world
    }

    /// Opens the repository as a new process does.
    pub(crate) fn start(&mut self) {
        self.engine = None;
        let engine = open_engine(self.pair.sides(), &self.clock, self.memory_bytes);
        self.engine = Some(engine.unwrap());
    }

    /// The committed objects.
    pub(crate) fn store(&self) -> &dyn Store {
        self.pair.store.as_ref()
    }

    /// The workspace.
    pub(crate) fn stage(&self) -> Arc<dyn Stage> {
        self.pair.stage()
    }

    /// The present engine.
    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// A disk of a committed point.
    pub(crate) fn open(
        &self,
        vm: &VmName,
        point: &PointEntry,
        disk: &DiskName,
    ) -> restorefs::chain::Disk {
        let engine = self.engine();
        let sidecar = engine.owner.repository().point(vm, point).unwrap();
        open_disk(engine, vm, &sidecar.disk(disk).unwrap().layer)
    }
}

/// A new repository.
pub(crate) fn init(places: Places, clock: &ManualClock) -> Pair {
    let pair = Pair::new(places);
    let (store, stage) = pair.sides();
    let now = restorefs::clock::Clock::now(clock);
    Repository::init_store(store, stage, now).unwrap();
    pair
}

/// A disk by its layer's slot.
pub(crate) fn open_disk(engine: &Engine, vm: &VmName, layer: &Slot) -> restorefs::chain::Disk {
    let id = engine.owner.vm_snapshot(vm).unwrap().vm.vm_id;
    let source = ChainSource::new(engine.owner.repository(), vm, id, true);
    source.open_disk(&engine.pool, layer).unwrap()
}

/// An engine over any store, as a new process makes it.
pub(crate) fn open_engine(
    (store, stage): (Arc<dyn Store>, Arc<dyn Stage>),
    clock: &Arc<ManualClock>,
    memory_bytes: u64,
) -> Result<Engine> {
    let repository = Arc::new(Repository::open_store(store, stage)?);
    let owner = Owner::open(repository, clock.clone(), "test")?;
    let pool = Pool::new(PoolLimits {
        layers: 8,
        memory_bytes: 1 << 20,
    });
    Ok(Engine::with_budget(Arc::new(owner), pool, memory_bytes))
}

/// All bytes of an object.
pub(crate) fn read_all(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size_bytes()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The connection writes, as the NBD server notes it before the first byte: a disk whose log says that it is finished is flushed.
pub(crate) fn note_write(connection: &Connection, disk: &DiskWriter) -> Result<()> {
    match connection.begin_write()? {
        true => disk.flush(),
        false => Ok(()),
    }
}
