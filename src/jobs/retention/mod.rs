//! Retention: which restore points of a VM stay, and why.
//!
//! [`plan`] is a pure function of the points, the rules and the present time. [`VmPlan`] makes it of what the repository has, and
//! tells how many bytes it frees; whoever owns the repository carries it out.
//!
//! # Invariants
//! - The rules are OR'ed: a point stays when one rule keeps it, and the plan names every rule that does.
//! - A rule that is added or made larger never removes a point from what is kept.
//! - What a plan keeps, the same rules keep again: a second plan at the same time forgets nothing.
//! - The order of the input does not matter: points are walked from the highest `seq`.

mod layers;
mod period;
mod plan;
mod reason;
mod rule;
mod span;
mod survey;
#[cfg(test)]
mod tests;

pub use period::Period;
pub use plan::{Candidate, Lock, Verdict, plan};
pub use reason::Reason;
pub use rule::{Owed, Rules, TagRule, Zone};
pub use span::Span;
pub use survey::{Choice, VmPlan};
