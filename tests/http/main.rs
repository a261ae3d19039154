//! The HTTP door as clients use it: a real daemon over a real repository, asked by curl, by raw sockets, and by schemathesis.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise and prints what it skips; its numbers are small"
)]

mod access;
mod audit;
mod certificate;
mod curl;
mod guest;
#[path = "../kit/mod.rs"]
mod kit;
mod lease;
mod limit;
mod login;
mod mistake;
mod pair;
mod peer;
mod remote;
mod restart;
mod rot;
mod scene;
mod schemathesis;
mod scrape;
mod session;
mod several;
mod slow;
mod stream;
mod transfer;
mod whole;
mod wire;
