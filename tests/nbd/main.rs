//! The NBD client and server against other implementations, and against peers that break the protocol.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod client;
mod hostile;
mod malformed;
mod raw;
mod server;
mod tool;
mod world;
