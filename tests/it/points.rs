//! Points of one disk of one VM: committed, forgotten and merged by few words.

use restorefs::block::page::PageBudget;
use restorefs::error::Result;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Registry, Telling};
use restorefs::jobs::merge::{MergeOptions, Merged, merge_vm};
use restorefs::qcow2::Compression;
use restorefs::repo::Slot;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::task::{Monitor, Pace};
use restorefs::types::{DiskName, PointName, VmName};

use crate::world::World;

pub(crate) const CLUSTER: usize = 65_536;

pub(crate) fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

pub(crate) fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// A session of the disk with so many clusters.
pub(crate) fn request(clusters: usize) -> BeginRequest {
    let mut request = BeginRequest::new(vm());
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some((clusters * CLUSTER) as u64),
        key: None,
        full: false,
    });
    request
}

/// What is in a cluster: zeroes, bytes that compress, or bytes that do not.
pub(crate) fn content(kind: u8, seed: u8) -> Vec<u8> {
    match kind % 3 {
        0 => vec![0; CLUSTER],
        1 => (0..CLUSTER).map(|i| (i / 700) as u8 ^ seed).collect(),
        _ => {
            let mut bytes = vec![0; CLUSTER];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[seed]);
            hasher.finalize_xof().fill(&mut bytes);
            bytes
        }
    }
}

/// Writes clusters in a session and commits it; returns the point.
pub(crate) fn commit_as(
    sessions: &Registry,
    world: &World,
    request: &BeginRequest,
    writes: &[(usize, Vec<u8>)],
) -> PointEntry {
    let session = sessions.begin(request, Telling::Wait).unwrap();
    let writer = session.disk(&disk()).unwrap();
    for (cluster, bytes) in writes {
        writer.write((cluster * CLUSTER) as u64, bytes).unwrap();
    }
    writer.set_finished(true);
    world.clock.advance(60);
    let (name, commit) = (session.name(), CommitRequest::default());
    sessions
        .commit(&vm(), &name, &commit, Telling::Wait)
        .unwrap()
}

/// The same with a compression, and with a parent that need not be the newest point.
pub(crate) fn commit(
    sessions: &Registry,
    world: &World,
    writes: &[(usize, Vec<u8>)],
    clusters: usize,
    compression: Compression,
    parent: Option<&PointName>,
) -> PointEntry {
    let mut request = request(clusters);
    request.compression = compression;
    request.parent = parent.map(|parent| parent.as_str().parse().unwrap());
    commit_as(sessions, world, &request, writes)
}

pub(crate) fn forget(sessions: &Registry, point: &PointName) {
    let done = sessions
        .forget_points(&vm(), std::slice::from_ref(point), Telling::Wait)
        .unwrap();
    assert!(done.kept.is_empty(), "{:?}", done.kept);
}

pub(crate) fn options(compact: bool) -> MergeOptions {
    MergeOptions {
        compact,
        low_water_bytes: 0,
        budget: PageBudget::new(1 << 20),
        pace: Pace::new(None),
    }
}

pub(crate) fn quietly(_: &Slot, _: u64) -> Result<Monitor> {
    Ok(Monitor::default())
}

pub(crate) fn try_merge(world: &World, compact: bool) -> Result<Merged> {
    let owner = &world.engine().owner;
    let swap = |replacement: &_| owner.replace(replacement);
    merge_vm(
        owner.repository(),
        &vm(),
        &options(compact),
        &swap,
        &quietly,
    )
}

pub(crate) fn merge(world: &World, compact: bool) -> Merged {
    try_merge(world, compact).unwrap()
}
