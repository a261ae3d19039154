//! Guests: partition tables and filesystems inside virtual disks, read by the daemon in user space.
//!
//! A reader answers in *plain data* ([`Entry`](fs::Entry), xattrs, runs), so that it can run in another process; the
//! bytes of plain runs are read from the chain by whoever asked, never through the reader.
//!
//! # Invariants
//! - Nothing read from a volume is believed: counts, depths and sizes are bounded, names are checked.
//! - *Unsupported* (with the feature's name) is not *damaged* (with place and cause).

mod bytes;
pub mod cache;
pub mod conformance;
pub mod ext;
pub mod fs;
mod lvm;
pub mod memory;
pub mod partition;
pub mod probe;
pub mod record;
pub mod recorded;
pub mod system;
pub mod volume;
pub mod worker;
