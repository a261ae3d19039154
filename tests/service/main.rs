//! The daemon as a service manager and administrators run it: configuration, readiness, reload,
//! stop, and mounts made by a helper.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

mod access;
mod attack;
mod configuration;
mod exchange;
mod follower;
mod helper;
mod house;
mod hung;
#[path = "../kit/mod.rs"]
mod kit;
mod limit;
mod log;
mod operation;
mod reload;
mod start;
mod stop;
mod stranger;
mod user;
mod work;
