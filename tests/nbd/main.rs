//! The NBD client and server against other implementations, and against peers that break the protocol.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod certificate;
mod client;
mod context;
mod extended;
mod hostile;
mod limit;
mod malformed;
#[path = "../cli/place.rs"]
#[expect(
    dead_code,
    reason = "what the program's own tests need is not all needed here"
)]
mod place;
mod raw;
mod server;
mod storm;
mod tls;
mod tls_peer;
mod tool;
mod world;
