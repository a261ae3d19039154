//! Policies: what is due of each VM, and whether what was promised is kept.
//!
//! [`Scene`] is what is known of a repository. [`Scene::plan`] and [`Scene::standings`] are pure functions of it and the present
//! time; a command carries the plan out.
//!
//! # Invariants
//! - What is due follows from the points, their copies and what came of earlier runs: a run that was missed is caught up once.
//! - A time in the future, as after a clock was set back, counts as no time: it puts nothing off.
//! - A VM to which two policies apply is forgotten by neither.

mod action;
mod copy_rule;
mod coverage;
mod facts;
mod plan;
mod report;
mod schedule;
mod standing;
mod terms;
#[cfg(test)]
mod tests;

pub use action::Action;
pub use copy_rule::copy_rule;
pub use coverage::{UNCOPIED_GO, check_overlap, spare_owed};
pub use facts::{PointFacts, Scene, Target, VmFacts};
pub use report::Report;
pub use schedule::Schedule;
pub use standing::{Amount, GRACE, Standing};
pub use terms::{CopyTerms, Terms};
