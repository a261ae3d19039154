//! Ingest: how bytes become restore points. One engine for every door (NBD, tree, import).
//!
//! A [`Session`] covers all disks of a VM. A door borrows a buffer with [`Session::reserve`],
//! receives into it and submits it. The disk's [`crate::layer::LayerDraft`] hashes each cluster in
//! place while it is in the CPU cache, compares it with the parent's leaf, and then writes or drops
//! it. It reads no parent and writes no metadata until the seal.
//!
//! # Invariants
//! - What [`Session::flush`] has answered survives a crash: the data is durable, then the records
//!   that name it.
//! - A cluster equal to the parent's is not in the sealed layer; the leaf of every held cluster is
//!   the hash of what the layer holds.
//! - A commit takes all disks or none; when it fails the session is open again.
//!
//! # Concurrency
//! Lock order: changing, attaching, session state, disk gate, cluster ranges, gather, pages,
//! records. Cluster ranges are held over I/O, because they make two writers of one cluster take
//! turns. Mutexes are not held over I/O, except for the first access to a page.

mod attach;
mod base;
pub mod begin;
mod buffer;
mod change;
mod change_id;
mod commit;
mod completion;
mod connection;
pub mod copy;
mod depth;
mod difference;
mod disk;
mod finish;
mod flush;
mod flusher;
mod gather;
mod keeper;
mod limit;
mod lookalike;
mod open;
mod origin;
mod parent;
mod plan;
mod range_lock;
mod read;
mod record;
mod registry;
mod request;
mod resume;
mod seal;
mod session;
mod space;
mod zero;

pub use attach::check_attached_size;
pub use buffer::Reservation;
pub use completion::{Door, WriteGuard};
pub use connection::Connection;
pub use disk::{DiskStats, DiskWriter};
pub use flusher::Flusher;
pub use keeper::Keeper;
pub use origin::{Lookalike, Origin};
pub use plan::DISKS_MAX;
pub use registry::{Change, Hook, Registry, Telling};
pub use request::{BeginRequest, CommitRequest, DiskRequest};
pub use session::{Engine, Session, SessionState};
pub use space::low_water_default;
