//! The policies of a repository: `policies/<name>.json`, what came of their runs, and the machine that runs them.
//!
//! # Invariants
//! - Only the owner writes these files, each as a whole; anybody reads them.
//! - A policy that cannot be read is an error of its own, and hides no other.

mod change;
mod load;

pub use change::PolicyChange;
pub use load::StoredPolicy;
