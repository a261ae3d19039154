//! Every flipped bit that carries a meaning is found: the test damages each file of a small repository in many
//! places, reads the whole repository, and expects an error that names the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use restorefs::block::MemoryDisk;
use restorefs::chain::{Pool, PoolLimits};
use restorefs::error::{Error, Result};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::jobs::restore::{RestoreOptions, restore};
use restorefs::point::ProvedDisk;
use restorefs::qcow2::Compression;
use restorefs::repo::Repository;
use restorefs::repo::lineage::Lineage;
use restorefs::store::{Key, PutMode, Store};
use restorefs::task::Monitor;
use restorefs::types::{DiskName, VmName};

use crate::pair::Places;
use crate::world::World;

const CLUSTER: usize = 65_536;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

/// Two points of one disk; the second has an attached file and a state.
fn world(places: Places, compression: Compression) -> World {
    let world = World::over(places, 64 << 20);
    let vda = DiskName::new("vda").unwrap();
    for n in 0..2_u8 {
        let mut request = BeginRequest::new(vm());
        request.compression = compression;
        request.disks.push(DiskRequest {
            name: vda.clone(),
            source_bytes: Some(9 * CLUSTER as u64),
            key: None,
            full: false,
        });
        let session = Session::begin(world.engine(), &request).unwrap();
        let disk = session.disk(&vda).unwrap();
        for cluster in 0..3 {
            let at = cluster * (usize::from(n) + 1) * CLUSTER;
            let fill: Vec<u8> = (0..CLUSTER).map(|b| (b >> 7) as u8 ^ n ^ 0x5a).collect();
            disk.write(at as u64, &fill).unwrap();
        }
        if n == 1 {
            session.attach("domain.xml", b"<domain/>\n").unwrap();
        }
        disk.set_finished(true);
        session.commit(&CommitRequest::default(), &|| ()).unwrap();
        world.clock.advance(60);
    }
    let owner = &world.engine().owner;
    let index = owner.repository().index(&vm()).unwrap();
    let point = index.latest().unwrap();
    let mut state = owner.repository().state(&vm(), point).unwrap();
    state.tags.insert("keep".to_owned(), "yes".to_owned());
    let bytes = restorefs::repo::sidecar::encode(&state).unwrap();
    let key = format!("vms/web01/state/{}.json", point.point_id);
    world
        .store()
        .put(&Key::parse(&key).unwrap(), &bytes, PutMode::Replace)
        .unwrap();
    world
}

/// Every file that is no cache, no lock, no catalog (which is rebuilt from the others) and no history.
fn files(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![Key::root()];
    while let Some(prefix) = todo.pop() {
        for entry in store.list(&prefix).unwrap() {
            let key = prefix.join(&entry.name).unwrap();
            let top = key.as_str().split('/').next().unwrap().to_owned();
            if ["cache", "trash", "jobs", "lock", "catalog.redb"].contains(&top.as_str()) {
                continue;
            }
            if entry.is_prefix {
                todo.push(key);
            } else {
                let bytes = store.get(&key, 1 << 30).unwrap();
                found.insert(key.as_str().to_owned(), bytes);
            }
        }
    }
    found
}

/// Reads the whole repository; returns all errors.
fn faults(world: &World) -> Result<Vec<Error>> {
    let (store, stage) = world.pair.sides();
    let repository = Arc::new(Repository::open_store(store, stage)?);
    let mut faults = Vec::new();
    let mut take = |found: Result<()>| faults.extend(found.err());
    take(repository.stored_index(&vm()).map(drop));
    let vm_id = repository.vm(&vm())?.vm_id;
    let index = repository.index(&vm())?;
    let name = vm();
    let mut lineage = Lineage::new(&repository, &name, &index);
    let mut found = Vec::new();
    for entry in &index.points {
        found.extend(lineage.damage_of(entry)?);
        let Ok(point) = repository.point(&vm(), entry) else {
            continue;
        };
        for file in &point.attached {
            take(repository.attached(&vm(), &entry.name, file).map(drop));
        }
        for disk in &point.disks {
            let pool = Pool::new(PoolLimits::default());
            let options = RestoreOptions {
                threads: Some(1),
                target_is_zero: true,
            };
            let restored =
                ProvedDisk::open(&repository, &pool, &vm(), vm_id, disk).and_then(|proved| {
                    restore(&proved, &MemoryDisk::new(), &options, &Monitor::default())?;
                    proved.prove_metadata()
                });
            take(restored);
        }
    }
    faults.extend(found);
    Ok(faults)
}

/// Whether the fault names the file, as a path or, for clusters, by point and disk, whose chain it is in.
fn is_named(fault: &Error, file: &str) -> bool {
    let said = fault.report();
    let name = file.rsplit('/').next().unwrap();
    said.contains(name) || (file.contains("/layers/") && said.contains("vda"))
}

/// Offsets of a file that are damaged: many of a sidecar (its hash has a test of its own for each); of layers and sums what is dense, and
/// samples of the rest.
fn offsets(file: &str, bytes: &[u8]) -> Vec<usize> {
    if !file.contains("/layers/") {
        return (0..bytes.len()).step_by(17).collect();
    }
    let clusters = bytes.chunks(CLUSTER).enumerate();
    clusters
        .flat_map(|(n, cluster)| {
            let dense = (0..cluster.len()).step_by(if n == 0 { 23 } else { 4_001 });
            let dense = dense.take_while(move |at| n > 0 || *at < 800);
            let sparse = (13..cluster.len()).step_by(29_989);
            let set = cluster.iter().enumerate();
            // Entries of tables: few bytes that are not zero.
            let set: Vec<usize> = set
                .filter(|(_, b)| **b != 0)
                .map(|(at, _)| at)
                .step_by(3)
                .collect();
            let set = if set.len() < 150 { set } else { Vec::new() };
            let at = n * CLUSTER;
            dense.chain(sparse).chain(set).map(move |o| at + o)
        })
        .collect()
}

fn check(places: Places, compression: Compression) {
    let world = world(places, compression);
    let store = world.store();
    assert_eq!(faults(&world).unwrap().len(), 0);
    let all = files(store);
    assert!(all.len() >= 10, "{:?}", all.keys());
    let mut missed = Vec::new();
    for (file, good) in &all {
        let key = Key::parse(file).unwrap();
        if compression != Compression::None && !file.contains("/layers/") {
            continue;
        }
        for at in offsets(file, good) {
            // Between compressed clusters lie bytes that mean nothing, and are zero.
            if compression != Compression::None && at >= CLUSTER && good[at] == 0 {
                continue;
            }
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            store.put(&key, &bytes, PutMode::Replace).unwrap();
            let faults = faults(&world).unwrap_or_else(|fault| vec![fault]);
            if !faults.iter().any(|fault| is_named(fault, file)) {
                let said: Vec<String> = faults.iter().map(Error::report).collect();
                missed.push(format!("{file} at {at}: {said:?}"));
            }
        }
        store.put(&key, good, PutMode::Replace).unwrap();
    }
    assert!(missed.is_empty(), "{} not found: {missed:?}", missed.len());
}

fn any_flipped_bit_is_found_and_named(places: Places) {
    check(places, Compression::None);
}

fn any_flipped_bit_is_found_and_named_in_compressed_layers(places: Places) {
    check(places, Compression::Zlib);
}

over_memories!(
    any_flipped_bit_is_found_and_named,
    any_flipped_bit_is_found_and_named_in_compressed_layers,
);
