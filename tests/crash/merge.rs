//! Merging and making layers full, cut short at every step: every point reads as it was committed, each layer that is needed
//! is there with one file of sums, and nothing else is.

use restorefs::block::page::PageBudget;
use restorefs::error::Result;
use restorefs::ingest::Engine;
use restorefs::jobs::merge::{MergeOptions, make_full, merge_vm};
use restorefs::repo::Slot;
use restorefs::repo::chains::Chains;
use restorefs::repo::metadata::prove_chain;
use restorefs::repo::selector::Which;
use restorefs::store::{Key, Stage};
use restorefs::task::{Monitor, Pace};
use restorefs::types::PointName;

use crate::cut::{at_every_change, at_every_flush};
use crate::history::{Log, check, open_engine, run, vm};
use crate::pair::{Pair, Places};
use crate::volatile_pair::fresh;

const POINTS: usize = 5;

/// What is cut short.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// Two merges, one after the other, in one chain.
    Merge,
    /// The newest layer becomes full.
    Full,
}

/// A repository whose chain has hidden layers between two that are kept, and what is in its points.
fn prepared(places: Places, seed: u64) -> (Pair, Log) {
    let pair = fresh(places);
    let engine = open_engine(pair.sides()).unwrap();
    let mut log = Log::default();
    run(&engine, seed, POINTS, &mut log, &mut |_| ()).unwrap();
    for n in [3, 1] {
        let (name, _) = log.answered.remove(n);
        let name = PointName::new(name).unwrap();
        let done = engine.owner.forget_points(&vm(), &[name]).unwrap();
        assert!(done.kept.is_empty());
    }
    (pair, log)
}

fn work(engine: &Engine, work: Work) -> Result<()> {
    let options = MergeOptions {
        compact: true,
        low_water_bytes: 0,
        budget: PageBudget::new(1 << 20),
        pace: Pace::new(None),
    };
    let owner = &engine.owner;
    let (repository, watch) = (owner.repository(), |_: &Slot, _| Ok(Monitor::default()));
    let swap = |replacement: &_| owner.replace(replacement);
    let done = match work {
        Work::Merge => merge_vm(repository, &vm(), &options, &swap, &watch)?,
        Work::Full => make_full(
            repository,
            &vm(),
            &Which::Latest(0),
            &[],
            &options,
            &swap,
            &watch,
        )?,
    };
    assert!(done.layers > 0);
    Ok(())
}

fn names(files: Result<Vec<restorefs::store::Entry>>) -> Vec<String> {
    let entries = files.unwrap_or_default();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// What a new process finds; answers the number of layers.
fn look(pair: &Pair, log: &Log) -> usize {
    let engine = open_engine(pair.sides()).unwrap();
    let log = Log {
        answered: log.answered.clone(),
        committing: None,
        open: None,
    };
    check(&engine, &log);
    let (repository, entry) = (
        engine.owner.repository(),
        engine.owner.vm_snapshot(&vm()).unwrap(),
    );
    let chains = Chains::walk(repository, &vm(), &entry.index).unwrap();
    let mut needed: Vec<String> = chains
        .layers()
        .flat_map(|(slot, layer)| [slot.layer_file(), slot.sums_file(layer.layer.unwrap())])
        .collect();
    needed.sort();
    let prefix = Key::parse("vms/web01/layers").unwrap();
    assert_eq!(names(pair.store.list(&prefix)), needed);
    if pair.stage().is_separate() {
        let left = names(Stage::list(pair.stage().as_ref(), &prefix));
        assert!(left.is_empty(), "{left:?}");
    }
    for point in &entry.index.points {
        for disk in &point.disks {
            prove_chain(repository, &vm(), entry.vm.vm_id, &disk.layer).unwrap();
        }
    }
    // The index says of the chains what is there, also on disk.
    let stored = repository.stored_index(&vm()).unwrap();
    assert_eq!(stored, entry.index);
    for disk in stored.points.iter().flat_map(|point| &point.disks) {
        let depth = u32::try_from(chains.from(&disk.layer).len()).unwrap();
        assert_eq!(disk.depth, Some(depth), "{}", disk.layer);
    }
    let mut hidden: Vec<_> = chains
        .layers()
        .filter(|(_, layer)| !layer.is_named)
        .map(|(slot, layer)| (slot, layer.layer.unwrap()))
        .collect();
    hidden.sort();
    let repeated = stored.hidden.iter();
    let repeated: Vec<_> = repeated
        .map(|layer| (&layer.slot, layer.layer_id))
        .collect();
    assert_eq!(repeated, hidden);
    chains.layers().count()
}

fn power_loss_at_every_flush_keeps_every_point(places: Places) {
    for (seed, what) in [(1, Work::Merge), (2, Work::Full)] {
        let (base, log) = prepared(places, seed);
        let mut found = Vec::new();
        at_every_flush(
            &base,
            |engine| work(engine, what),
            |left, _| found.push(look(left, &log)),
        );
        found.sort_unstable();
        assert!(
            found.first() < found.last(),
            "{what:?}: no cut came before, or none after"
        );
    }
}

fn whatever_change_is_the_last_every_point_is_kept(places: Places) {
    for what in [Work::Merge, Work::Full] {
        let (base, log) = prepared(places, 7);
        at_every_change(
            &base,
            |engine| work(engine, what),
            |left, _| {
                look(left, &log);
            },
        );
    }
}

over_memories!(
    power_loss_at_every_flush_keeps_every_point,
    whatever_change_is_the_last_every_point_is_kept,
);
