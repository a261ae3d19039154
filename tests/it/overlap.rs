//! What happens to a session while something else happens to it, or right after something that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use restorefs::block::ReadAt;
use restorefs::error::ErrorKind;
use restorefs::ingest::{
    BeginRequest, CommitRequest, DiskRequest, Registry, Session, SessionState, Telling,
};
use restorefs::repo::Ending;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::store::fault::{Faults, Moment};
use restorefs::types::{DiskName, VmName};

use crate::pair::{Pair, Places};
use crate::proof::prove_disk;
use crate::world::{World, note_write, open_engine, read_all};

const CLUSTER: u64 = 65_536;

fn vm() -> VmName {
    VmName::new("web01").unwrap()
}

fn disk(name: &str) -> DiskName {
    DiskName::new(name).unwrap()
}

fn request(disks: &[&str], source_bytes: u64) -> BeginRequest {
    let mut request = BeginRequest::new(vm());
    for name in disks {
        request.disks.push(DiskRequest {
            name: disk(name),
            source_bytes: Some(source_bytes),
            key: None,
            full: false,
        });
    }
    request
}

fn write_all(session: &Session, name: &str, fill: u8) {
    let writer = session.disk(&disk(name)).unwrap();
    let bytes = vec![fill; writer.size_bytes() as usize];
    writer.write(0, &bytes).unwrap();
    writer.set_finished(true);
}

fn prove(world: &World, point: &PointEntry, name: &str) -> Vec<u8> {
    let engine = world.engine();
    let sidecar = engine.owner.repository().point(&vm(), point).unwrap();
    prove_disk(engine, &vm(), point, sidecar.disk(&disk(name)).unwrap())
}

/// Once a session is gone from the disk its name is free, and while it was still being noted as ended another may have taken it: that
/// one was taken out of the table instead, and could be neither written, committed nor seen until the next start.
fn a_session_that_takes_a_name_at_once_stays_in_the_table(places: Places) {
    let world = World::over(places, 64 << 20);
    let sessions = Registry::resume(world.engine().clone()).unwrap();
    let mut named = request(&["vda"], CLUSTER);
    named.session = Some("again".parse().unwrap());
    for round in 0..300 {
        let first = sessions.begin(&named, Telling::Wait).unwrap();
        let name = first.name();
        let second = std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                loop {
                    if let Ok(session) = sessions.begin(&named, Telling::Wait) {
                        return session;
                    }
                }
            });
            sessions
                .end(&vm(), &name, &Ending::aborted(), Telling::Wait)
                .unwrap();
            next.join().unwrap()
        });
        let found = sessions.get(&vm(), &name);
        assert!(
            found.is_some_and(|found| Arc::ptr_eq(&found, &second)),
            "round {round}"
        );
        sessions
            .end(&vm(), &name, &Ending::aborted(), Telling::Wait)
            .unwrap();
    }
}

/// An abort did not wait for what was changing the session: the sidecar was written once more behind it, for layers that were gone, and
/// the VM had a session that could not go on.
fn an_aborted_session_does_not_come_back_by_a_change_that_was_under_way(places: Places) {
    for round in 0..200 {
        let world = World::over(places, 64 << 20);
        let session = Session::begin(world.engine(), &request(&["vda"], CLUSTER)).unwrap();
        let begun = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    let made = session.create_file(&disk(&format!("new{n}")), None);
                    let attached = session.attach(&format!("file{n}"), b"x");
                    begun.store(true, Ordering::SeqCst);
                    if made.is_err() && attached.is_err() {
                        break;
                    }
                }
            });
            while !begun.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            session.end(&Ending::aborted()).unwrap();
        });
        let repository = world.engine().owner.repository();
        let left = repository.session_names(&vm()).unwrap();
        assert!(left.is_empty(), "round {round}: {left:?}");
        let layers = restorefs::store::Key::parse("vms/web01/layers").unwrap();
        let layers = world.stage().list(&layers).unwrap();
        assert!(layers.is_empty(), "round {round}: {layers:?}");
        Session::begin(world.engine(), &request(&["vda"], CLUSTER)).unwrap();
    }
}

