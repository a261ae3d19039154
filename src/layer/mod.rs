//! A layer that is being made: its tables, the leaves of what it holds, its sums, and its seal. No session is needed.
//!
//! A [`LayerDraft`] takes whole clusters: each is hashed, compared with the leaf that the disk has there, and then written or dropped. When
//! all are in, the regions that were touched are settled and the layer is sealed: published, with its sums beside it. A session keeps a
//! [`Journal`] of each change, so that it goes on after a crash; what builds a layer in one go keeps none (`()`).
//!
//! # Invariants
//! - The page of a touched region holds the leaf of each cluster as the disk has it now; [`UNKNOWN`] stands for a cluster whose content
//!   has not been hashed since it may have changed.
//! - A cluster equal to the base's is not in the sealed layer; the leaf of every held cluster is the hash of what the layer holds.
//! - No base is read: comparing takes leaves alone.
//!
//! # Concurrency
//! Any number of threads may write; the caller sees to it that two writers of one cluster take turns, and that nobody writes while the
//! layer is settled and sealed. No mutex is held over I/O, but for the first touch of a page.

mod base;
mod doubt;
mod draft;
mod journal;
mod resume;
mod seal;
mod write;
mod zero;

pub use base::Base;
pub use draft::{LayerDraft, UNKNOWN};
pub use journal::{Change, Journal};
pub use seal::SealedLayer;
