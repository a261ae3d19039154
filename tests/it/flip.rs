//! Bytes that flip, and files that are cut or empty: every sidecar answers with *corrupt* or *unsupported*, nothing panics, and
//! what is covered by a hash is never believed.

use std::sync::Arc;

use restorefs::error::{Error, ErrorKind};
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::repo::format::Format;
use restorefs::repo::layout::{self, VmKeys};
use restorefs::repo::sidecar::index::Index;
use restorefs::repo::sidecar::point::Point;
use restorefs::repo::sidecar::session::Session as SessionSidecar;
use restorefs::repo::sidecar::state::State;
use restorefs::repo::sidecar::vm::Vm;
use restorefs::repo::sidecar::{self, Sidecar};
use restorefs::repo::{Owner, Repository};
use restorefs::store::{Key, PutMode, Store};
use restorefs::types::{DiskName, LayerId, VmName};

use crate::pair::Places;
use crate::world::World;

const CLUSTER: usize = 65_536;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn vda() -> DiskName {
    DiskName::new("vda").unwrap()
}

/// Two points, the second with an attached file, and an open session.
fn world(places: Places) -> (World, Arc<Session>) {
    let world = World::over(places, 64 << 20);
    for n in 0..3_u8 {
        let mut request = BeginRequest::new(vm());
        request.disks.push(DiskRequest {
            name: vda(),
            source_bytes: Some(20 * CLUSTER as u64),
            key: Some("serial-1".to_owned()),
            full: false,
        });
        let session = Session::begin(world.engine(), &request).unwrap();
        let disk = session.disk(&vda()).unwrap();
        for cluster in 0..6 {
            let at = (cluster * (usize::from(n) + 1)) * CLUSTER;
            disk.write(at as u64, &[n + 1; CLUSTER]).unwrap();
        }
        disk.zero(19 * CLUSTER as u64, CLUSTER as u64).unwrap();
        session.flush().unwrap();
        if n == 2 {
            return (world, session);
        }
        if n == 1 {
            session.attach("domain.xml", b"<domain/>\n").unwrap();
        }
        disk.set_finished(true);
        session.commit(&CommitRequest::default(), &|| ()).unwrap();
        world.clock.advance(60);
    }
    unreachable!("the third round returns");
}

/// Every way in which a file is damaged here: bits flipped, bytes replaced, cut, grown, empty.
fn damages(good: &[u8], step: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    let flips = (0..good.len()).step_by(step).flat_map(move |at| {
        [0x01, 0x02, 0x10, 0x80, 0xff].into_iter().map(move |mask| {
            let mut bytes = good.to_vec();
            bytes[at] ^= mask;
            bytes
        })
    });
    let cuts = (0..good.len())
        .step_by(step)
        .map(move |length| good[..length].to_vec());
    let more = [
        vec![0; good.len()],
        [good, b"x"].concat(),
        b"null".to_vec(),
        b"{}".to_vec(),
        b"[".repeat(100_000),
    ];
    flips.chain(cuts).chain(more)
}

fn expected(error: &Error, what: &str) {
    let kind = error.kind();
    assert!(
        matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported),
        "{what}: {kind:?}: {}",
        error.report()
    );
    assert!(!error.report().is_empty());
}

fn parse_all<T: Sidecar>(good: &[u8]) {
    sidecar::parse::<T>(good).unwrap();
    for bytes in damages(good, 1) {
        match sidecar::parse::<T>(&bytes) {
            Err(error) => expected(&error, T::WHAT),
            Ok(_) => panic!(
                "{} is believed: {}",
                T::WHAT,
                String::from_utf8_lossy(&bytes)
            ),
        }
    }
    // A file of a release that knew no hashes is read; so is one whose line was removed by hand.
    let text = String::from_utf8(good.to_vec()).unwrap();
    let at = text.rfind(",\n  \"blake3\": \"").unwrap();
    sidecar::parse::<T>(format!("{}\n}}\n", &text[..at]).as_bytes()).unwrap();
}

fn get(store: &dyn Store, key: &Key) -> Vec<u8> {
    store.get(key, 1 << 30).unwrap()
}

fn damaged_sidecars_are_corrupt_or_unsupported(places: Places) {
    let (world, session) = world(places);
    let store = world.store();
    let keys = VmKeys::new(&vm()).unwrap();
    let index = world.engine().owner.repository().index(&vm()).unwrap();
    let last = index.latest().unwrap();
    parse_all::<Format>(&get(store, &layout::format().unwrap()));
    parse_all::<Vm>(&get(store, &keys.vm().unwrap()));
    parse_all::<Index>(&get(store, &keys.index().unwrap()));
    parse_all::<Point>(&get(store, &keys.point_file(&last.name).unwrap()));
    let session = keys.session_file(&session.name()).unwrap();
    parse_all::<SessionSidecar>(&world.stage().get(&session, 1 << 30).unwrap());
    let state = world
        .engine()
        .owner
        .repository()
        .state(&vm(), last)
        .unwrap();
    parse_all::<State>(&sidecar::encode(&state).unwrap());
}