/// An abort that failed half-way has emptied layers already. The session is open again so that it can be aborted again, and it could be
/// committed: as a point without its content.
fn a_session_whose_abort_has_failed_is_never_committed(places: Places) {
    let begin = |faults: &Arc<Faults>, pair: &Pair, world: &World| {
        let engine = open_engine(pair.faulty(faults), &world.clock, 64 << 20).unwrap();
        let session = Session::begin(&engine, &request(&["vda", "vdb"], 4 * CLUSTER)).unwrap();
        write_all(&session, "vda", 1);
        write_all(&session, "vdb", 2);
        session.attach("vm.xml", b"<domain/>").unwrap();
        session
    };
    let world = World::over(places, 64 << 20);
    let faults = Faults::none();
    let pair = world.pair.snapshot();
    let session = begin(&faults, &pair, &world);
    let before = faults.changes();
    session.end(&Ending::aborted()).unwrap();
    let all = faults.changes();
    let mut failed = 0;
    for n in before..all {
        let pair = world.pair.snapshot();
        let session = begin(&Faults::fail_once(n, ErrorKind::Io), &pair, &world);
        if session.end(&Ending::aborted()).is_ok() {
            continue;
        }
        failed += 1;
        let error = session
            .commit(&CommitRequest::default(), &|| ())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "change {n}");
        session.end(&Ending::aborted()).unwrap();
        assert_eq!(session.state(), SessionState::Aborted);
    }
    assert!(failed >= 4, "{failed} of {before} to {all}");
}

/// Whether a disk is finished was asked once, before the disks were flushed: a client that began to write in between (a discard, which
/// reserves no buffer) had its first requests in the point, and the rest not.
fn a_client_that_begins_to_write_during_a_commit_is_not_half_in_it(places: Places) {
    let world = World::over(places, 64 << 20);
    let mut during = 0;
    // On a busy machine it takes a while until a client comes in between.
    for round in 0..250 {
        if round >= 40 && during > 0 {
            break;
        }
        let session =
            Session::begin(world.engine(), &request(&["vda", "vdb"], 512 * CLUSTER)).unwrap();
        let first = session.disk(&disk("vda")).unwrap();
        // Parts of clusters are completed by the flush, which takes a moment.
        for cluster in 0..250 {
            first
                .write(cluster * CLUSTER + 512, &[round + 1; 512])
                .unwrap();
        }
        first.set_finished(true);
        write_all(&session, "vdb", round + 1);
        let writer = session.disk(&disk("vdb")).unwrap();
        let connection = session.enter(&writer).unwrap();
        let (done, written) = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                while session.state() == SessionState::Open {
                    std::hint::spin_loop();
                }
                note_write(&connection, &writer).unwrap();
                writer.zero(0, CLUSTER).is_ok()
            });
            (
                session.commit(&CommitRequest::default(), &|| ()),
                client.join().unwrap(),
            )
        });
        drop(connection);
        match done {
            Ok(point) => {
                let found = read_all(&world.open(&vm(), &point, &disk("vdb")));
                assert!(found == vec![round + 1; found.len()], "round {round}");
            }
            Err(e) => {
                during += u32::from(written);
                assert_eq!(e.kind(), ErrorKind::Busy, "{}", e.report());
                session.end(&Ending::aborted()).unwrap();
            }
        }
        world.clock.advance(60);
    }
    assert!(during > 0, "no client came in between");
}

