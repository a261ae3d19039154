//! Crashes: after a crash at any moment, every listed point is whole and byte-right, every answered
//! commit is listed, and a session that was flushed resumes with what was flushed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::cast_possible_truncation, reason = "model disks are small")]

#[macro_use]
#[path = "../kit/pair.rs"]
mod pair;

mod copy;
mod cut;
mod forget;
mod history;
mod kill;
mod label;
mod life;
mod made;
mod merge;
mod poor;
mod power;
mod quiet;
mod volatile_pair;
