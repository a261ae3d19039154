//! Verifying: proves that every layer that a point needs is there, and is what was committed.
//!
//! # Invariants
//! - A layer is read once, however many points need it.
//! - A run only reads. Results go to the owner of the lock, which keeps them.
//! - Damage never ends a run: it is found, told and passed.

mod cover;
mod data;
mod fault;
mod files;
mod keeper;
mod layer;
mod outcome;
pub(in crate::jobs) mod piece;
mod plan;
mod sidecars;
mod subset;
mod survey;
mod verdict;
mod watched;
mod work;

pub use files::{Files, HarmedFile, HarmedPoint, name_files};
pub use keeper::Keeper;
pub use layer::LayerFaults;
pub use outcome::points_in_short;
pub use plan::{Choice, VmParts};
pub use subset::Subset;
pub use watched::Watched;
pub use work::{Keep, PointReport, Run, VmReport};
