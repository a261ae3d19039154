//! Forgetting points, and removing VMs that never had one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::{
    BeginRequest, Change, CommitRequest, DiskRequest, Hook, Registry, Session, SessionState,
    Telling,
};
use restorefs::repo::Ending;
use restorefs::repo::selector::Which;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::store::{Key, PutMode};
use restorefs::types::{DiskName, PointName, VmName};

use crate::pair::Places;
use crate::world::{World, read_all};

fn vm(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn request(name: &str) -> BeginRequest {
    let mut request = BeginRequest::new(vm(name));
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    request
}

fn commit(sessions: &Registry, world: &World, fill: u8, parent: Option<&str>) -> PointEntry {
    let mut request = request("web01");
    request.parent = parent.map(|parent| parent.parse().unwrap());
    let session = sessions.begin(&request, Telling::Wait).unwrap();
    let writer = session.disk(&disk()).unwrap();
    writer
        .write(u64::from(fill) << 16, &[fill; 65_536])
        .unwrap();
    writer.set_finished(true);
    let name = session.name();
    world.clock.advance(60);
    sessions
        .commit(
            &vm("web01"),
            &name,
            &CommitRequest::default(),
            Telling::Wait,
        )
        .unwrap()
}

fn names(world: &World, prefix: &str) -> Vec<String> {
    let entries = world.store().list(&Key::parse(prefix).unwrap()).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// Commits points, and reads them back.
fn commit_all(
    sessions: &Registry,
    world: &World,
    numbers: std::ops::RangeInclusive<u8>,
) -> (Vec<PointEntry>, Vec<Vec<u8>>) {
    let points: Vec<PointEntry> = numbers.map(|n| commit(sessions, world, n, None)).collect();
    let contents = points
        .iter()
        .map(|point| read_all(&world.open(&vm("web01"), point, &disk())))
        .collect();
    (points, contents)
}

fn forget_one(sessions: &Registry, vm: &VmName, point: &PointName) -> Result<()> {
    let done = sessions.forget_points(vm, std::slice::from_ref(point), Telling::Wait)?;
    match done.kept.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

struct Counting(Arc<AtomicUsize>);

impl Hook for Counting {
    fn before_seal(&self, _session: &Session) {}
    fn changed(&self, _change: &Change, _telling: Telling) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn a_point_goes_and_those_above_it_stay_whole(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    sessions.add_hook(Box::new(Counting(Arc::clone(&told))));
    let (points, contents) = commit_all(&sessions, &world, 1..=3);
    let forget = |n: usize| forget_one(&sessions, &vm("WEB01"), &points[n].name);
    let opened = world.open(&vm("web01"), &points[2], &disk());

    // Its layer is below the others: it stays, the point does not.
    let before = told.load(Ordering::SeqCst);
    forget(1).unwrap();
    assert_eq!(told.load(Ordering::SeqCst), before + 1);
    assert_eq!(forget(1).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names(&world, "vms/web01/layers").len(), 6);
    for n in [0, 2] {
        let again = read_all(&world.open(&vm("web01"), &points[n], &disk()));
        assert!(again == contents[n], "{n}");
    }
    // The newest goes: `latest` is the one before, layers that only it needed go, the one below it of the point before, too.
    forget(2).unwrap();
    let index = world
        .engine()
        .owner
        .vm_snapshot(&vm("web01"))
        .unwrap()
        .index;
    assert_eq!(index.latest().unwrap().name, points[0].name);
    assert_eq!(names(&world, "vms/web01/layers").len(), 2);
    // Whoever has it open reads on.
    assert!(read_all(&opened) == contents[2]);
    // The next one is compared with what is there, and has a number of its own.
    let next = commit(&sessions, &world, 4, None);
    assert_eq!(next.parent.as_ref().unwrap().name, points[0].name);
    assert_eq!(next.seq, 4);
    assert!(next.serial > points[2].serial);
    drop((sessions, opened));
    world.start();
    assert_eq!(
        world
            .engine()
            .owner
            .vm_snapshot(&vm("web01"))
            .unwrap()
            .index
            .points
            .len(),
        2
    );
    // After an hour it is deleted.
    assert!(
        names(&world, "trash")
            .iter()
            .any(|t| t.ends_with(&points[2].point_id.to_string()))
    );
    world.engine().owner.empty_trash().unwrap();
    assert!(!names(&world, "trash").is_empty());
    world.clock.advance(7_200);
    world.engine().owner.empty_trash().unwrap();
    assert!(names(&world, "trash").is_empty());
}

fn what_an_open_session_needs_stays(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let points: Vec<PointEntry> = (1..=2)
        .map(|n| commit(&sessions, &world, n, None))
        .collect();
    let session = sessions.begin(&request("web01"), Telling::Wait).unwrap();
    let name = session.name();
    let said = forget_one(&sessions, &vm("web01"), &points[1].name).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Busy);
    assert!(said.report().contains(name.as_str()), "{}", said.report());
    // The one below it may go, its layer not.
    forget_one(&sessions, &vm("web01"), &points[0].name).unwrap();
    session.disk(&disk()).unwrap().set_finished(true);
    world.clock.advance(60);
    let third = sessions
        .commit(
            &vm("web01"),
            &name,
            &CommitRequest::default(),
            Telling::Wait,
        )
        .unwrap();
    let bytes = read_all(&world.open(&vm("web01"), &third, &disk()));
    assert!(bytes[1 << 16] == 1 && bytes[2 << 16] == 2);
    // A session that cannot be read may need anything.
    let session = sessions.begin(&request("web01"), Telling::Wait).unwrap();
    let file = format!("vms/web01/points/.{}.partial/session.json", session.name());
    world
        .stage()
        .put(&Key::parse(&file).unwrap(), b"{", PutMode::Replace)
        .unwrap();
    let said = forget_one(&sessions, &vm("web01"), &points[1].name).unwrap_err();
    assert_eq!(said.kind(), ErrorKind::Corrupt);
    assert_eq!(session.state(), SessionState::Open);
}

fn a_layer_that_two_points_share_is_kept_for_the_other(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let first = commit(&sessions, &world, 1, None);
    // Two children of one parent.
    let second = commit(&sessions, &world, 2, None);
    let third = commit(&sessions, &world, 3, Some(first.name.as_str()));
    forget_one(&sessions, &vm("web01"), &second.name).unwrap();
    forget_one(&sessions, &vm("web01"), &first.name).unwrap();
    assert_eq!(names(&world, "vms/web01/layers").len(), 4);
    let bytes = read_all(&world.open(&vm("web01"), &third, &disk()));
    assert!(bytes[1 << 16] == 1 && bytes[2 << 16] == 0 && bytes[3 << 16] == 3);
    forget_one(&sessions, &vm("web01"), &third.name).unwrap();
    assert!(names(&world, "vms/web01/layers").is_empty());
    sessions.remove_vm(&vm("web01"), Telling::Wait).unwrap();
    assert!(names(&world, "vms").is_empty());
}

/// The last VM takes with it all that said which serials were given, but for `restorefs.json`.
fn a_vm_whose_points_are_gone_goes_and_no_serial_comes_again(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let point = commit(&sessions, &world, 1, None);
    let kind = sessions
        .remove_vm(&vm("web01"), Telling::Wait)
        .unwrap_err()
        .kind();
    assert_eq!(kind, ErrorKind::NotEmpty);
    forget_one(&sessions, &vm("web01"), &point.name).unwrap();
    sessions.remove_vm(&vm("web01"), Telling::Wait).unwrap();
    drop(sessions);
    world.start();
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let again = commit(&sessions, &world, 2, None);
    let index = world.engine().owner.vm_snapshot(&vm("web01")).unwrap();
    assert!(again.serial > point.serial, "{}", again.serial);
    assert!(index.vm.serial > point.serial);
    // The name is as good as new.
    assert_eq!(again.seq, 1);
}

fn a_vm_without_points_goes_and_its_serial_does_not_come_again(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    commit(&sessions, &world, 1, None);
    let session = sessions.begin(&request("db01"), Telling::Wait).unwrap();
    let kind = sessions
        .remove_vm(&vm("db01"), Telling::Wait)
        .unwrap_err()
        .kind();
    assert_eq!(kind, ErrorKind::Busy);
    sessions
        .end(
            &vm("db01"),
            &session.name(),
            &Ending::aborted(),
            Telling::Wait,
        )
        .unwrap();
    let serial = session.serial();
    drop(session);
    sessions.remove_vm(&vm("db01"), Telling::Wait).unwrap();
    assert_eq!(
        sessions
            .remove_vm(&vm("db01"), Telling::Wait)
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    let none = PointName::new("none").unwrap();
    assert_eq!(
        forget_one(&sessions, &vm("db01"), &none)
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    assert_eq!(names(&world, "vms"), ["web01"]);
    assert!(
        world
            .engine()
            .owner
            .catalog()
            .index(&vm("db01"))
            .unwrap()
            .is_none()
    );
    drop(sessions);
    world.start();
    assert_eq!(world.engine().owner.vm_names(), [vm("web01")]);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let again = sessions.begin(&request("db01"), Telling::Wait).unwrap();
    assert!(again.serial() > serial);
}

fn several_points_go_at_once_and_one_that_is_used_stays(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let (points, contents) = commit_all(&sessions, &world, 1..=5);
    let owner = std::sync::Arc::clone(&world.engine().owner);
    let which = Which::Named(points[2].name.clone());
    let (held, held_use) = owner
        .use_point(&vm("web01"), &which, "a copy to offsite")
        .unwrap();
    assert_eq!(held.name, points[2].name);
    let nobody = PointName::new("nobody").unwrap();
    let names: Vec<PointName> = [1, 2, 4].map(|n: usize| points[n].name.clone()).into();
    let asked = [names.as_slice(), std::slice::from_ref(&nobody)].concat();
    let done = sessions
        .forget_points(&vm("web01"), &asked, Telling::Wait)
        .unwrap();
    assert_eq!(
        done.forgotten,
        [points[1].name.clone(), points[4].name.clone()]
    );
    let kept: Vec<_> = done
        .kept
        .iter()
        .map(|(name, e)| (name.clone(), e.kind()))
        .collect();
    let expected = [
        (nobody, ErrorKind::NotFound),
        (points[2].name.clone(), ErrorKind::Busy),
    ];
    assert!(expected.iter().all(|one| kept.contains(one)), "{kept:?}");
    let why = done
        .kept
        .iter()
        .find(|(name, _)| *name == points[2].name)
        .unwrap();
    assert!(
        why.1.report().contains("a copy to offsite uses web01@"),
        "{}",
        why.1
    );
    for n in [0, 2, 3] {
        let again = read_all(&world.open(&vm("web01"), &points[n], &disk()));
        assert!(again == contents[n], "{n}");
    }
    // The use has ended: the point goes as any other.
    drop(held_use);
    forget_one(&sessions, &vm("web01"), &points[2].name).unwrap();
    assert_eq!(
        owner.vm_snapshot(&vm("web01")).unwrap().index.points.len(),
        2
    );
}

over_places!(
    a_point_goes_and_those_above_it_stay_whole,
    what_an_open_session_needs_stays,
    a_layer_that_two_points_share_is_kept_for_the_other,
    a_vm_whose_points_are_gone_goes_and_no_serial_comes_again,
    a_vm_without_points_goes_and_its_serial_does_not_come_again,
    several_points_go_at_once_and_one_that_is_used_stays,
);
