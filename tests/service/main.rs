//! The daemon as a service manager and administrators run it: configuration, readiness, reload, stop, and mounts that a helper makes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise and says what it skips; its numbers are small"
)]

mod attack;
#[path = "../nbd/certificate.rs"]
#[allow(dead_code, reason = "the tests of NBD need more of it than these")]
mod certificate;
mod configuration;
mod exchange;
mod follower;
mod helper;
mod house;
mod hung;
mod limit;
mod log;
mod operation;
#[path = "../cli/place.rs"]
#[allow(
    dead_code,
    reason = "the tests of the command line need more of it than these"
)]
mod place;
mod reload;
mod start;
mod stop;
mod stranger;
mod user;

/// Where `certificate` looks for it.
mod tool {
    pub(crate) use crate::place::has;
}
