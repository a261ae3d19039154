//! Copying restore points to another repository: byte for byte, proved, and so that it can be interrupted.
//!
//! A *plan* says which points the target lacks, and which layers of each disk: down to the first slot that has equal content
//! there. The layers are written into a session at the target, without its lock; [`crate::repo::Owner::arrive`] publishes them.
//!
//! # Invariants
//! - Points go in their order, so that an interrupted copy leaves whole older points.
//! - Each cluster and each table is compared with the sums before it is written; the sums with their own hash, and with the
//!   content that the plan expects.
//! - The source is only read.

mod alive;
mod chain;
mod layer;
mod place;
mod plan;
mod record;
mod work;

pub use place::check_apart;
pub use plan::{Due, due};
pub use record::{Record, record};
pub use work::{Ends, PointReport, PointState, Route, VmReport, known_vms};
