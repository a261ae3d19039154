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

mod completion;
mod disk;
mod record;
mod registry;
mod request;
mod session;

pub use completion::{Door, WriteGuard};
pub use disk::buffer::Reservation;
pub use disk::connection::Connection;
pub use disk::{DiskStats, DiskWriter};
pub use registry::flusher::Flusher;
pub use registry::keeper::Keeper;
pub use registry::{Change, Hook, Registry, Telling};
pub use request::origin::{Lookalike, Origin};
pub use request::{BeginRequest, CommitRequest, DiskRequest};
pub use session::attach::check_attached_size;
pub use session::copy;
pub use session::plan::DISKS_MAX;
pub use session::space::low_water_default;
pub use session::{Engine, Session, SessionState};
