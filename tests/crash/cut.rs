//! Work on a repository, cut short at every step of it.

use std::sync::Arc;

use restorefs::block::filter::Power;
use restorefs::error::Result;
use restorefs::ingest::Engine;
use restorefs::store::fault::{Faults, Moment};

use crate::history::open_engine;
use crate::pair::Pair;
use crate::volatile_pair::VolatilePair;

/// Cuts the power at every flush of `work`, and once after the last; `seen` gets what is left, in each of four outcomes, and
/// whether the work was answered. Returns the number of flushes.
pub(crate) fn at_every_flush<T>(
    base: &Pair,
    work: impl Fn(&Engine) -> Result<T>,
    mut seen: impl FnMut(&Pair, bool),
) -> u64 {
    let start = |power: &Arc<Power>| {
        let store = VolatilePair::new(power, &base.snapshot());
        (open_engine(store.sides()), store)
    };
    let steady = Power::steady();
    let (engine, _store) = start(&steady);
    let before = steady.flushes();
    work(&engine.unwrap()).unwrap();
    let all = steady.flushes();
    for at in before..all + 1 {
        let (engine, store) = start(&Power::off_at(at));
        let answered = work(&engine.unwrap()).is_ok();
        for seed in 0..4 {
            seen(&store.after_power_loss(seed), answered);
        }
    }
    all - before
}

/// Ends the process before and after every change that `work` makes; `seen` gets what is left, and whether the work was
/// answered. Returns the number of changes.
pub(crate) fn at_every_change<T>(
    base: &Pair,
    work: impl Fn(&Engine) -> Result<T>,
    mut seen: impl FnMut(&Pair, bool),
) -> u64 {
    let start = |faults: &Arc<Faults>| {
        let pair = base.snapshot();
        (open_engine(pair.faulty(faults)), pair)
    };
    let none = Faults::none();
    let (engine, _pair) = start(&none);
    let engine = engine.unwrap();
    let before = none.changes();
    work(&engine).unwrap();
    let all = none.changes();
    for at in before..all {
        for moment in [Moment::Before, Moment::After] {
            let (engine, pair) = start(&Faults::kill_at(at, moment));
            let answered = work(&engine.unwrap()).is_ok();
            seen(&pair.snapshot(), answered);
        }
    }
    all - before
}