/// A disk has whole sectors, its file ends where its source does. What a client wrote behind the source's end showed up in the file when
/// that grew.
fn what_lies_in_the_last_sector_behind_the_end_is_zero_when_a_file_grows(places: Places) {
    let world = World::over(places, 64 << 20);
    for grown in [1010, 1024, 1030, 70_000] {
        let session = Session::begin(world.engine(), &request(&["vda"], 1000)).unwrap();
        let writer = session.disk(&disk("vda")).unwrap();
        writer.write(0, &[7; 1024]).unwrap();
        writer.set_size(grown).unwrap();
        let mut expected = vec![7; 1000];
        expected.resize(grown.next_multiple_of(512) as usize, 0);
        let mut found = vec![9; expected.len()];
        writer.read_at(0, &mut found).unwrap();
        assert!(found == expected, "{grown}");
        writer.set_finished(true);
        let mut again = request(&["vda"], grown);
        again.disks[0].full = true;
        let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
        assert!(prove(&world, &point, "vda") == expected, "{grown}");
        world.clock.advance(60);
        let owner = &world.engine().owner;
        let done = owner.forget_points(&vm(), &[point.name]).unwrap();
        assert!(done.kept.is_empty(), "{:?}", done.kept);
    }
}

/// What is renamed over a disk may be gone by the time that it is its turn. The disk was removed for it all the same, and the session
/// was committed without.
fn what_is_not_there_any_more_replaces_nothing(places: Places) {
    let world = World::over(places, 64 << 20);
    let session = Session::begin(world.engine(), &request(&["vda", "vdb"], CLUSTER)).unwrap();
    write_all(&session, "vda", 1);
    write_all(&session, "vdb", 2);
    let beside = session
        .create_file(&disk("vda"), Some(".vda.raw.x"))
        .unwrap();
    session.unlink(&beside).unwrap();
    let error = session.replace(&beside).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    let error = session.unlink(&beside).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
    assert!(prove(&world, &point, "vda") == vec![1; CLUSTER as usize]);
}

/// Killed at every step of making, replacing, removing: the session goes on, its disks are as before or as after, and the same can be
/// done again. A log that was made before a crash kept its name from the next disk of that number.
fn a_change_that_a_crash_cut_short_can_be_made_again(places: Places) {
    let world = World::over(places, 64 << 20);
    let first = Session::begin(world.engine(), &request(&["vda"], 3 * CLUSTER)).unwrap();
    write_all(&first, "vda", 9);
    first.commit(&CommitRequest::default(), &|| ()).unwrap();
    world.clock.advance(60);
    let begin = |faults: &Arc<Faults>, pair: &Pair| {
        let engine = open_engine(pair.faulty(faults), &world.clock, 64 << 20).unwrap();
        let session = Session::begin(&engine, &request(&["vda"], 3 * CLUSTER)).unwrap();
        write_all(&session, "vda", 1);
        session.flush().unwrap();
        session
    };
    let change = |session: &Arc<Session>| {
        session.make_full(&disk("vda"))?;
        let beside = session.create_file(&disk("vda"), Some(".vda.raw.x"))?;
        beside.write_growing(0, &[2; 70_000])?;
        beside.flush()?;
        session.replace(&beside)?;
        let other = session.create_file(&disk("vdb"), None)?;
        session.unlink(&other)
    };
    let faults = Faults::none();
    let pair = world.pair.snapshot();
    let session = begin(&faults, &pair);
    let before = faults.changes();
    change(&session).unwrap();
    let all = faults.changes();
    assert!(all > before + 20);
    for n in before..all {
        for moment in [Moment::Before, Moment::After] {
            let pair = world.pair.snapshot();
            let session = begin(&Faults::kill_at(n, moment), &pair);
            let name = session.name();
            // What fails last is a deletion, of what nobody names any more.
            let answered = change(&session).is_ok();
            // What is left, as a new process finds it.
            let pair = pair.snapshot();
            drop(session);
            let engine = open_engine(pair.sides(), &world.clock, 64 << 20).unwrap();
            let session = Session::resume(&engine, &vm(), &name).unwrap();
            let old = session.disk(&disk("vda")).unwrap();
            let bytes = read_all(old.as_ref());
            let is_old = bytes == vec![1; 3 * CLUSTER as usize];
            let is_new = old.source_bytes() == 70_000 && bytes[..70_000] == [2; 70_000];
            assert!(is_new || (is_old && !answered), "change {n} {moment:?}");
            for (temporary, left) in session.files() {
                if temporary.is_some() {
                    session.unlink(&left).unwrap();
                }
            }
            if let Ok(left) = session.disk(&disk("vdb")) {
                session.unlink(&left).unwrap();
            }
            change(&session).unwrap_or_else(|e| panic!("change {n} {moment:?}: {}", e.report()));
            let disks = session.disks();
            assert_eq!(disks.len(), 1);
            disks[0].set_finished(true);
            let point = session.commit(&CommitRequest::default(), &|| ()).unwrap();
            let sidecar = engine.owner.repository().point(&vm(), &point).unwrap();
            let found = prove_disk(&engine, &vm(), &point, sidecar.disk(&disk("vda")).unwrap());
            assert!(found[..70_000] == [2; 70_000]);
        }
    }
}

