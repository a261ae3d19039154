//! The client's side: backups whose repository is on another machine, reached by its daemon.
//!
//! # Invariants
//! - The token is sent in a header to the server that was named, over TLS, loopback or a Unix socket, and is in no address, log or error.
//! - Redirects are not followed, and proxies of the environment are not used.
//! - Of the server's NBD URIs only address and export count: which certificates are used and checked is decided here. Without TLS
//!   nothing is written to another machine.
//! - A request is repeated only when no answer came. Each one may be: sessions have names of their own.

mod address;
mod answer;
mod failure;
mod remote;
mod secret;
mod secure;
mod target;
mod unix;
mod wire;

pub use address::Address;
pub use remote::{Latest, Remote};
pub use secret::Secret;
