//! A repository in memory with an engine over it: what the model tests work on.

use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::ManualClock;
use restorefs::error::Result;
use restorefs::ingest::Engine;
use restorefs::point::ChainSource;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::repo::{Owner, Repository, Slot};
use restorefs::store::memory::MemoryStore;
use restorefs::store::{Stage, Store};
use restorefs::types::{DiskName, VmName};

/// A repository and its owner; dropping the engine and opening again is a restart.
pub(crate) struct World {
    /// Where everything is.
    pub(crate) store: MemoryStore,
    /// Stands still until told otherwise.
    pub(crate) clock: Arc<ManualClock>,
    /// The engine of the present "process".
    pub(crate) engine: Option<Engine>,
    memory_bytes: u64,
}

impl World {
    /// A new repository; tables and leaves of sessions take at most `memory_bytes`.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        let store = MemoryStore::new();
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        let now = restorefs::clock::Clock::now(clock.as_ref());
        Repository::init_store(Arc::new(store.clone()), Arc::new(store.clone()), now).unwrap();
        let mut world = Self {
            store,
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
        let store = Arc::new(self.store.clone());
        let engine = open_engine(store.clone(), store, &self.clock, self.memory_bytes);
        self.engine = Some(engine.unwrap());
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

/// A disk by its layer's slot.
pub(crate) fn open_disk(engine: &Engine, vm: &VmName, layer: &Slot) -> restorefs::chain::Disk {
    let id = engine.owner.vm_snapshot(vm).unwrap().vm.vm_id;
    let source = ChainSource::new(engine.owner.repository(), vm, id, true);
    source.open_disk(&engine.pool, layer).unwrap()
}

/// An engine over any store, as a new process makes it.
pub(crate) fn open_engine(
    store: Arc<dyn Store>,
    stage: Arc<dyn Stage>,
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
