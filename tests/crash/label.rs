//! Changing the labels of a point, cut short at every step: what was answered is in the state and in the index, and a repeated change
//! brings both to the same.

use restorefs::error::Result;
use restorefs::ingest::Engine;
use restorefs::repo::LabelChange;
use restorefs::repo::selector::Which;
use restorefs::repo::sidecar::index::PointEntry;

use crate::cut::{at_every_change, at_every_flush};
use crate::history::{Log, check, open_engine, run, vm};
use crate::pair::{Pair, Places};
use crate::volatile_pair::fresh;

/// A repository with two points, whose states have what probing found.
fn prepared(places: Places) -> (Pair, Log) {
    let pair = fresh(places);
    let engine = open_engine(pair.sides()).unwrap();
    let mut log = Log::default();
    run(&engine, 3, 2, &mut log, &mut |_| ()).unwrap();
    for point in &engine.owner.vm_snapshot(&vm()).unwrap().index.points {
        let volumes = serde_json::json!({ "of": point.name });
        engine.owner.keep_volumes(&vm(), point, volumes).unwrap();
    }
    (pair, log)
}

fn label(engine: &Engine) -> Result<PointEntry> {
    let change = LabelChange {
        set: [("release".to_owned(), "1.2".to_owned())].into(),
        kept: Some(true),
        ..LabelChange::default()
    };
    engine.owner.label_point(&vm(), &Which::Latest(0), &change)
}

/// What a new process finds; answers whether the index has the labels.
fn look(pair: &Pair, log: &Log, was_answered: bool) -> bool {
    let engine = open_engine(pair.sides()).unwrap();
    let owner = &engine.owner;
    let labelled = || {
        let index = owner.repository().index(&vm()).unwrap();
        let point = index.latest().unwrap().clone();
        let state = owner.repository().state(&vm(), &point).unwrap();
        assert!(state.volumes.is_some());
        assert_eq!(owner.index(&vm()).unwrap().points, index.points);
        assert_eq!(point.tags.is_empty(), !point.kept);
        assert_eq!(state.tags.is_empty(), !state.kept);
        (state.kept, point.kept)
    };
    let (in_state, in_index) = labelled();
    // The state is written first.
    assert!(in_state || !in_index);
    assert!(in_index || !was_answered);
    label(&engine).unwrap();
    assert_eq!(labelled(), (true, true));
    let log = Log {
        answered: log.answered.clone(),
        committing: None,
        open: None,
    };
    check(&engine, &log);
    in_index
}

fn power_loss_at_every_flush_loses_no_label_that_was_answered(places: Places) {
    let (base, log) = prepared(places);
    at_every_flush(&base, label, |left, answered| {
        look(left, &log, answered);
    });
}

fn whatever_change_is_the_last_a_repeated_one_completes_it(places: Places) {
    let (base, log) = prepared(places);
    let mut seen = [0, 0];
    let changes = at_every_change(&base, label, |left, answered| {
        seen[usize::from(look(left, &log, answered))] += 1;
    });
    assert!(changes >= 2, "state and index");
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

over_memories!(
    power_loss_at_every_flush_loses_no_label_that_was_answered,
    whatever_change_is_the_last_a_repeated_one_completes_it,
);
