//! The daemon: one process that owns a repository and serves NBD, the mounted tree and the control
//! socket. Also the processes that own nothing and only show points: followers.

pub mod config;
mod disk_contexts;
mod exports;
pub mod follower;
mod gate;
pub mod interrupt;
mod likeness;
mod mount_table;
mod neighbours;
mod point;
pub mod probe;
pub mod serve;
mod served_repository;
mod signal;
mod supervisor;
mod web;
pub mod writer;