fn what_a_hash_covers_is_never_believed_damaged(places: Places) {
    let (world, _session) = world(places);
    let store = world.store();
    let repository = world.engine().owner.repository();
    let keys = VmKeys::new(&vm()).unwrap();
    let index = repository.index(&vm()).unwrap();
    let last = index.latest().unwrap();
    let point = repository.point(&vm(), last).unwrap();
    let slot = &point.disk(&vda()).unwrap().layer;
    let image = restorefs::qcow2::Image::open(repository.open_layer(&vm(), slot).unwrap()).unwrap();
    let layer: LayerId = image.layer_id().unwrap();

    let key = keys.point_file(&last.name).unwrap();
    let good = get(store, &key);
    for bytes in damages(&good, 1) {
        store.put(&key, &bytes, PutMode::Replace).unwrap();
        expected(&repository.point(&vm(), last).unwrap_err(), "point.json");
    }
    store.put(&key, &good, PutMode::Replace).unwrap();
    repository.point(&vm(), last).unwrap();

    let key = keys
        .point(&last.name)
        .unwrap()
        .join("attached")
        .unwrap()
        .join("domain.xml")
        .unwrap();
    let good = get(store, &key);
    for bytes in damages(&good, 1) {
        store.put(&key, &bytes, PutMode::Replace).unwrap();
        let error = repository
            .attached(&vm(), &last.name, &point.attached[0])
            .unwrap_err();
        expected(&error, "attached");
    }
    store.put(&key, &good, PutMode::Replace).unwrap();

    let key = keys.sums(slot, layer).unwrap();
    let good = get(store, &key);
    for bytes in damages(&good, 7) {
        store.put(&key, &bytes, PutMode::Replace).unwrap();
        let opened = repository.open_sums(&vm(), slot, layer);
        let error = opened.and_then(|sums| sums.verify()).unwrap_err();
        expected(&error, "sums");
    }
}

/// A damaged `index.json` is answered from the points; a damaged `vm.json` or `restorefs.json` refuses.
fn a_repository_with_a_damaged_sidecar_opens_or_says_why(places: Places) {
    let (mut world, session) = world(places);
    drop(session);
    let names: Vec<_> = world
        .engine()
        .owner
        .repository()
        .index(&vm())
        .unwrap()
        .points
        .iter()
        .map(|point| (point.name.clone(), point.point_id))
        .collect();
    world.engine = None;
    let keys = VmKeys::new(&vm()).unwrap();
    let (store, stage) = world.pair.sides();
    for (key, step) in [
        (layout::format().unwrap(), 13),
        (keys.vm().unwrap(), 13),
        (keys.index().unwrap(), 29),
    ] {
        let good = get(&*store, &key);
        for bytes in damages(&good, step) {
            store.put(&key, &bytes, PutMode::Replace).unwrap();
            let opened = Repository::open_store(store.clone(), stage.clone())
                .and_then(|r| Owner::open(Arc::new(r), world.clock.clone(), "test"));
            match opened {
                Ok(owner) => {
                    let entry = match owner.vm_snapshot(&vm()) {
                        Ok(entry) => entry,
                        Err(error) => {
                            // The VM alone is damaged, or its directory is none.
                            if error.kind() != ErrorKind::NotFound {
                                expected(&error, key.as_str());
                            }
                            store.put(&key, &good, PutMode::Replace).unwrap();
                            continue;
                        }
                    };
                    // Whatever is listed is there, and proves itself or is called corrupt.
                    for point in &entry.index.points {
                        if let Err(error) = owner.repository().point(&vm(), point) {
                            expected(&error, key.as_str());
                        }
                    }
                    let listed: Vec<_> = entry.index.points.iter().map(|p| &p.name).collect();
                    for (name, _) in &names {
                        assert!(listed.contains(&name), "{key}: {name} is not listed");
                    }
                }
                Err(error) => expected(&error, key.as_str()),
            }
            // A damaged index was rewritten; the next one begins from the good one.
            store.put(&key, &good, PutMode::Replace).unwrap();
        }
    }
    world.start();
    let index = world.engine().owner.vm_snapshot(&vm()).unwrap().index;
    assert_eq!(index.points.len(), names.len());
}

/// A damaged log ends early or is refused; a damaged session sidecar is refused or leads to a session that can be ended.
fn a_session_with_damaged_files_goes_on_or_says_why(places: Places) {
    let (mut world, session) = world(places);
    let name = session.name();
    drop(session);
    world.start();
    let keys = VmKeys::new(&vm()).unwrap();
    let stage = world.stage();
    for (key, step) in [
        (keys.map(&name, vda().as_str()).unwrap(), 1),
        (keys.session_file(&name).unwrap(), 3),
    ] {
        let good = stage.get(&key, 1 << 30).unwrap();
        for bytes in damages(&good, step) {
            stage.put(&key, &bytes, PutMode::Replace).unwrap();
            match Session::resume(world.engine(), &vm(), &name) {
                Ok(session) => {
                    let mut bytes = vec![0; CLUSTER];
                    for disk in session.disks() {
                        for cluster in 0..20 {
                            // Readable or said to be damaged.
                            let at = cluster * CLUSTER as u64;
                            let _ = restorefs::block::ReadAt::read_at(&*disk, at, &mut bytes);
                        }
                    }
                }
                Err(error) => assert!(!error.report().is_empty()),
            }
        }
        stage.put(&key, &good, PutMode::Replace).unwrap();
    }
    let session = Session::resume(world.engine(), &vm(), &name).unwrap();
    session.disk(&vda()).unwrap().set_finished(true);
    session.commit(&CommitRequest::default(), &|| ()).unwrap();
}

over_memories!(
    damaged_sidecars_are_corrupt_or_unsupported,
    what_a_hash_covers_is_never_believed_damaged,
    a_repository_with_a_damaged_sidecar_opens_or_says_why,
    a_session_with_damaged_files_goes_on_or_says_why,
);
