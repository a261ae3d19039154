//! Model tests: random operations against the product and against the simplest model of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::cast_possible_truncation, reason = "model disks are small")]

#[path = "../kit/chance.rs"]
mod chance;
#[macro_use]
#[path = "../kit/pair.rs"]
mod pair;

mod apart;
mod catalog;
mod change;
mod clean_end;
mod concurrent;
mod depth;
mod ending;
mod fault;
mod finished;
mod flip;
mod forget;
mod large;
mod layer;
mod merge;
mod model_chain;
mod model_session;
mod model_tree;
mod overlap;
mod part;
mod points;
mod proof;
mod race;
mod recovery;
mod restore;
mod session_log;
mod slow_begin;
mod verify;
mod whole_flip;
mod world;
