//! restorefs: virtual-machine backups as a filesystem.
//!
//! A repository keeps restore points as chains of QCOW2 layers with JSON sidecars; this crate writes
//! them (over NBD, from files, through sessions), resolves them, and shows them as a directory tree.
//!
//! The modules stand on *floors*: a module imports only from lower floors, and neighbours on one
//! floor do not import each other. `tests/tidy.rs` enforces it; `src/ARCHITECTURE.md` explains it.
//! Here they are listed from the ground up.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("restorefs needs a 64-bit target: offsets and lengths are converted without loss");

// 0
pub mod error;
// 1
pub mod clock;
pub mod metrics;
pub mod types;
// 2
pub mod log;
pub mod sys;
// 3
pub mod block;
pub mod task;
pub mod tls;
// 4 (nbd: proto stands on 3, client on 4, server on 12)
pub mod access;
pub mod nbd;
pub mod qcow2;
pub mod store;
// 5
pub mod chain;
pub mod guest;
// 6
pub mod repo;
// 7
pub mod layer;
pub mod point;
// 8
pub mod ingest;
// 9
pub mod tree;
// 10
pub mod capture;
pub mod export;
pub mod jobs;
// 11
pub mod service;
// 12
pub mod control;
pub mod fuse;
pub mod http;
// 13
pub mod daemon;
pub mod map;
// 14
pub mod cli;
