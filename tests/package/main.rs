//! What is shipped: units that systemd accepts and that give little away, and the Debian package.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "what is skipped is said")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "patterns are made of the low bytes of numbers"
)]

mod configuration;
mod deb;
#[path = "../cli/place.rs"]
#[expect(dead_code, reason = "the tests of the program need more of it")]
mod place;
mod unit;
