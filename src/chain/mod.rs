//! Chains: a disk of a restore point, resolved through all its layers, as one flat object.
//!
//! A read never walks the chain. The guest range that one L2 table covers (512 MiB) is resolved once, top
//! layer down, into extents that are kept in an LRU under one memory budget; a read is then one lookup and
//! one `pread` for each contiguous run, whatever the depth.
//!
//! # Invariants
//! - Extents are keyed by the ids of all layers of their chain ([`ChainId`]): a merge replaces layers below the
//!   top, too. When a layer has been replaced in its slot and is not in the trash any more, the chain is walked and
//!   resolved anew.
//! - A file in `cache/` is never rewritten under a reader.
//! - A backing name inside a layer opens only a slot of the same VM.
//!
//! # Concurrency
//! All reads take `&self`; locks are held for lookups only, never over I/O.

mod disk;
mod extent;
mod flat;
mod pool;
mod range;
mod runs;
mod walk;

pub use disk::{Disk, LayerHold};
pub use flat::FlatStore;
pub use pool::{LayerSource, Pool, PoolLimits};
pub use runs::{ChainRuns, Run, RunPlace};
pub use walk::{ChainId, Trail, settled};
