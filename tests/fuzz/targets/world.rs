//! A repository in memory with one open session: the disk `vda` of 1 MiB, compared with a committed point.

use std::sync::Arc;

use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::error::Result;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::repo::{Owner, Repository};
use restorefs::store::memory::MemoryStore;
use restorefs::types::{DiskName, PointName, VmName};

/// Bytes of the disk.
pub(crate) const SIZE_BYTES: u64 = 1 << 20;
/// Memory for tables and leaves.
const MEMORY_BYTES: u64 = 64 << 20;

/// What is there.
pub(crate) struct World {
    /// Over the repository.
    pub(crate) engine: Engine,
    /// The VM.
    pub(crate) vm: VmName,
    /// Its disk.
    pub(crate) disk: DiskName,
    /// The session.
    pub(crate) name: PointName,
    /// The same, held open.
    pub(crate) session: Arc<Session>,
}

fn begin(engine: &Engine, vm: &VmName, disk: &DiskName, name: &PointName) -> Result<Arc<Session>> {
    let mut request = BeginRequest::new(vm.clone());
    request.session = Some(name.clone());
    request.disks.push(DiskRequest {
        name: disk.clone(),
        source_bytes: Some(SIZE_BYTES),
        key: None,
        full: false,
    });
    Session::begin(engine, &request)
}

/// Makes one.
pub(crate) fn make() -> Result<World> {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::at(1_795_226_400));
    Repository::init_store(store.clone(), store.clone(), clock.now())?;
    let repository = Arc::new(Repository::open_store(store.clone(), store)?);
    let owner = Arc::new(Owner::open(repository, clock, "fuzz")?);
    let pool = Pool::new(PoolLimits {
        layers: 8,
        memory_bytes: 1 << 20,
    });
    let engine = Engine::with_budget(owner, pool, MEMORY_BYTES);
    let (vm, disk) = (VmName::new("web01")?, DiskName::new("vda")?);
    let parent = begin(&engine, &vm, &disk, &PointName::new("first")?)?;
    parent.disk(&disk)?.write(0, &[0x5a; 3 << 16])?;
    parent.disk(&disk)?.set_finished(true);
    parent.commit(&CommitRequest::default(), &|| ())?;
    let name = PointName::new("s")?;
    let session = begin(&engine, &vm, &disk, &name)?;
    Ok(World {
        engine,
        vm,
        disk,
        name,
        session,
    })
}