/// That a disk had been declared finished was in its log; that a client wrote it again was not, so that after a crash in the middle the
/// half-written disk could be committed.
fn a_finished_disk_that_is_written_again_is_not_finished_after_a_crash(places: Places) {
    let mut world = World::over(places, 64 << 20);
    let session = Session::begin(world.engine(), &request(&["vda"], 4 * CLUSTER)).unwrap();
    let name = session.name();
    write_all(&session, "vda", 1);
    session.flush().unwrap();
    drop(session);
    world.start();
    let session = Session::resume(world.engine(), &vm(), &name).unwrap();
    assert!(session.disk(&disk("vda")).unwrap().is_finished());
    let writer = session.disk(&disk("vda")).unwrap();
    let connection = session.enter(&writer).unwrap();
    note_write(&connection, &writer).unwrap();
    // In place, so that it may be there without any flush.
    writer.write(0, &[2; CLUSTER as usize]).unwrap();
    let left = world.pair.snapshot();
    drop((connection, writer, session));
    world.pair = left;
    world.start();
    let session = Session::resume(world.engine(), &vm(), &name).unwrap();
    let writer = session.disk(&disk("vda")).unwrap();
    assert!(read_all(writer.as_ref())[..4] == [2; 4]);
    assert!(!writer.is_finished());
    assert!(session.commit(&CommitRequest::default(), &|| ()).is_err());
}

/// A disk that was cut and whose commit failed late is taken back from its log, which names clusters beyond its present end.
fn a_disk_that_was_cut_survives_a_commit_that_failed(places: Places) {
    let world = World::over(places, 64 << 20);
    let begin = |faults: &Arc<Faults>, pair: &Pair| {
        let engine = open_engine(pair.faulty(faults), &world.clock, 64 << 20).unwrap();
        let session = Session::begin(&engine, &request(&["vda"], 12 * CLUSTER)).unwrap();
        write_all(&session, "vda", 1);
        session.flush().unwrap();
        let writer = session.disk(&disk("vda")).unwrap();
        writer.set_size(5 * CLUSTER + 100).unwrap();
        session
    };
    let faults = Faults::none();
    let pair = world.pair.snapshot();
    let session = begin(&faults, &pair);
    let before = faults.changes();
    session.commit(&CommitRequest::default(), &|| ()).unwrap();
    let all = faults.changes();
    let mut expected = vec![1; 5 * CLUSTER as usize + 100];
    expected.resize(expected.len().next_multiple_of(512), 0);
    let mut failed = 0;
    for n in before..all {
        let pair = world.pair.snapshot();
        let faults = Faults::fail_once(n, ErrorKind::NoSpace);
        let session = begin(&faults, &pair);
        if session.commit(&CommitRequest::default(), &|| ()).is_ok()
            || session.state() != SessionState::Open
        {
            continue;
        }
        let writer = session.disk(&disk("vda")).unwrap();
        if writer.is_unsure() {
            continue;
        }
        failed += 1;
        assert!(read_all(writer.as_ref()) == expected, "change {n}");
        writer.write(0, &[1; 512]).unwrap();
        let point = session
            .commit(&CommitRequest::default(), &|| ())
            .unwrap_or_else(|e| panic!("change {n}: {}", e.report()));
        assert_eq!(point.seq, 1);
    }
    assert!(failed > 5, "{failed} of {before} to {all}");
}

