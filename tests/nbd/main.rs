//! The NBD client and server against other implementations, and against peers that break the protocol.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod binding;
mod client;
mod context;
mod extended;
mod hostile;
#[path = "../kit/mod.rs"]
mod kit;
mod limit;
mod malformed;
mod raw;
mod server;
mod storm;
mod tls;
mod tls_peer;
mod tool;
mod world;
