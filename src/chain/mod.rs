//! Chains: a disk of a restore point, resolved through all its layers, as one flat object.
//!
//! A read never walks the chain. The guest range that one L2 table covers (512 MiB) is resolved once, top
//! layer down, into extents that are kept in an LRU under one memory budget; a read is then one lookup and
//! one `pread` for each contiguous run, whatever the depth.
//!
//! # Invariants
//! - Extents are keyed by `layer_id`: when a layer file has been replaced in its slot, the next opening
//!   notices it, and the chain is resolved anew.
//! - A backing name inside a layer opens only a slot of the same VM.
//!
//! # Concurrency
//! All reads take `&self`; locks are held for lookups only, never over I/O.

mod disk;
mod extent;
mod flat;
mod pool;
mod range;

pub use disk::{Disk, LayerHold};
pub use flat::FlatStore;
pub use pool::{LayerSource, Pool, PoolLimits};
