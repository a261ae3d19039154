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
mod layer;
pub(in crate::jobs) mod piece;
mod plan;
mod sidecars;
mod subset;
mod survey;
mod verdict;
mod work;

pub use files::{Files, HarmedFile, HarmedPoint, name_files};
pub use layer::LayerFaults;
pub use plan::{Choice, VmParts};
pub use subset::Subset;
pub use work::{Keep, PointReport, Run, VmReport};
