//! The next owner, after a dead process left files behind, and with a damaged catalog or index.

use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Session};
use restorefs::repo::layout::{self, VmKeys};
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::store::{Key, PutMode};
use restorefs::types::{DiskName, LayerId, VmName};

use crate::pair::Places;
use crate::world::{World, read_all};

const MEMORY: u64 = 64 << 20;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn begin(world: &World, resumable: bool) -> std::sync::Arc<Session> {
    let mut request = BeginRequest::new(vm());
    request.resumable = resumable;
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    Session::begin(world.engine(), &request).unwrap()
}

fn commit(world: &World, fill: u8) -> PointEntry {
    let session = begin(world, true);
    let writer = session.disk(&disk()).unwrap();
    writer.write(0, &vec![fill; 1 << 20]).unwrap();
    writer.set_finished(true);
    let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
    world.clock.advance(60);
    point
}

/// As a new process that is asked for the VM: where the last one has ended well, it looks at a VM only then.
fn restart(world: &mut World) {
    world.start();
    let _ = world.engine().owner.vm_snapshot(&vm());
}

fn names(world: &World, prefix: &Key) -> Vec<String> {
    world
        .store()
        .list(prefix)
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect()
}

fn what_an_interrupted_backup_left_is_removed_and_a_resumable_session_is_not(places: Places) {
    let mut world = World::over(places, MEMORY);
    commit(&world, 1);
    let session = begin(&world, false);
    session
        .disk(&disk())
        .unwrap()
        .write(0, &[7; 70_000])
        .unwrap();
    session.flush().unwrap();
    drop(session);
    let layers = VmKeys::new(&vm()).unwrap().layers().unwrap();
    let making = |world: &World| {
        let entries = world.stage().list(&layers).unwrap();
        entries.iter().any(|e| e.name.ends_with(".open"))
    };
    assert!(making(&world));
    restart(&mut world);
    assert!(
        world
            .engine()
            .owner
            .repository()
            .session_names(&vm())
            .unwrap()
            .is_empty()
    );
    assert!(!making(&world));
    let session = begin(&world, true);
    drop(session);
    restart(&mut world);
    assert_eq!(
        world
            .engine()
            .owner
            .repository()
            .session_names(&vm())
            .unwrap()
            .len(),
        1
    );
}

fn garbage_goes_to_the_trash_for_an_hour_and_nothing_that_is_named_does(places: Places) {
    let mut world = World::over(places, MEMORY);
    let (one, two) = (commit(&world, 1), commit(&world, 2));
    let keys = VmKeys::new(&vm()).unwrap();
    let layers = keys.layers().unwrap();
    let before = names(&world, &layers);
    let stray = layers.join("vda-20200101T000000Z-000000.qcow2").unwrap();
    world
        .store()
        .put(&stray, b"nobody's", PutMode::Create)
        .unwrap();
    restart(&mut world);
    assert_eq!(names(&world, &layers), before);
    let trash = layout::trash().unwrap();
    assert_eq!(names(&world, &trash).len(), 1);
    world.clock.advance(3500);
    restart(&mut world);
    assert_eq!(names(&world, &trash).len(), 1);
    world.clock.advance(200);
    restart(&mut world);
    assert!(names(&world, &trash).is_empty());
    for (point, fill) in [(one, 1), (two, 2)] {
        assert_eq!(
            read_all(&world.open(&vm(), &point, &disk())),
            vec![fill; 1 << 20]
        );
    }
}

fn one_sidecar_that_cannot_be_read_and_nothing_is_cleaned_up(places: Places) {
    let mut world = World::over(places, MEMORY);
    let one = commit(&world, 1);
    commit(&world, 2);
    let keys = VmKeys::new(&vm()).unwrap();
    let layers = keys.layers().unwrap();
    let stray = layers.join("vda-20200101T000000Z-000000.qcow2").unwrap();
    world
        .store()
        .put(&stray, b"nobody's", PutMode::Create)
        .unwrap();
    let sidecar = keys.point_file(&one.name).unwrap();
    world.store().put(&sidecar, b"{", PutMode::Replace).unwrap();
    let before = names(&world, &layers);
    restart(&mut world);
    assert_eq!(names(&world, &layers), before);
}

