//! Restores of a disk: to new targets, over other content, and of what has changed alone; and targets and layers that fail in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use restorefs::block::filter::{Count, Fault, OpKind};
use restorefs::block::{FileDisk, MemoryDisk, ReadAt, WriteAt};
use restorefs::chain::{Pool, PoolLimits};
use restorefs::error::{Error, ErrorKind, Result};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::jobs::restore::change::restore_changed;
use restorefs::jobs::restore::{Compared, RestoreOptions, Restored, restore};
use restorefs::point::ProvedDisk;
use restorefs::store::{Key, PutMode};
use restorefs::sys::beneath::Access;
use restorefs::task::Monitor;
use restorefs::types::{DiskName, VmName};

use crate::chance::Chance;
use crate::world::World;

const CLUSTER: usize = 65_536;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// A point of a disk of `size_bytes`, with this content at these places.
fn world(size_bytes: u64, content: &[(u64, Vec<u8>)]) -> World {
    let world = World::new(64 << 20);
    let mut request = BeginRequest::new(vm());
    request.disks.push(DiskRequest {
        name: vda(),
        source_bytes: Some(size_bytes),
        key: None,
        full: false,
    });
    let session = Session::begin(world.engine(), &request).unwrap();
    let disk = session.disk(&vda()).unwrap();
    for (at, bytes) in content {
        disk.write(*at, bytes).unwrap();
    }
    disk.set_finished(true);
    session.commit(&CommitRequest::default(), &|| ()).unwrap();
    world
}

fn open(world: &World) -> ProvedDisk {
    let owner = &world.engine().owner;
    let repository = owner.repository();
    let index = repository.index(&vm()).unwrap();
    let point = repository.point(&vm(), index.latest().unwrap()).unwrap();
    let pool = Pool::new(PoolLimits::default());
    let disk = point.disk(&vda()).unwrap();
    ProvedDisk::open(repository, &pool, &vm(), index.vm_id, disk).unwrap()
}

fn full(disk: &ProvedDisk, target: &dyn WriteAt, target_is_zero: bool) -> Result<Restored> {
    let options = RestoreOptions {
        threads: Some(3),
        target_is_zero,
    };
    restore(disk, target, &options, &Monitor::default())
}

fn changed(disk: &ProvedDisk, target: &dyn WriteAt) -> Result<Restored> {
    restore_changed(disk, target, Some(1), &Monitor::default())
}

