//! Chains that become too deep: what is merged at any price, and from where on a disk is stored in full.

use restorefs::ingest::{BeginRequest, Registry, Telling};
use restorefs::jobs::merge::{Merged, make_full};
use restorefs::repo::sidecar::index::{Index, PointEntry};
use restorefs::repo::sidecar::point::Kind;
use restorefs::store::{Key, PutMode};
use restorefs::task::Monitor;

use crate::points::{CLUSTER, commit_as, disk, options, request, try_merge, vm};
use crate::world::{World, read_all};

const CLUSTERS: usize = 32;

/// Changes a sidecar while no owner has it; its own hash goes.
fn change(world: &World, path: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let key = Key::parse(path).unwrap();
    let bytes = world.store().get(&key, 1 << 20).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    value.as_object_mut().unwrap().remove("blake3");
    change(&mut value);
    let bytes = serde_json::to_vec(&value).unwrap();
    world.store().put(&key, &bytes, PutMode::Replace).unwrap();
}

/// A repository whose chains are to have at most so many layers.
fn world(max_depth: Option<u32>) -> World {
    let mut world = World::new(64 << 20);
    world.engine = None;
    change(&world, "restorefs.json", |format| {
        format["defaults"]["max_depth"] = max_depth.into();
    });
    world.start();
    world
}

fn asked(differential: bool, whole: bool) -> BeginRequest {
    let mut request = request(CLUSTERS);
    request.differential = differential;
    if whole {
        request.whole.push(disk());
    }
    request
}

/// Commits a point with one more cluster.
fn commit(world: &World, sessions: &Registry, n: u8, request: &BeginRequest) -> PointEntry {
    let bytes = (0..CLUSTER).map(|at| (at >> 7) as u8 ^ n).collect();
    commit_as(sessions, world, request, &[(usize::from(n), bytes)])
}

fn index(world: &World) -> Index {
    world.engine().owner.vm_snapshot(&vm()).unwrap().index
}

fn depths(world: &World) -> Vec<u32> {
    let index = index(world);
    let disks = index.points.iter().flat_map(|point| &point.disks);
    disks.map(|disk| disk.depth.unwrap()).collect()
}

/// Ten points with a cluster each, of which the first, the sixth and the last stay: merging frees nothing.
fn ten(world: &World) {
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let points: Vec<_> = (1..=10)
        .map(|n| commit(world, &sessions, n, &asked(false, false)).name)
        .collect();
    assert_eq!(depths(world), (1..=10).collect::<Vec<_>>());
    let gone = [&points[1..5], &points[6..9]].concat();
    let done = sessions.forget_points(&vm(), &gone, Telling::Wait).unwrap();
    assert!(done.kept.is_empty());
    assert_eq!(depths(world), [1, 6, 10]);
    assert_eq!(index(world).hidden.len(), 7);
}

#[test]
fn a_chain_that_is_not_too_deep_is_merged_where_that_is_worth_it() {
    for max_depth in [None, Some(10)] {
        let world = world(max_depth);
        ten(&world);
        assert_eq!(try_merge(&world, false).unwrap(), Merged::default());
        assert_eq!(depths(&world), [1, 6, 10]);
    }
}

#[test]
fn hidden_layers_of_a_chain_that_is_too_deep_are_merged_until_it_is_not() {
    for max_depth in [9, 7, 5, 2, 0] {
        let world = world(Some(max_depth));
        ten(&world);
        let contents: Vec<_> = index(&world)
            .points
            .iter()
            .map(|point| read_all(&world.open(&vm(), point, &disk())))
            .collect();
        try_merge(&world, false).unwrap();
        let depths = depths(&world);
        let deepest = depths[2];
        // Three points need three layers.
        assert!(deepest <= max_depth.max(3), "{max_depth}: {depths:?}");
        // No more than that is merged: one interval less would leave it too deep.
        assert!(max_depth < 7 || deepest > 3, "{max_depth}: {depths:?}");
        for (point, content) in index(&world).points.iter().zip(contents) {
            assert!(read_all(&world.open(&vm(), point, &disk())) == content);
        }
        assert_eq!(try_merge(&world, false).unwrap(), Merged::default());
    }
}

/// Pretends that the newest chain has so many layers.
fn pretend(world: &mut World, depth: u32) {
    world.engine = None;
    change(world, "vms/web01/index.json", |index| {
        let points = index["points"].as_array_mut().unwrap();
        points.last_mut().unwrap()["disks"][0]["depth"] = depth.into();
    });
    world.start();
}

#[test]
fn a_disk_on_a_chain_that_qemu_could_not_open_is_stored_in_full() {
    let mut world = world(None);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    commit(&world, &sessions, 1, &asked(false, true));
    commit(&world, &sessions, 2, &asked(false, true));
    drop(sessions);
    pretend(&mut world, 799);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let point = commit(&world, &sessions, 3, &asked(false, true));
    assert_eq!(
        (point.kind, point.disks[0].depth),
        (Kind::Incremental, Some(800))
    );
    // Only its changes are written: it goes on, as it would miss the rest.
    let point = commit(&world, &sessions, 4, &asked(false, false));
    assert_eq!(
        (point.kind, point.disks[0].depth),
        (Kind::Incremental, Some(801))
    );
    let point = commit(&world, &sessions, 5, &asked(false, true));
    assert_eq!((point.kind, point.disks[0].depth), (Kind::Full, Some(1)));
    let owner = &world.engine().owner;
    let sidecar = owner.repository().point(&vm(), &point).unwrap();
    let reason = sidecar.disks[0].full_reason.clone().unwrap();
    assert!(reason.contains("801 layers"), "{reason}");
    let point = commit(&world, &sessions, 6, &asked(false, true));
    assert_eq!(
        (point.kind, point.disks[0].depth),
        (Kind::Incremental, Some(2))
    );
}

#[test]
fn a_differential_is_compared_with_a_point_that_was_made_full_later() {
    let world = world(None);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let points: Vec<_> = (1..=3)
        .map(|n| commit(&world, &sessions, n, &asked(false, false)))
        .collect();
    let differential = commit(&world, &sessions, 4, &asked(true, false));
    assert_eq!(differential.parent.unwrap().name, points[0].name);
    let owner = &world.engine().owner;
    let which = points[1].name.as_str().parse().unwrap();
    let swap = |replacement: &_| owner.replace(replacement);
    let watch = |_: &_, _| Ok(Monitor::default());
    make_full(
        owner.repository(),
        &vm(),
        &which,
        &[],
        &options(false),
        &swap,
        &watch,
    )
    .unwrap();
    assert_eq!(depths(&world), [1, 1, 2, 2]);
    let differential = commit(&world, &sessions, 5, &asked(true, false));
    assert_eq!(differential.parent.unwrap().name, points[1].name);
    assert_eq!(differential.disks[0].depth, Some(2));
}
