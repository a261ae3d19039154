//! The system calls: the only module with `unsafe`, and the only one that makes durable changes.
//!
//! # Invariants
//! - Everything below a directory handle is reached without symlinks and magic links ([`beneath`]).
//! - A durable change is: temporary file, fsync, rename, fsync of the directory ([`durable`]).
//! - Operations that network filesystems may lack (renameat2 flags, reflink, the immutable flag, holes) are
//!   tried, never required. Each has a fallback here or yields `Unsupported`. [`refuse`] makes these calls
//!   fail on purpose, to test the fallbacks.

pub mod account;
pub mod append;
pub mod beneath;
pub mod child;
pub mod confine;
pub mod device;
pub mod direct;
pub mod durable;
pub mod flock;
pub mod hole;
pub mod host;
pub mod image_lock;
pub mod immutable;
pub mod inherit;
pub mod limit;
pub mod loop_device;
pub mod mounts;
pub mod pass;
pub mod place;
pub mod private_dir;
pub mod probe;
pub mod reflink;
pub mod refuse;
pub mod runtime_dir;
pub mod scratch;
pub mod shared_memory;
pub mod socket;
mod stat;
pub mod statfs;
pub mod trial;
pub mod writer;

pub use beneath::Dir;
