//! A catalog that fails while its owner lives: commits go on, and it is brought up to date as soon as it can be written again.

use std::sync::Arc;

use restorefs::error::ErrorKind;
use restorefs::ingest::{BeginRequest, CommitRequest, DiskRequest, Engine, Session, SessionState};
use restorefs::repo::Ending;
use restorefs::store::fault::Faults;
use restorefs::types::{DiskName, VmName};

use crate::pair::Places;
use crate::world::{World, open_engine};

const MEMORY: u64 = 64 << 20;

fn commit(engine: &Engine, vm: &str) -> bool {
    let mut request = BeginRequest::new(VmName::new(vm).unwrap());
    let name = DiskName::new("vda").unwrap();
    request.disks.push(DiskRequest {
        name: name.clone(),
        source_bytes: Some(1 << 20),
        key: None,
        full: false,
    });
    let Ok(session) = Session::begin(engine, &request) else {
        return false;
    };
    let disk = session.disk(&name).unwrap();
    let written = disk.write(0, &[7; 65_536]);
    disk.set_finished(true);
    let _ = written.and_then(|()| session.commit(&CommitRequest::default(), &|| ()).map(drop));
    if session.state() == SessionState::Open {
        // What is left of it is not what this is about.
        let _ = session.end(&Ending::aborted());
    }
    matches!(session.state(), SessionState::Committed(_))
}

/// Whether catalog and `index.json` say what the owner knows.
fn agrees(engine: &Engine) -> bool {
    let owner = &engine.owner;
    owner.vm_names().iter().all(|vm| {
        let index = owner.vm_snapshot(vm).unwrap().index;
        let stored = owner.repository().stored_index(vm);
        let known = owner.catalog().index(vm).ok().flatten();
        stored.is_ok_and(|stored| stored.points == index.points)
            && known.is_some_and(|known| known.points == index.points)
    })
}

fn whatever_change_fails_the_catalog_is_right_again_without_a_restart(places: Places) {
    let mut world = World::over(places, MEMORY);
    assert!(commit(world.engine(), "web01"));
    world.clock.advance(60);
    world.engine = None;
    let run = |faults: &Arc<Faults>| {
        let sides = world.pair.snapshot().faulty(faults);
        let engine = open_engine(sides, &world.clock, MEMORY).unwrap();
        let before = faults.changes();
        let committed = commit(&engine, "web01");
        (engine, committed, before)
    };
    let none = Faults::none();
    let (engine, committed, before) = run(&none);
    assert!(committed && agrees(&engine) && !engine.owner.catalog().is_behind());
    let all = none.changes();
    drop(engine);
    let mut behind = 0;
    for n in before..all {
        let kind = [ErrorKind::NoSpace, ErrorKind::Io][n as usize % 2];
        let (engine, committed, _) = run(&Faults::fail_once(n, kind));
        let was_behind = !agrees(&engine);
        behind += u32::from(was_behind && committed);
        engine.owner.heal_catalog().unwrap();
        assert!(agrees(&engine), "change {n} of {before} to {all}");
        // And it is used as before.
        assert!(commit(&engine, "web01") && commit(&engine, "db01"), "{n}");
        assert!(
            agrees(&engine) && !engine.owner.catalog().is_behind(),
            "{n}"
        );
    }
    assert!(behind >= 2, "{behind} of {before} to {all}");
}

over_memories!(whatever_change_fails_the_catalog_is_right_again_without_a_restart,);
