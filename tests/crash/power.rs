//! Power loss at every flush: the machine stops there, and data that is not durable is kept, lost, torn or reordered.

use std::sync::Arc;

use restorefs::block::filter::Power;

use crate::history::{Log, check, open_engine, run};
use crate::pair::Places;
use crate::volatile_pair::{VolatilePair, fresh};

const POINTS: usize = 4;

/// Runs the history until the power goes off; answers the log and the store.
fn until_off(places: Places, power: &Arc<Power>, seed: u64) -> (Log, VolatilePair) {
    let store = VolatilePair::new(power, &fresh(places));
    let mut log = Log::default();
    let opened = open_engine(store.sides());
    if let Ok(engine) = opened {
        // It fails when the power goes; what counts is the log.
        let _ = run(&engine, seed, POINTS, &mut log, &mut |_| ());
    }
    (log, store)
}

fn seeds() -> u64 {
    std::env::var("RESTOREFS_CRASH_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3)
}

fn power_loss_at_every_flush_leaves_whole_points_and_all_answered_ones(places: Places) {
    for history in 0..3 {
        let steady = Power::steady();
        let (log, _) = until_off(places, &steady, history);
        assert_eq!(log.answered.len(), POINTS);
        let flushes = steady.flushes();
        assert!(flushes > 20, "{flushes} flushes");
        for at in 0..flushes {
            let power = Power::off_at(at);
            let (log, store) = until_off(places, &power, history);
            for seed in 0..seeds() {
                let left = store.after_power_loss(seed);
                let engine = match open_engine(left.sides()) {
                    Ok(engine) => engine,
                    Err(e) => panic!(
                        "after power loss at flush {at}, seed {seed}: {}",
                        e.report()
                    ),
                };
                let shown =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&engine, &log)));
                assert!(
                    shown.is_ok(),
                    "history {history}, power loss at flush {at} of {flushes}, seed {seed}"
                );
            }
        }
    }
}

over_memories!(power_loss_at_every_flush_leaves_whole_points_and_all_answered_ones);
