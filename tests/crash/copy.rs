//! Copying into a repository, cut short at every step: what is listed at the target reads as it does at the source, and the next copy
//! completes the rest and leaves nothing behind.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use restorefs::error::{Error, Result};
use restorefs::ingest::Engine;
use restorefs::jobs::copy::{Ends, PointState, Route, known_vms};
use restorefs::repo::arrive::Arrival;
use restorefs::repo::metadata::prove_chain;
use restorefs::repo::sidecar::index::PointEntry;
use restorefs::repo::{Ending, Owner, Repository};
use restorefs::store::{Key, Stage};
use restorefs::task::{Monitor, Pace};
use restorefs::types::{DiskName, PointName, VmName};

use crate::cut::{at_every_change, at_every_flush};
use crate::history::{Log, check, open_engine, run, vm};
use crate::pair::{Pair, Places};
use crate::volatile_pair::fresh;

const POINTS: usize = 4;

/// The owner of the target, in this process.
struct Direct<'a>(&'a Owner);

impl Ends for Direct<'_> {
    fn begin(&self, arrival: &Arrival) -> Result<PointName> {
        self.0.begin_arrival(arrival)
    }

    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry> {
        let published = self.0.arrive(vm, session)?;
        published.unsure.map_or(Ok(published.entry), Err)
    }

    fn abort(&self, vm: &VmName, session: &PointName, reason: &str) -> Result<()> {
        self.0.end_session(vm, session, &Ending::failed(reason))
    }

    fn hold(&self, _: &VmName, _: &PointEntry) -> Box<dyn Any> {
        Box::new(())
    }

    fn monitor(&self, _: &DiskName, _: u64) -> Result<Monitor> {
        Ok(Monitor::default())
    }

    fn now(&self) -> Timestamp {
        self.0.clock().now()
    }
}

/// A source whose chain has a hidden layer, and what is in its points.
fn source(seed: u64) -> (Pair, Log) {
    let pair = fresh(Places::One);
    let engine = open_engine(pair.sides()).unwrap();
    let mut log = Log::default();
    run(&engine, seed, POINTS, &mut log, &mut |_| ()).unwrap();
    let (name, _) = log.answered.remove(1);
    let done = engine
        .owner
        .forget_points(&vm(), &[PointName::new(name).unwrap()]);
    assert!(done.unwrap().kept.is_empty());
    (pair, log)
}

fn copy(source: &Pair, engine: &Engine) -> Result<()> {
    let (store, stage) = source.sides();
    let from = Arc::new(Repository::open_store(store, stage)?);
    let (vm, target) = (vm(), engine.owner.repository());
    let known: HashMap<_, _> = known_vms(target)?;
    let route = Route {
        source: &from,
        target,
        pace: &Pace::new(None),
        ends: &Direct(&engine.owner),
        vm: &vm,
        name: None,
        known: &known,
        chosen: &[],
        is_again: false,
        is_trial: false,
    };
    let (report, done) = route.copy();
    done?;
    let is_there = |state: PointState| matches!(state, PointState::Copied | PointState::Present);
    match report.points.iter().find(|point| !is_there(point.state)) {
        Some(point) => Err(Error::invalid(format!("{point:?}"))),
        None => Ok(()),
    }
}

/// The points that the target lists, as the log has them.
fn listed(engine: &Engine, log: &Log) -> Log {
    let index = engine.owner.vm_snapshot(&vm()).map(|entry| entry.index);
    let names: Vec<String> = index
        .iter()
        .flat_map(|index| &index.points)
        .map(|point| point.name.to_string())
        .collect();
    let answered = log.answered.iter().filter(|(name, _)| names.contains(name));
    let answered: Vec<_> = answered.cloned().collect();
    assert_eq!(answered.len(), names.len(), "{names:?}");
    Log {
        answered,
        committing: None,
        open: None,
    }
}

/// What a new process finds; returns how many points it lists.
fn look(left: &Pair, from: &Pair, log: &Log, is_answered: bool) -> usize {
    let engine = open_engine(left.sides()).unwrap();
    let found = listed(&engine, log);
    check(&engine, &found);
    // Older points come first.
    assert_eq!(
        found.answered.as_slice(),
        &log.answered[..found.answered.len()]
    );
    if is_answered {
        assert_eq!(found.answered.len(), log.answered.len());
    }
    drop(engine);
    let engine = open_engine(left.sides()).unwrap();
    copy(from, &engine).unwrap();
    let all = listed(&engine, log);
    assert_eq!(all.answered.len(), log.answered.len());
    check(&engine, &all);
    let entry = engine.owner.vm_snapshot(&vm()).unwrap();
    for point in &entry.index.points {
        for disk in &point.disks {
            let repository = engine.owner.repository();
            prove_chain(repository, &vm(), entry.vm.vm_id, &disk.layer).unwrap();
        }
    }
    // Both sides have the same layers, and no session is left.
    let names = |entries: Result<Vec<restorefs::store::Entry>>| {
        let entries = entries.unwrap_or_default().into_iter();
        entries.map(|entry| entry.name).collect::<Vec<String>>()
    };
    let layers = Key::parse("vms/web01/layers").unwrap();
    let points = Key::parse("vms/web01/points").unwrap();
    assert_eq!(
        names(left.store.list(&layers)),
        names(from.store.list(&layers))
    );
    assert_eq!(
        names(left.store.list(&points)),
        names(from.store.list(&points))
    );
    if left.stage().is_separate() {
        let stage = left.stage();
        assert_eq!(names(Stage::list(stage.as_ref(), &points)), [""; 0]);
        assert_eq!(names(Stage::list(stage.as_ref(), &layers)), [""; 0]);
    }
    found.answered.len()
}

fn power_loss_at_every_flush_loses_no_copied_point(places: Places) {
    let (from, log) = source(3);
    let mut found = Vec::new();
    at_every_flush(
        &fresh(places),
        |engine| copy(&from, engine),
        |left, is_answered| found.push(look(left, &from, &log, is_answered)),
    );
    found.sort_unstable();
    assert_eq!(
        (found.first(), found.last()),
        (Some(&0), Some(&log.answered.len()))
    );
}

fn whatever_change_is_the_last_the_next_copy_goes_on(places: Places) {
    let (from, log) = source(5);
    at_every_change(
        &fresh(places),
        |engine| copy(&from, engine),
        |left, is_answered| {
            look(left, &from, &log, is_answered);
        },
    );
}

over_memories!(
    power_loss_at_every_flush_loses_no_copied_point,
    whatever_change_is_the_last_the_next_copy_goes_on,
);
