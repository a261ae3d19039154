//! TLS for both sides: certificates in directories with QEMU's file names, and the identity of the
//! peer.
//!
//! # Invariants
//! - A server accepts no certificate that is not signed by its CA; only a web server accepts clients without one.
//! - Only the CA in the directory is trusted; the system's own list of authorities is not used.
//!
//! # Why
//! rustls with ring: it builds in seconds, without cmake. It has no pre-shared keys (TLS-PSK), so
//! this program has none.

mod client;
mod directory;
mod server;
mod subject;

pub use client::{ClientTls, default_directory};
pub use directory::CREDENTIALS;
pub use server::{Clients, ServerTls};
pub use subject::{common_names, names};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::error::{Error, ErrorKind};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// An error of a certificate or key that cannot be used.
fn unusable(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{what}: {error}"))
}
