//! Parts of clusters that are written in their place: what is proved before, and what is hashed, mapped and stored after.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use restorefs::block::{ExtentKind, ReadAt};
use restorefs::error::ErrorKind;
use restorefs::ingest::{
    BeginRequest, CommitRequest, DiskRequest, DiskWriter, Keeper, Registry, Session, Telling,
};
use restorefs::repo::content::{leaf_of, set_leaf, zero_page};
use restorefs::store::Key;
use restorefs::types::{DiskName, VmName};

use crate::proof::prove_disk;
use crate::world::{World, read_all};

const CLUSTER: usize = 65_536;
const CLUSTERS: usize = 8;

fn names() -> (VmName, DiskName) {
    (VmName::new("web01").unwrap(), DiskName::new("vda").unwrap())
}

fn request() -> BeginRequest {
    let (vm, name) = names();
    let mut request = BeginRequest::new(vm);
    request.disks.push(DiskRequest {
        name,
        source_bytes: Some((CLUSTERS * CLUSTER) as u64),
        key: None,
        full: false,
    });
    request
}

fn begin(world: &World) -> (Arc<Session>, Arc<DiskWriter>) {
    let session = Session::begin(world.engine(), &request()).unwrap();
    let disk = session.disk(&names().1).unwrap();
    (session, disk)
}

/// Whether the session knows the leaf of a cluster, and that it is this content's.
fn is_hashed(disk: &DiskWriter, cluster: usize, content: &[u8]) -> bool {
    let mut page = zero_page().to_vec();
    set_leaf(&mut page, cluster, &leaf_of(content));
    let from = (cluster * CLUSTER) as u64;
    let found = disk.difference_at(from, from + CLUSTER as u64, &page);
    found.unwrap().is_some_and(|(differs, _)| !differs)
}

fn hash(disk: &DiskWriter) {
    for _ in 0..2 {
        disk.hash_quiet(&AtomicBool::new(false)).unwrap();
    }
}

/// Commits; returns what the point has, proved, and the bytes of its data.
fn commit(world: &World, session: &Session, disk: &DiskWriter) -> (Vec<u8>, u64) {
    let (vm, name) = names();
    disk.set_finished(true);
    let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
    world.clock.advance(60);
    let repository = world.engine().owner.repository();
    let sidecar = repository.point(&vm, &point).unwrap();
    let meta = sidecar.disk(&name).unwrap();
    (
        prove_disk(world.engine(), &vm, &point, meta),
        meta.data_bytes,
    )
}

/// The bytes of a cluster whose leaf is known are proved before it gets a part: rot in them would get a valid sum.
#[test]
fn what_the_session_has_written_is_proved_before_a_part_goes_into_it() {
    let world = World::new(64 << 20);
    let (session, disk) = begin(&world);
    disk.write(0, &[7; 2 * CLUSTER]).unwrap();
    session.flush().unwrap();
    let layers = Key::parse("vms/web01/layers").unwrap();
    let stage = world.stage();
    let entries = stage.list(&layers).unwrap();
    let file = stage.open(&layers.join(&entries[0].name).unwrap()).unwrap();
    // The first two clusters of data are the last of the file.
    let rotten = file.size_bytes() - CLUSTER as u64 + 9;
    file.write_at(rotten, &[8]).unwrap();
    let error = disk.write(CLUSTER as u64 + 4096, &[1; 512]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert!(
        error.report().contains("reads differently"),
        "{}",
        error.report()
    );
    // Its leaf still tells of it, and the whole cluster can be written again.
    assert!(is_hashed(&disk, 1, &[7; CLUSTER]));
    disk.write(4096, &[1; 512]).unwrap();
    assert!(!is_hashed(&disk, 0, &[7; CLUSTER]));
    disk.write(CLUSTER as u64, &[5; CLUSTER]).unwrap();
    let mut model = vec![0; CLUSTERS * CLUSTER];
    model[..CLUSTER].fill(7);
    model[4096..4608].fill(1);
    model[CLUSTER..2 * CLUSTER].fill(5);
    assert!(read_all(disk.as_ref()) == model);
    assert!(commit(&world, &session, &disk).0 == model);
}

#[test]
fn a_part_that_is_there_already_changes_nothing() {
    let world = World::new(64 << 20);
    let (session, disk) = begin(&world);
    disk.write(0, &[7; CLUSTER]).unwrap();
    let before = disk.stats();
    disk.write(4096, &[7; 4096]).unwrap();
    assert!(is_hashed(&disk, 0, &[7; CLUSTER]));
    // Nor do zeroes where there are zeroes.
    disk.write(3 * CLUSTER as u64 + 4096, &[0; 4096]).unwrap();
    let after = disk.stats();
    assert_eq!(after.stored_bytes, before.stored_bytes);
    assert_eq!(after.equal_bytes, before.equal_bytes + 8192);
    let extent = disk.extent_at(3 * CLUSTER as u64, CLUSTER as u64).unwrap();
    assert_eq!(extent.kind, ExtentKind::Hole);
    let mut model = vec![0; CLUSTERS * CLUSTER];
    model[..CLUSTER].fill(7);
    assert!(commit(&world, &session, &disk).0 == model);
}

/// A cluster that becomes zero part by part is mapped so: by the hasher, and by the seal; with and without a parent below.
#[test]
fn a_cluster_that_becomes_zero_by_parts_takes_no_data() {
    for is_hashed_before in [false, true] {
        let world = World::new(64 << 20);
        let mut model = vec![0; CLUSTERS * CLUSTER];
        for round in 0..2 {
            let (session, disk) = begin(&world);
            // Written in its place: without a parent from the beginning, over one once it lies in the session.
            disk.write(0, &[9; CLUSTER]).unwrap();
            disk.write(2 * CLUSTER as u64, &[9; CLUSTER]).unwrap();
            for part in (0..CLUSTER).step_by(4096).skip(1).chain([0]) {
                disk.write(part as u64, &[0; 4096]).unwrap();
            }
            model[2 * CLUSTER..3 * CLUSTER].fill(9);
            if is_hashed_before {
                hash(&disk);
                assert!(is_hashed(&disk, 0, &[0; CLUSTER]));
                let extent = disk.extent_at(0, CLUSTER as u64).unwrap();
                assert!(extent.kind.reads_zero(), "round {round}: {extent:?}");
            }
            assert!(read_all(disk.as_ref()) == model);
            let (bytes, data_bytes) = commit(&world, &session, &disk);
            assert!(bytes == model, "round {round}");
            assert_eq!(data_bytes, CLUSTER as u64, "round {round}");
            // The next round's parent has data there.
            let (session, disk) = begin(&world);
            disk.write(0, &[4; CLUSTER]).unwrap();
            commit(&world, &session, &disk);
        }
    }
}

/// The keeper hashes by itself what nobody writes any more.
#[test]
fn the_keeper_hashes_what_is_quiet() {
    let world = World::new(64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let keeper = Keeper::start(&sessions).unwrap();
    let session = sessions.begin(&request(), Telling::Wait).unwrap();
    let disk = session.disk(&names().1).unwrap();
    disk.write(4096, &[7; 4096]).unwrap();
    let mut content = vec![0; CLUSTER];
    content[4096..8192].fill(7);
    assert!(!is_hashed(&disk, 0, &content));
    let begun = std::time::Instant::now();
    while !is_hashed(&disk, 0, &content) {
        assert!(begun.elapsed().as_secs() < 60, "nobody hashes it");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(keeper);
}