/// Random content of whole clusters, a third of them zeroes; the last one is cut.
fn random(chance: &mut Chance, clusters: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..clusters {
        let fill = match chance.below(3) {
            0 => 0,
            _ => 1 + chance.below(250) as u8,
        };
        bytes.extend((0..CLUSTER).map(|n| {
            if fill == 0 {
                0
            } else {
                (fill ^ (n >> 9) as u8) | 1
            }
        }));
    }
    bytes.truncate(clusters * CLUSTER - CLUSTER + 512);
    bytes
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The bytes that a comparison has to write, and those that it has to make zeroes.
fn expected(model: &[u8], target: &[u8]) -> (u64, u64) {
    let (mut written, mut zeroed) = (0, 0);
    for (model, target) in model.chunks(CLUSTER).zip(target.chunks(CLUSTER)) {
        let target = &target[..model.len()];
        if model != target && is_zero(model) {
            zeroed += model.len() as u64;
        } else if model != target {
            written += model.len() as u64;
        }
    }
    (written, zeroed)
}

/// Clusters of `model`, some of them replaced by others, and `more` bytes after its end.
fn similar(chance: &mut Chance, model: &[u8], more: usize) -> Vec<u8> {
    let mut bytes = model.to_vec();
    for cluster in bytes.chunks_mut(CLUSTER) {
        match chance.below(4) {
            0 => cluster.fill(0),
            // One byte of the cluster, the last one included.
            1 => {
                let at = chance.below(cluster.len());
                cluster[at] ^= 0x80;
            }
            _ => {}
        }
    }
    bytes.resize(model.len() + more, 0xee);
    bytes
}

#[test]
fn any_target_becomes_the_point_and_only_what_differs_is_written() {
    for seed in 0..12 {
        let mut chance = Chance(seed + 1);
        let model = random(&mut chance, 42);
        let world = world(model.len() as u64, &[(0, model.clone())]);
        let disk = open(&world);
        let data = model.chunks(CLUSTER).filter(|cluster| !is_zero(cluster));
        let data_bytes: u64 = data.map(|cluster| cluster.len() as u64).sum();

        let new = Count::new(Arc::new(MemoryDisk::sparse(model.len() as u64)));
        let done = full(&disk, &new, true).unwrap();
        assert_eq!((done.written_bytes, done.compared), (data_bytes, None));
        assert_eq!(new.ops(OpKind::Punch), 0);
        assert_eq!(new.bytes(OpKind::Write), data_bytes);
        assert!(read(&new) == model);

        let more = chance.below(3) * 1000;
        let before = similar(&mut chance, &model, more);
        let target = MemoryDisk::from_bytes(&before);
        full(&disk, &target, false).unwrap();
        assert!(target.to_bytes()[..model.len()] == model);
        assert!(target.to_bytes()[model.len()..] == before[model.len()..]);

        let (written_bytes, zeroed_bytes) = expected(&model, &before);
        let target = Count::new(Arc::new(MemoryDisk::from_bytes(&before)));
        let done = changed(&disk, &target).unwrap();
        let compared = Some(Compared {
            compared_bytes: model.len() as u64,
            zeroed_bytes,
        });
        assert_eq!(
            (done.written_bytes, done.compared),
            (written_bytes, compared)
        );
        assert_eq!(target.bytes(OpKind::Write), written_bytes);
        assert_eq!(target.ops(OpKind::Flush), 1);
        let after = read(&target);
        assert!(after[..model.len()] == model && after[model.len()..] == before[model.len()..]);
        let again = changed(&disk, &target).unwrap();
        let zeroed = again.compared.unwrap().zeroed_bytes;
        assert_eq!((again.written_bytes, zeroed), (0, 0));
    }
}

fn read(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![1; disk.size_bytes() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Leaves are loaded by region: data on both sides of a border, a region of zeroes, and a long run of data.
#[test]
fn a_disk_of_several_regions_is_restored_across_their_borders() {
    const REGION: u64 = 512 << 20;
    let long: Vec<u8> = (0..11 * CLUSTER)
        .map(|n| 1 + (n >> 9) as u8 % 200)
        .collect();
    let places = [0, REGION - 5 * CLUSTER as u64, 2 * REGION + CLUSTER as u64];
    let size = 2 * REGION + 40 * CLUSTER as u64 + 512;
    let content: Vec<_> = places.iter().map(|at| (*at, long.clone())).collect();
    let world = world(size, &content);
    let disk = open(&world);
    let check = |target: &dyn ReadAt| {
        let mut bytes = vec![0; CLUSTER];
        for at in (0..size).step_by(CLUSTER) {
            let part = &mut bytes[..CLUSTER.min((size - at) as usize)];
            target.read_at(at, part).unwrap();
            let inside = places
                .iter()
                .find(|from| (**from..**from + long.len() as u64).contains(&at));
            match inside {
                Some(from) => assert!(part == &long[(at - from) as usize..][..part.len()], "{at}"),
                None => assert!(is_zero(part), "{at}"),
            }
        }
    };
    let file = || {
        let file = FileDisk::new(tempfile::tempfile().unwrap(), "target", Access::ReadWrite);
        let file = file.unwrap();
        file.set_size(size).unwrap();
        file
    };
    let target = file();
    let done = full(&disk, &target, true).unwrap();
    assert_eq!(done.written_bytes, 3 * long.len() as u64);
    check(&target);
    // A hole of the disk is a hole of the target.
    let allocated = restorefs::sys::hole::allocated_bytes(&target).unwrap();
    assert!(allocated < 8 << 20, "{allocated}");
    for at in [CLUSTER as u64, REGION, 2 * REGION - 100, size - 512] {
        target.write_at(at, &[7; 512]).unwrap();
    }
    let monitor = Monitor::default();
    let done = restore_changed(&disk, &target, Some(2), &monitor).unwrap();
    assert_eq!(done.written_bytes, 2 * CLUSTER as u64);
    assert_eq!(monitor.done_bytes(), size);
    check(&target);
}

/// Every write, read, extent, punch and flush of the target fails once: the error is its own, says what the target has, and the same
/// restore again makes it right.
#[test]
fn a_target_that_fails_in_the_middle_is_named_and_finished_by_a_second_run() {
    let mut chance = Chance(99);
    let model = random(&mut chance, 30);
    let world = world(model.len() as u64, &[(0, model.clone())]);
    let disk = open(&world);
    let before = similar(&mut chance, &model, 0);
    for (kind, error) in [
        (OpKind::Write, ErrorKind::NoSpace),
        (OpKind::Read, ErrorKind::Io),
        (OpKind::Punch, ErrorKind::NoSpace),
        (OpKind::Extent, ErrorKind::Io),
        (OpKind::Flush, ErrorKind::Io),
    ] {
        let mut failures = 0;
        for n in 0.. {
            let memory = Arc::new(MemoryDisk::from_bytes(&before));
            let target = Fault::new(Arc::clone(&memory));
            target.fail_nth(kind, n, error);
            let Err(found) = changed(&disk, &target) else {
                break;
            };
            failures += 1;
            assert_eq!(found.kind(), error, "{kind:?} {n}");
            let said = found.report();
            assert!(said.contains("an injected fault"), "{said}");
            let is_changed = memory.to_bytes() != before;
            let (beside, nothing) = (
                said.contains("beside what it had before"),
                said.contains("nothing of it was changed"),
            );
            // A write or a punch that failed may have changed something, even the first one.
            let is_begun = is_changed || matches!(kind, OpKind::Write | OpKind::Punch);
            assert_eq!((beside, nothing), (is_begun, !is_begun), "{said}");
            changed(&disk, &target).unwrap();
            assert!(memory.to_bytes() == model, "{kind:?} {n}");
        }
        assert!(failures > 0, "{kind:?}");
    }
    // A full restore reports success neither.
    for (kind, error) in [
        (OpKind::Write, ErrorKind::NoSpace),
        (OpKind::Flush, ErrorKind::Io),
    ] {
        let target = Fault::new(Arc::new(MemoryDisk::sparse(model.len() as u64)));
        target.fail_nth(kind, 0, error);
        assert_eq!(full(&disk, &target, true).unwrap_err().kind(), error);
    }
}

/// The first write stores half of its bytes, and fails: nobody is told that nothing was changed.
#[test]
fn a_write_that_fails_half_way_counts_as_a_change() {
    let mut chance = Chance(7);
    let model = random(&mut chance, 30);
    let world = world(model.len() as u64, &[(0, model.clone())]);
    let disk = open(&world);
    let before = vec![9; model.len()];
    let memory = Arc::new(MemoryDisk::from_bytes(&before));
    let target = Fault::new(Arc::clone(&memory));
    let (inner, is_first) = (Arc::clone(&memory), AtomicBool::new(true));
    target.fail_when(move |op| {
        let fails = op.kind == OpKind::Write && is_first.swap(false, Ordering::Relaxed);
        fails.then(|| {
            let half = vec![3; op.length_bytes as usize / 2];
            inner.write_at(op.offset, &half).unwrap();
            ErrorKind::NoSpace
        })
    });
    let said = changed(&disk, &target).unwrap_err().report();
    assert!(memory.to_bytes() != before);
    assert!(said.contains("beside what it had before"), "{said}");
    assert!(!said.contains("nothing of it"), "{said}");
    changed(&disk, &target).unwrap();
    assert!(memory.to_bytes() == model);
}

#[test]
fn a_target_that_shrinks_is_an_error_of_the_target_and_no_damage() {
    let mut chance = Chance(5);
    let model = random(&mut chance, 40);
    let world = world(model.len() as u64, &[(0, model.clone())]);
    let disk = open(&world);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &model).unwrap();
    let inner = FileDisk::open(file.path(), Access::ReadWrite).unwrap();
    let target = Fault::new(Arc::new(inner));
    let shorter = file.reopen().unwrap();
    let shrinks = AtomicBool::new(true);
    target.fail_when(move |op| {
        if op.kind == OpKind::Read && op.offset > 0 && shrinks.swap(false, Ordering::Relaxed) {
            shorter.set_len(CLUSTER as u64).unwrap();
        }
        None
    });
    let error = changed(&disk, &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{}", error.report());
    assert!(
        error.report().contains("become shorter"),
        "{}",
        error.report()
    );
    let small = MemoryDisk::from_bytes(&model[..model.len() - 1]);
    let error = changed(&disk, &small).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// Flips a bit of the first data cluster of the only layer.
fn rot(world: &World) {
    let store = world.store();
    let layers = Key::parse("vms/web01/layers").unwrap();
    let entries = store.list(&layers).unwrap();
    let layer = entries.iter().find(|entry| entry.name.ends_with(".qcow2"));
    let key = layers.join(&layer.unwrap().name).unwrap();
    let mut bytes = store.get(&key, 1 << 30).unwrap();
    bytes[CLUSTER + 77] ^= 4;
    store.put(&key, &bytes, PutMode::Replace).unwrap();
}

#[test]
fn rot_in_a_layer_is_never_written_and_what_the_target_has_needs_no_layer() {
    let model: Vec<u8> = (0..20 * CLUSTER)
        .map(|n| 1 + (n >> 9) as u8 % 200)
        .collect();
    let world = world(model.len() as u64, &[(0, model.clone())]);
    rot(&world);
    let disk = open(&world);
    let check = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let said = error.report();
        assert!(said.contains("disk vda, bytes 0 to 65536"), "{said}");
        said
    };
    let new = MemoryDisk::sparse(model.len() as u64);
    check(full(&disk, &new, true).unwrap_err());
    assert!(is_zero(&new.to_bytes()[..CLUSTER]));

    // The damaged cluster is there already: nothing of the layer is needed for it.
    let mut before = model.clone();
    before[5 * CLUSTER] ^= 1;
    let target = MemoryDisk::from_bytes(&before);
    assert_eq!(
        changed(&disk, &target).unwrap().written_bytes,
        CLUSTER as u64
    );
    assert!(target.to_bytes() == model);

    before[7] ^= 1;
    let target = MemoryDisk::from_bytes(&before);
    let said = check(changed(&disk, &target).unwrap_err());
    assert!(said.contains("nothing of it was changed"), "{said}");
    assert!(target.to_bytes()[..CLUSTER] == before[..CLUSTER]);
}

#[test]
fn a_cancelled_comparison_says_so_and_flushes_nothing() {
    let model = vec![7; 20 * CLUSTER];
    let world = world(model.len() as u64, &[(0, model.clone())]);
    let disk = open(&world);
    let flag = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&flag);
    let monitor = Monitor::with_listener(flag, move |_| stop.store(true, Ordering::Relaxed));
    let target = Count::new(Arc::new(MemoryDisk::sparse(model.len() as u64)));
    let error = restore_changed(&disk, &target, Some(1), &monitor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(
        error.report().contains("beside what it had before"),
        "{}",
        error.report()
    );
    assert_eq!(target.ops(OpKind::Flush), 0);
    changed(&disk, &target).unwrap();
    assert!(read(&target) == model);
}
