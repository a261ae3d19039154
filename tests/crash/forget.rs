//! Forgetting a point, cut short at every step: the point is listed whole, or it is gone; all others are whole.

use restorefs::error::Result;
use restorefs::ingest::Engine;
use restorefs::store::{Key, Store};
use restorefs::types::{PointId, PointName};

use crate::cut::{at_every_change, at_every_flush};
use crate::history::{Log, check, open_engine, run, vm};
use crate::pair::{Pair, Places};
use crate::volatile_pair::fresh;

const POINTS: usize = 3;

/// A repository with points in one chain, each with a state, and what is in them.
fn prepared(places: Places, seed: u64) -> (Pair, Log) {
    let pair = fresh(places);
    let engine = open_engine(pair.sides()).unwrap();
    let mut log = Log::default();
    run(&engine, seed, POINTS, &mut log, &mut |_| ()).unwrap();
    for point in &engine.owner.vm_snapshot(&vm()).unwrap().index.points {
        let volumes = serde_json::json!({ "of": point.name });
        engine.owner.keep_volumes(&vm(), point, volumes).unwrap();
    }
    (pair, log)
}

fn forget(engine: &Engine, log: &Log, n: usize) -> Result<()> {
    let name = PointName::new(log.answered[n].0.as_str()).unwrap();
    let done = engine.owner.forget_points(&vm(), &[name])?;
    match done.kept.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    let entries = store.list(&Key::parse(prefix).unwrap()).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// What a new process finds when the `n`th point was to be forgotten; answers whether it is there.
fn look(pair: &Pair, log: &Log, n: usize) -> bool {
    let engine = open_engine(pair.sides()).unwrap();
    let owner = &engine.owner;
    let index = owner.vm_snapshot(&vm()).unwrap().index;
    let name = &log.answered[n].0;
    let is_listed = index.points.iter().any(|p| p.name.as_str() == name);
    let mut answered = log.answered.clone();
    if !is_listed {
        answered.remove(n);
    }
    check(
        &engine,
        &Log {
            answered,
            committing: None,
            open: None,
        },
    );
    // Whoever only reads sees the same.
    let read = owner.repository().index(&vm()).unwrap();
    assert_eq!(read.points, index.points);
    assert_eq!(
        owner.catalog().index(&vm()).unwrap().unwrap().points,
        index.points
    );
    for point in &index.points {
        let state = owner.repository().state(&vm(), point).unwrap();
        assert!(state.volumes.is_some(), "{} has lost its state", point.name);
    }
    // The last point's layer goes with it, those below others stay; nothing is deleted at once.
    let layers = names(pair.store.as_ref(), "vms/web01/layers");
    let kept = if !is_listed && n == POINTS - 1 {
        POINTS - 1
    } else {
        POINTS
    };
    let count = |ending: &str| layers.iter().filter(|name| name.ends_with(ending)).count();
    assert_eq!(
        (count(".qcow2"), count(".sums")),
        (kept, kept),
        "{layers:?}"
    );
    assert_eq!(
        names(pair.store.as_ref(), "vms/web01/state").len(),
        index.points.len()
    );
    if !is_listed {
        let trash = names(pair.store.as_ref(), "trash");
        let is_point = |name: &str| {
            let id = name.rsplit('.').next();
            id.is_some_and(|id| id.parse::<PointId>().is_ok())
        };
        assert!(trash.iter().any(|name| is_point(name)), "{trash:?}");
    }
    is_listed
}

fn power_loss_at_every_flush_leaves_the_point_whole_or_gone(places: Places) {
    let mut seen = [0, 0];
    for n in 0..POINTS {
        let (base, log) = prepared(places, n as u64);
        let work = |engine: &Engine| forget(engine, &log, n);
        let flushes = at_every_flush(&base, work, |left, answered| {
            let is_listed = look(left, &log, n);
            assert!(
                !(is_listed && answered),
                "answered, and the point is listed"
            );
            seen[usize::from(is_listed)] += 1;
        });
        assert!(flushes >= 3, "{flushes}");
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

fn whatever_change_is_the_last_the_point_is_whole_or_gone(places: Places) {
    for n in 0..POINTS {
        let (base, log) = prepared(places, 7);
        let work = |engine: &Engine| forget(engine, &log, n);
        at_every_change(&base, work, |left, answered| {
            let is_listed = look(left, &log, n);
            assert!(
                !(is_listed && answered),
                "answered, and the point is listed"
            );
        });
    }
}

over_memories!(
    power_loss_at_every_flush_leaves_the_point_whole_or_gone,
    whatever_change_is_the_last_the_point_is_whole_or_gone,
);
