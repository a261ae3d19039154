//! The NBD client and server against other implementations, and against peers that break the protocol.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod client;
mod tool;
