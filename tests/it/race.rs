//! Two commits that want one name, and clocks that step back between points.

use std::sync::{Arc, Barrier};

use restorefs::error::{ErrorKind, Result};
use restorefs::ingest::{
    BeginRequest, CommitRequest, DiskRequest, Registry, Session, SessionState, Telling,
};
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::types::{DiskName, PointName, VmName};

use crate::pair::Places;
use crate::proof::prove_disk;
use crate::world::{World, read_all};

const CLUSTER: usize = 65_536;
const CLUSTERS: usize = 6;
const ROUNDS: u32 = 60;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn named(name: &str) -> Option<PointName> {
    Some(PointName::new(name).unwrap())
}

fn request() -> BeginRequest {
    let mut request = BeginRequest::new(vm());
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some((CLUSTERS * CLUSTER) as u64),
        key: None,
        full: false,
    });
    request
}

/// Writes all of the disk, cluster by cluster of its own.
fn write(session: &Session, seed: u32) -> Vec<u8> {
    let bytes: Vec<u8> = (0..CLUSTERS * CLUSTER)
        .map(|n| (n / 512) as u8 ^ seed as u8 ^ (n / CLUSTER) as u8)
        .collect();
    let writer = session.disk(&disk()).unwrap();
    writer.write(0, &bytes).unwrap();
    writer.set_finished(true);
    bytes
}

fn prove(world: &World, point: &PointEntry, bytes: &[u8]) {
    let engine = world.engine();
    let sidecar = engine.owner.repository().point(&vm(), point).unwrap();
    let found = prove_disk(engine, &vm(), point, sidecar.disk(&disk()).unwrap());
    assert!(found == bytes, "{}", point.name);
}

fn of_two_commits_for_one_name_one_wins_and_the_other_loses_nothing(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let first = sessions.begin(&request(), Telling::Wait).unwrap();
    write(&first, 0);
    let name = first.name();
    sessions
        .commit(&vm(), &name, &CommitRequest::default(), Telling::Wait)
        .unwrap();
    let mut after_the_seal = 0;
    for round in 0..ROUNDS {
        world.clock.advance(60);
        let begin = |which: &str| {
            let mut request = request();
            request.session = named(&format!("s{round}{which}"));
            request.parent = Some("latest".parse().unwrap());
            sessions.begin(&request, Telling::Wait).unwrap()
        };
        let pair = [begin("a"), begin("b")];
        let bytes = [
            write(&pair[0], round * 2 + 1),
            write(&pair[1], round * 2 + 2),
        ];
        let disks = [
            pair[0].disk(&disk()).unwrap(),
            pair[1].disk(&disk()).unwrap(),
        ];
        let wanted = CommitRequest {
            point: named(&format!("r{round}")),
            ..CommitRequest::default()
        };
        let barrier = Barrier::new(2);
        let results: Vec<Result<PointEntry>> = std::thread::scope(|scope| {
            let threads: Vec<_> = pair
                .iter()
                .map(|session| {
                    let (sessions, wanted, barrier) = (&sessions, &wanted, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        sessions.commit(&vm(), &session.name(), wanted, Telling::Wait)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let winner = usize::from(results[0].is_err());
        let loser = 1 - winner;
        let point = results[winner].as_ref().unwrap();
        let error = results[loser].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
        assert_eq!(pair[loser].state(), SessionState::Open);
        assert!(read_all(&world.open(&vm(), point, &disk())) == bytes[winner]);
        // It is open, with all that it had, and takes more.
        let again = pair[loser].disk(&disk()).unwrap();
        after_the_seal += u32::from(!Arc::ptr_eq(&again, &disks[loser]));
        let winners = bytes[winner].clone();
        let mut bytes = bytes[loser].clone();
        bytes[CLUSTER..2 * CLUSTER].fill(0xdd);
        again.write(CLUSTER as u64, &[0xdd; CLUSTER]).unwrap();
        let other = CommitRequest {
            point: named(&format!("r{round}-other")),
            ..CommitRequest::default()
        };
        let second = sessions
            .commit(&vm(), &pair[loser].name(), &other, Telling::Wait)
            .unwrap();
        assert!(read_all(&world.open(&vm(), &second, &disk())) == bytes);
        if round % 10 == 9 {
            prove(&world, point, &winners);
            prove(&world, &second, &bytes);
        }
        assert!(sessions.all().is_empty());
        assert_eq!(second.seq, point.seq + 1);
    }
    assert!(
        after_the_seal > 0,
        "no commit came so far that it had sealed its disk"
    );
    let index = world.engine().owner.vm_snapshot(&vm()).unwrap().index;
    assert_eq!(index.points.len(), 1 + 2 * ROUNDS as usize);
}

fn a_clock_that_steps_back_changes_names_and_no_order(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let commit = |world: &World, seed: u32| {
        let session = sessions.begin(&request(), Telling::Wait).unwrap();
        let bytes = write(&session, seed);
        let point = sessions
            .commit(
                &vm(),
                &session.name(),
                &CommitRequest::default(),
                Telling::Wait,
            )
            .unwrap();
        prove(world, &point, &bytes);
        (point, bytes)
    };
    let mut points = vec![commit(&world, 1)];
    // The same instant again, an hour and a year back, and while a session is open.
    points.push(commit(&world, 2));
    world.clock.step(-3600);
    points.push(commit(&world, 3));
    world.clock.step(3600);
    points.push(commit(&world, 4));
    world.clock.step(-365 * 86_400);
    points.push(commit(&world, 5));
    let open = sessions.begin(&request(), Telling::Wait).unwrap();
    world.clock.step(-86_400);
    let bytes = write(&open, 6);
    assert!(sessions.expire() && !open.is_expired());
    let last = sessions
        .commit(
            &vm(),
            &open.name(),
            &CommitRequest::default(),
            Telling::Wait,
        )
        .unwrap();
    assert!(last.committed_at < last.captured_at);
    points.push((last, bytes));

    let names: Vec<&str> = points
        .iter()
        .map(|(point, _)| point.name.as_str())
        .collect();
    let (day, year) = ("2026-11-21_02-00-00", "2025-11-21_02-00-00");
    let (second, third) = (format!("{day}-2"), format!("{day}-3"));
    let before = "2026-11-21_01-00-00";
    let again = format!("{year}-2");
    assert_eq!(names, [day, &second, before, &third, year, &again]);
    drop((open, sessions));
    world.start();
    let index = world.engine().owner.vm_snapshot(&vm()).unwrap().index;
    let order: Vec<&str> = index
        .points
        .iter()
        .map(|point| point.name.as_str())
        .collect();
    assert_eq!(order, names);
    assert_eq!(index.latest().unwrap().name, points[5].0.name);
    for (at, (point, bytes)) in (1..).zip(&points) {
        assert_eq!(point.seq, at);
        prove(&world, point, bytes);
    }
    // Each was compared with the one before it, whatever the clock said.
    for pair in points.windows(2) {
        assert_eq!(
            pair[1].0.parent.as_ref().unwrap().point_id,
            pair[0].0.point_id
        );
    }
}

over_places!(
    of_two_commits_for_one_name_one_wins_and_the_other_loses_nothing,
    a_clock_that_steps_back_changes_names_and_no_order,
);
