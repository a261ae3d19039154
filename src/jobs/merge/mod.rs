//! Merging: layers that no point needs by themselves become part of the layer above them.
//!
//! A *plan* says which interval of a chain is worth it; a *build* makes the new layer beside the old ones, without any
//! lock; [`crate::repo::Owner::replace`] swaps it in. Readers and sessions go on meanwhile.
//!
//! # Invariants
//! - The content of every slot stays: the new layer is proved cluster by cluster against the sums of the old ones, and
//!   as a whole against the content root.
//! - A build that meets damage, is cancelled or comes too late is discarded; the old layers stay.

mod build;
mod mend;
mod options;
mod plan;
mod source;
mod work;

pub use build::{Build, build};
pub use mend::{Donor, Mend};
pub use options::MergeOptions;
pub use plan::{Gain, Interval, Reach, best, mergeable_bytes};
pub(in crate::jobs) use work::check_room;
pub use work::{Merged, Swap, Watch, make_full, merge_vm};