/// Results of verifying whose file cannot be removed keep neither garbage nor the VM.
fn garbage_whose_results_cannot_be_removed_keeps_no_vm_from_opening(places: Places) {
    let mut world = World::over(places, MEMORY);
    let one = commit(&world, 1);
    let keys = VmKeys::new(&vm()).unwrap();
    let (slot, layer) = (&one.disks[0].layer, LayerId::random());
    let sums = keys.sums(slot, layer).unwrap();
    let checks = keys.checks(slot, layer).unwrap();
    // A prefix that is not empty stays for everybody, as an immutable file does.
    let inside = checks.join("inside").unwrap();
    for key in [&sums, &inside] {
        let prefix = key.parent().unwrap();
        world.store().make_prefix(&prefix).unwrap();
        world.store().put(key, b"stray", PutMode::Create).unwrap();
    }
    let before = names(&world, &keys.layers().unwrap()).len();
    restart(&mut world);
    let entry = world.engine().owner.vm_snapshot(&vm()).unwrap();
    assert_eq!(entry.index.points.len(), 1);
    assert_eq!(names(&world, &keys.layers().unwrap()).len(), before - 1);
    assert_eq!(names(&world, &checks), ["inside"]);
    assert_eq!(
        read_all(&world.open(&vm(), &one, &disk())),
        vec![1; 1 << 20]
    );
}

fn a_layer_below_a_named_one_is_not_garbage(places: Places) {
    let mut world = World::over(places, MEMORY);
    let one = commit(&world, 1);
    let two = commit(&world, 2);
    // The point goes, its layer stays as the parent of the next.
    let keys = VmKeys::new(&vm()).unwrap();
    world
        .store()
        .delete_all(&keys.point(&one.name).unwrap())
        .unwrap();
    let layers = keys.layers().unwrap();
    let before = names(&world, &layers);
    restart(&mut world);
    assert_eq!(names(&world, &layers), before);
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
    assert_eq!(
        read_all(&world.open(&vm(), &two, &disk())),
        vec![2; 1 << 20]
    );
}

fn the_catalog_is_rebuilt_when_it_is_behind_damaged_or_missing(places: Places) {
    let mut world = World::over(places, MEMORY);
    commit(&world, 1);
    let key = Key::parse("catalog.redb").unwrap();
    let old = world.stage().get(&key, 64 << 20).unwrap();
    commit(&world, 2);
    let listed = |world: &World| {
        let index = world
            .engine()
            .owner
            .catalog()
            .index(&vm())
            .unwrap()
            .unwrap();
        (
            index.generation,
            index.points.iter().map(|p| p.seq).collect::<Vec<_>>(),
        )
    };
    let right = listed(&world);
    assert_eq!(right.1, [1, 2]);
    for bytes in [Some(old), Some(vec![0x5a; 4096]), Some(Vec::new()), None] {
        world.engine = None;
        match bytes {
            Some(bytes) => world.stage().put(&key, &bytes, PutMode::Replace).unwrap(),
            None => world.stage().delete(&key).unwrap(),
        }
        restart(&mut world);
        assert_eq!(listed(&world), right);
    }
    assert_eq!(world.engine().owner.rebuild_catalog().unwrap(), 1);
    assert_eq!(listed(&world), right);
}

fn points_win_over_the_index_and_serials_are_never_given_twice(places: Places) {
    let mut world = World::over(places, MEMORY);
    let keys = VmKeys::new(&vm()).unwrap();
    let one = commit(&world, 1);
    let index = world.store().get(&keys.index().unwrap(), 1 << 20).unwrap();
    let two = commit(&world, 2);
    // A crash between the rename of the point and the new index.
    world
        .store()
        .put(&keys.index().unwrap(), &index, PutMode::Replace)
        .unwrap();
    let follower = world.engine().owner.repository().index(&vm()).unwrap();
    assert_eq!(follower.points.len(), 2);
    restart(&mut world);
    let entry = world.engine().owner.vm_snapshot(&vm()).unwrap();
    let serials: Vec<u32> = entry.index.points.iter().map(|p| p.serial).collect();
    assert_eq!(entry.index.points.len(), 2);
    assert!(
        serials[0] != serials[1] && serials[0] == one.serial && serials[1] != 0,
        "{serials:?}, {}",
        two.serial
    );
    let three = commit(&world, 3);
    assert_eq!(three.seq, 3);
    assert!(!serials.contains(&three.serial));
}

over_places!(
    what_an_interrupted_backup_left_is_removed_and_a_resumable_session_is_not,
    garbage_goes_to_the_trash_for_an_hour_and_nothing_that_is_named_does,
    one_sidecar_that_cannot_be_read_and_nothing_is_cleaned_up,
    garbage_whose_results_cannot_be_removed_keeps_no_vm_from_opening,
    a_layer_below_a_named_one_is_not_garbage,
    the_catalog_is_rebuilt_when_it_is_behind_damaged_or_missing,
    points_win_over_the_index_and_serials_are_never_given_twice,
);
