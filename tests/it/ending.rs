//! How sessions end: by idleness that no step of the wall clock makes, and with a line in the job history.

use std::ops::ControlFlow;
use std::sync::Arc;

use restorefs::ingest::{
    BeginRequest, CommitRequest, DiskRequest, Registry, Session, SessionState, Telling,
};
use restorefs::repo::{Ending, Job, JobResult};
use restorefs::store::Key;
use restorefs::store::fault::Faults;
use restorefs::types::{DiskName, VmName};

use crate::pair::Places;
use crate::world::{World, open_engine};

const DAY: i64 = 86_400;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn disk() -> DiskName {
    DiskName::new("vda").unwrap()
}

fn request(ttl_seconds: u64) -> BeginRequest {
    let mut request = BeginRequest::new(vm());
    request.ttl_seconds = ttl_seconds;
    request.disks.push(DiskRequest {
        name: disk(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    request
}

fn write(session: &Session, fill: u8) {
    let writer = session.disk(&disk()).unwrap();
    let mut reservation = session.reserve(&writer, 0, 1 << 20).unwrap();
    reservation.bytes_mut()[..65_536].fill(fill);
    reservation.submit().unwrap();
    writer.set_finished(true);
}

fn jobs(world: &World) -> Vec<Job> {
    let mut jobs = Vec::new();
    let repository = world.engine().owner.repository();
    repository
        .jobs(|job| {
            jobs.push(job);
            ControlFlow::Continue(())
        })
        .unwrap();
    jobs
}

fn a_clock_that_is_set_ends_no_session_and_keeps_none(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let session = sessions.begin(&request(3600), Telling::Wait).unwrap();
    for step in [30 * DAY, -60 * DAY] {
        world.clock.step(step);
        assert!(!session.is_expired(), "{step}");
        assert!(sessions.expire() && sessions.all().len() == 1);
    }
    world.clock.advance(3600);
    assert!(!session.is_expired());
    // A sign of life: the time counts from here.
    session.touch();
    world.clock.advance(3599);
    world.clock.step(-DAY);
    assert!(!session.is_expired());
    world.clock.advance(2);
    assert!(session.is_expired());
    assert_eq!(sessions.nearest_expiry(), Some(std::time::Duration::ZERO));
    assert!(sessions.expire() && sessions.all().is_empty());
    // Its space is free, the reason is kept, the next one begins.
    let layers = Key::parse("vms/web01/layers").unwrap();
    assert!(world.stage().list(&layers).unwrap().is_empty());
    let job = &jobs(&world)[0];
    assert_eq!(job.result, JobResult::Expired);
    assert!(job.reason.as_ref().unwrap().contains("3600 s"), "{job:?}");
    sessions.begin(&request(3600), Telling::Wait).unwrap();
}

fn after_a_restart_the_idle_time_begins_anew(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let session = Session::begin(world.engine(), &request(100)).unwrap();
    world.clock.advance(99);
    drop(session);
    world.start();
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    world.clock.advance(99);
    assert!(sessions.expire() && sessions.all().len() == 1);
    world.clock.advance(2);
    assert!(sessions.expire() && sessions.all().is_empty());
}

fn every_end_is_a_line_in_the_history(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let session = sessions.begin(&request(100), Telling::Wait).unwrap();
    write(&session, 7);
    let refused = CommitRequest {
        without: vec![disk()],
        ..CommitRequest::default()
    };
    // What does not end it is no line.
    assert!(
        sessions
            .commit(&vm(), &session.name(), &refused, Telling::Wait)
            .is_err()
    );
    assert!(jobs(&world).is_empty());
    let point = sessions
        .commit(
            &vm(),
            &session.name(),
            &CommitRequest::default(),
            Telling::Wait,
        )
        .unwrap();
    world.clock.advance(60);
    let second = sessions.begin(&request(100), Telling::Wait).unwrap();
    write(&second, 7);
    sessions
        .end(
            &vm(),
            &second.name(),
            &Ending::failed("no\nreason"),
            Telling::Wait,
        )
        .unwrap();
    let third = sessions.begin(&request(100), Telling::Wait).unwrap();
    sessions
        .end(&vm(), &third.name(), &Ending::aborted(), Telling::Wait)
        .unwrap();
    drop((session, second, third, sessions));
    // What a killed backup left is ended by the next owner.
    let mut killed = request(100);
    killed.resumable = false;
    drop(Session::begin(world.engine(), &killed).unwrap());
    world.start();

    let found = jobs(&world);
    let results: Vec<JobResult> = found.iter().map(|job| job.result).collect();
    let (failed, aborted) = (JobResult::Failed, JobResult::Aborted);
    assert_eq!(results, [failed, aborted, failed, JobResult::Committed]);
    assert_eq!(found[2].reason.as_deref(), Some("no\nreason"));
    // The same again was the parent's.
    assert_eq!(found[2].disks[0].stored_bytes, 0);
    assert_eq!(found[2].disks[0].equal_bytes, 1 << 20);
    let committed = &found[3];
    assert_eq!(committed.point.as_ref(), Some(&point.name));
    assert_eq!(committed.disks[0].stored_bytes, 65_536);
    assert_eq!(committed.disks[0].received_bytes, 1 << 20);
    assert!(committed.ended_at < found[2].ended_at);
}

fn a_history_that_cannot_be_written_fails_nothing(places: Places) {
    let world = World::over(places, 64 << 20);
    let count = |faults: &Arc<Faults>| {
        let pair = world.pair.snapshot();
        let engine = open_engine(pair.faulty(faults), &world.clock, 64 << 20).unwrap();
        let session = Session::begin(&engine, &request(100)).unwrap();
        write(&session, 1);
        let before = faults.changes();
        let done = session.commit(&CommitRequest::default(), &|| ());
        let all = faults.changes();
        let ended = matches!(session.state(), SessionState::Committed(_));
        assert!(ended || done.is_err());
        (before, all, ended, pair)
    };
    let (before, all, ended, _) = count(&Faults::none());
    assert!(ended);
    // Not `NoSpace`: where there is a reserve, that is made good.
    let kind = restorefs::error::ErrorKind::Io;
    let mut without = 0;
    for n in before..all {
        let (_, _, ended, pair) = count(&Faults::fail_once(n, kind));
        let written = pair.store.list(&Key::parse("jobs").unwrap()).unwrap();
        // A commit that was refused is not in the history; one that was done may be missing there, and nothing else is.
        assert!(ended || written.is_empty(), "change {n}");
        without += usize::from(ended && written.iter().all(|file| file.size_bytes == 0));
    }
    assert!(without >= 2, "{without} of {before} to {all}");
}

over_places!(
    a_clock_that_is_set_ends_no_session_and_keeps_none,
    after_a_restart_the_idle_time_begins_anew,
    every_end_is_a_line_in_the_history,
    a_history_that_cannot_be_written_fails_nothing,
);
