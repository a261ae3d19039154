//! A repository in a directory, written by the library, with the bytes that each point must have.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use restorefs::block::ReadAt;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::clock::{Clock, ManualClock};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session};
use restorefs::point::ChainSource;
use restorefs::qcow2::Compression;
use restorefs::repo::{Owner, Repository};
use restorefs::types::{DiskName, PointName, VmName};

/// What a disk of a point is: its layer's file name, and its bytes.
pub(crate) struct Truth {
    pub(crate) point: PointName,
    pub(crate) disk: DiskName,
    pub(crate) layer: String,
    pub(crate) bytes: Vec<u8>,
}

/// A disk that is to be written, and what it is now.
pub(crate) struct Present {
    pub(crate) name: DiskName,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

/// The directory of the layers.
pub(crate) fn layers(root: &Path) -> PathBuf {
    root.join("vms/web01/layers")
}

/// A repository that is being written.
pub(crate) struct Writer {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<ManualClock>,
}

fn pool() -> Arc<Pool> {
    Pool::new(PoolLimits {
        layers: 2048,
        memory_bytes: 16 << 20,
    })
}

impl Writer {
    pub(crate) fn new(root: &Path) -> Self {
        restorefs::sys::limit::raise_open_files().unwrap();
        let clock = Arc::new(ManualClock::at(1_795_226_400));
        drop(Repository::init(root, clock.now()).unwrap());
        Self::open(root)
    }

    /// Takes over a repository that is there.
    pub(crate) fn open(root: &Path) -> Self {
        let clock = Arc::new(ManualClock::at(1_795_226_400 + 1_000_000));
        let repository = Arc::new(Repository::open(root).unwrap());
        let owner = Arc::new(Owner::open(repository, clock.clone(), "test").unwrap());
        let engine = Engine::with_budget(owner, pool(), 64 << 20);
        Self { engine, clock }
    }

    /// Begins a session over disks of these sizes.
    pub(crate) fn begin(
        &self,
        disks: &[Present],
        compression: Compression,
        point: Option<PointName>,
    ) -> Arc<Session> {
        let mut request = BeginRequest::new(vm());
        request.compression = compression;
        request.point = point;
        request.disks = disks
            .iter()
            .map(|disk| DiskRequest {
                name: disk.name.clone(),
                source_bytes: Some(disk.bytes.len() as u64),
                key: None,
                full: false,
            })
            .collect();
        Session::begin(&self.engine, &request).unwrap()
    }

    /// Commits, and tells what each disk of the point is.
    pub(crate) fn commit(&self, session: &Session, disks: &[Present]) -> Vec<Truth> {
        for disk in session.disks() {
            disk.set_finished(true);
        }
        let entry = session.commit(&CommitRequest::default(), &|| ()).unwrap();
        self.clock.advance(3600);
        let repository = self.engine.owner.repository();
        let point = repository.point(&vm(), &entry).unwrap();
        disks
            .iter()
            .map(|disk| Truth {
                point: entry.name.clone(),
                disk: disk.name.clone(),
                layer: point.disk(&disk.name).unwrap().layer.layer_file(),
                bytes: disk.bytes.clone(),
            })
            .collect()
    }
}

/// Opens one disk of one point of the repository in `root`, as a new process does.
pub(crate) fn open(root: &Path, truth: &Truth, writable: bool) -> restorefs::chain::Disk {
    let repository = Arc::new(Repository::open(root).unwrap());
    let index = repository.index(&vm()).unwrap();
    let entry = index.point(&truth.point).unwrap();
    let point = repository.point(&vm(), entry).unwrap();
    let source = ChainSource::new(&repository, &vm(), index.vm_id, writable);
    source
        .open_disk(&pool(), &point.disk(&truth.disk).unwrap().layer)
        .unwrap()
}

/// Reads a disk in pieces of odd sizes and compares.
pub(crate) fn assert_reads(disk: &dyn ReadAt, bytes: &[u8], what: &str) {
    assert_eq!(disk.size_bytes(), bytes.len() as u64, "{what}");
    let mut found = vec![0xee; bytes.len()];
    for (n, chunk) in found.chunks_mut(300_007).enumerate() {
        disk.read_at(n as u64 * 300_007, chunk).unwrap();
    }
    let first = found.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what}");
}