/// An attached file is renamed by copying it. What was written to the old one behind the copy's back was answered, and was nowhere.
fn what_is_written_to_an_attached_file_while_it_is_renamed_is_not_lost(places: Places) {
    let world = World::over(places, 64 << 20);
    let session = Session::begin(world.engine(), &request(&["vda"], CLUSTER)).unwrap();
    for round in 0..100 {
        session.create_attached("a").unwrap();
        session.resize_attached("a", 1 << 20).unwrap();
        let started = AtomicBool::new(false);
        let answered = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut at = 0;
                while session.write_attached("a", at, &[1]).is_ok() {
                    at += 1;
                    started.store(true, Ordering::SeqCst);
                }
                at
            });
            while !started.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            session.rename_attached("a", "b").unwrap();
            writer.join().unwrap()
        });
        let bytes = read_all(session.read_attached("b").unwrap().as_ref());
        let kept = bytes.iter().take_while(|byte| **byte == 1).count();
        assert_eq!(kept as u64, answered, "round {round}");
        session.remove_attached("b").unwrap();
    }
}

/// A disk that was declared unchanged could be committed with another size.
fn a_disk_that_was_resized_is_not_unchanged(places: Places) {
    let world = World::over(places, 64 << 20);
    let first = Session::begin(world.engine(), &request(&["vda"], CLUSTER)).unwrap();
    write_all(&first, "vda", 1);
    first.commit(&CommitRequest::default(), &|| ()).unwrap();
    world.clock.advance(60);
    let session = Session::begin(world.engine(), &request(&["vda"], CLUSTER)).unwrap();
    let unchanged = CommitRequest {
        unchanged: vec![disk("vda")],
        ..CommitRequest::default()
    };
    let writer = session.disk(&disk("vda")).unwrap();
    writer.set_size(2 * CLUSTER).unwrap();
    let error = session.commit(&unchanged, &|| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    writer.set_finished(true);
    session.commit(&CommitRequest::default(), &|| ()).unwrap();
}

over_memories!(
    a_session_that_takes_a_name_at_once_stays_in_the_table,
    an_aborted_session_does_not_come_back_by_a_change_that_was_under_way,
    a_session_whose_abort_has_failed_is_never_committed,
    a_client_that_begins_to_write_during_a_commit_is_not_half_in_it,
    what_lies_in_the_last_sector_behind_the_end_is_zero_when_a_file_grows,
    what_is_not_there_any_more_replaces_nothing,
    a_change_that_a_crash_cut_short_can_be_made_again,
    a_finished_disk_that_is_written_again_is_not_finished_after_a_crash,
    a_disk_that_was_cut_survives_a_commit_that_failed,
    what_is_written_to_an_attached_file_while_it_is_renamed_is_not_lost,
    a_disk_that_was_resized_is_not_unchanged,
);

// Without the one that begins hundreds of sessions: each costs many an fsync.
over_directories!(
    a_session_that_takes_a_name_at_once_stays_in_the_table,
    a_session_whose_abort_has_failed_is_never_committed,
    a_client_that_begins_to_write_during_a_commit_is_not_half_in_it,
    what_lies_in_the_last_sector_behind_the_end_is_zero_when_a_file_grows,
    what_is_not_there_any_more_replaces_nothing,
    a_change_that_a_crash_cut_short_can_be_made_again,
    a_finished_disk_that_is_written_again_is_not_finished_after_a_crash,
    a_disk_that_was_cut_survives_a_commit_that_failed,
    what_is_written_to_an_attached_file_while_it_is_renamed_is_not_lost,
    a_disk_that_was_resized_is_not_unchanged,
);
