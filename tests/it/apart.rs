//! Store and workspace in two places: whatever is the last change of a commit, the next owner finds the point whole or the session, and
//! leaves nothing of the other in either place.

use std::sync::Arc;

use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::repo::Ending;
use restorefs::repo::layout::VmKeys;
use restorefs::store::fault::{Faults, Moment};
use restorefs::store::{Entry, Key, PutMode};
use restorefs::types::{DiskName, VmName};

use crate::pair::{Pair, Places};
use crate::world::{World, open_disk, open_engine, read_all};

const MEMORY: u64 = 64 << 20;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn keys() -> VmKeys {
    VmKeys::new(&vm()).unwrap()
}

fn begin(engine: &restorefs::ingest::Engine, fill: u8) -> Arc<Session> {
    let mut request = BeginRequest::new(vm());
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    let session = Session::begin(engine, &request).unwrap();
    let writer = session.disk(&disk()).unwrap();
    writer.write(0, &vec![fill; 1 << 20]).unwrap();
    writer.set_finished(true);
    session.attach("domain.xml", b"<domain/>").unwrap();
    session.flush().unwrap();
    session
}

fn names(entries: restorefs::error::Result<Vec<Entry>>) -> Vec<String> {
    let entries = entries.unwrap_or_default().into_iter();
    entries.map(|entry| entry.name).collect()
}

/// What a new owner makes of what is there; answers whether the second point is.
fn look(pair: &Pair, world: &World, at: &str) -> bool {
    let engine = open_engine(pair.sides(), &world.clock, MEMORY).unwrap();
    let repository = engine.owner.repository();
    let (store, stage) = pair.sides();
    for name in repository.session_names(&vm()).unwrap() {
        let session = Session::resume(&engine, &vm(), &name).unwrap();
        let bytes = read_all(session.disk(&disk()).unwrap().as_ref());
        assert!(bytes == vec![2; 1 << 20], "{at}");
        session.end(&Ending::aborted()).unwrap();
    }
    let index = engine.owner.vm_snapshot(&vm()).unwrap().index;
    for (point, fill) in index.points.iter().zip(1..) {
        let sidecar = repository.point(&vm(), point).unwrap();
        let opened = open_disk(&engine, &vm(), &sidecar.disk(&disk()).unwrap().layer);
        assert!(read_all(&opened) == vec![fill; 1 << 20], "{at}");
        let attached = &sidecar.attached[0];
        repository.attached(&vm(), &point.name, attached).unwrap();
        let dir = names(store.list(&keys().point(&point.name).unwrap()));
        assert_eq!(dir, ["attached", "point.json"], "{at}");
    }
    let is_partial = |name: &String| name.starts_with('.') || name.ends_with(".open");
    let mut points = names(store.list(&keys().points().unwrap()));
    points.retain(|name| !is_partial(name));
    assert_eq!(points.len(), index.points.len(), "{at}: {points:?}");
    let mut layers = names(store.list(&keys().layers().unwrap()));
    layers.retain(|name| !is_partial(name));
    assert_eq!(layers.len(), 2 * index.points.len(), "{at}: {layers:?}");
    for prefix in [keys().points().unwrap(), keys().layers().unwrap()] {
        let mut left = names(stage.list(&prefix));
        left.retain(is_partial);
        assert!(left.is_empty(), "{at}: {left:?}");
    }
    index.points.len() == 2
}

fn whatever_is_the_last_change_of_a_commit_nothing_is_left_over(places: Places) {
    let world = World::over(places, MEMORY);
    begin(world.engine(), 1)
        .commit(&CommitRequest::default(), &|| ())
        .unwrap();
    world.clock.advance(60);
    let run = |faults: &Arc<Faults>| {
        let pair = world.pair.snapshot();
        let engine = open_engine(pair.faulty(faults), &world.clock, MEMORY).unwrap();
        let session = begin(&engine, 2);
        let before = faults.changes();
        let done = session.commit(&CommitRequest::default(), &|| ()).is_ok();
        (pair, before, done)
    };
    let none = Faults::none();
    let (pair, before, done) = run(&none);
    assert!(done && look(&pair, &world, "no fault"));
    let mut seen = [0, 0];
    for n in before..none.changes() {
        for moment in [Moment::Before, Moment::After] {
            let (pair, _, done) = run(&Faults::kill_at(n, moment));
            let at = format!("{moment:?} change {n} of {before} to {}", none.changes());
            let is_there = look(&pair, &world, &at);
            assert!(is_there || !done, "{at}");
            seen[usize::from(is_there)] += 1;
        }
    }
    assert!(seen[0] > 10 && seen[1] > 4, "{seen:?}");
}

/// An upload that another process has under way, or was killed at, is no point and no damage.
fn a_point_without_its_sidecar_is_not_listed_and_goes_to_the_trash(places: Places) {
    let mut world = World::over(places, MEMORY);
    begin(world.engine(), 1)
        .commit(&CommitRequest::default(), &|| ())
        .unwrap();
    let half = Key::parse("vms/web01/points/half/attached/domain.xml").unwrap();
    world.store().put(&half, b"<", PutMode::Create).unwrap();
    let repository = world.engine().owner.repository();
    assert_eq!(repository.index(&vm()).unwrap().points.len(), 1);
    world.start();
    assert_eq!(
        world
            .engine()
            .owner
            .vm_snapshot(&vm())
            .unwrap()
            .index
            .points
            .len(),
        1
    );
    let points = names(world.store().list(&keys().points().unwrap()));
    assert!(!points.contains(&"half".to_owned()), "{points:?}");
    let trash = names(world.store().list(&Key::parse("trash").unwrap()));
    assert!(
        trash.iter().any(|name| name.ends_with(".half")),
        "{trash:?}"
    );
}

/// Another machine goes on with the store, and has a workspace of its own.
#[test]
fn a_new_workspace_does() {
    let world = World::over(Places::TwoMemories, MEMORY);
    begin(world.engine(), 1)
        .commit(&CommitRequest::default(), &|| ())
        .unwrap();
    world.clock.advance(60);
    let pair = world.pair.with_new_workspace();
    drop(world.engine);
    let engine = open_engine(pair.sides(), &world.clock, MEMORY).unwrap();
    begin(&engine, 2)
        .commit(&CommitRequest::default(), &|| ())
        .unwrap();
    let index = engine.owner.vm_snapshot(&vm()).unwrap().index;
    assert_eq!(index.points.len(), 2);
    assert_eq!(
        index.points[1].parent.as_ref().unwrap().name,
        index.points[0].name
    );
}

mod in_one_place {
    #[test]
    fn whatever_is_the_last_change_of_a_commit_nothing_is_left_over() {
        super::whatever_is_the_last_change_of_a_commit_nothing_is_left_over(super::Places::One);
    }
}

mod in_two_memories {
    use super::Places;

    #[test]
    fn whatever_is_the_last_change_of_a_commit_nothing_is_left_over() {
        super::whatever_is_the_last_change_of_a_commit_nothing_is_left_over(Places::TwoMemories);
    }

    #[test]
    fn a_point_without_its_sidecar_is_not_listed_and_goes_to_the_trash() {
        super::a_point_without_its_sidecar_is_not_listed_and_goes_to_the_trash(Places::TwoMemories);
    }
}

over_directories!(a_point_without_its_sidecar_is_not_listed_and_goes_to_the_trash);
