//! The daemon: one process that owns a repository, with NBD, the mounted tree and the control socket. And processes that
//! own nothing, and show what there is: followers, and those of mapped disks.

pub mod config;
mod disk_contexts;
mod exports;
pub mod follower;
pub mod interrupt;
mod likeness;
pub mod map;
mod mount_table;
mod point;
pub mod probe;
pub mod serve;
mod served_repository;
mod signal;
mod supervisor;
