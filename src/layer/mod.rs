//! A layer draft: the tables of a layer that is being written, the leaves of what it holds, its
//! sums, and its seal. It needs no session.
//!
//! A [`LayerDraft`] takes whole clusters, and parts of those whose rest it holds. It hashes each whole one,
//! compares it with the leaf that the disk has there, and then writes or drops it. After the last write the
//! touched regions are settled and the layer is sealed: published, with its sums beside it. A session keeps a
//! [`Journal`] of each change, so that it can resume after a crash; a builder that writes a layer in one go
//! keeps none (`()`).
//!
//! # Invariants
//! - The page of a touched region holds the leaf of each cluster as the disk has it now;
//!   [`UNKNOWN`] stands for a cluster that has not been hashed since its content may have changed.
//! - A cluster equal to the base's is not in the sealed layer; the leaf of every held cluster is
//!   the hash of what the layer holds.
//! - The base's content is never read: a comparison needs only its leaves.
//!
//! # Concurrency
//! Any number of threads may write. The caller ensures that two writers of one cluster take turns,
//! and that nobody writes while the layer is settled and sealed. No mutex is held over I/O, except
//! for the first access to a page.

mod base;
mod doubt;
mod draft;
mod journal;
mod part;
mod resume;
mod seal;
mod write;
mod zero;

pub use base::Base;
pub use doubt::UNKNOWN;
pub use draft::LayerDraft;
pub use journal::{Change, Journal};
pub use part::Part;
pub use seal::SealedLayer;
