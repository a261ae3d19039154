//! The server's side of TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::directory::Directory;
use super::{provider, unusable};
use crate::error::{Result, ResultExt};
use crate::types::sync::RwLock;

const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";

/// Certificates of a server; clients must have one of the same authority. Clones share the
/// certificates, including those that are reloaded later.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<Arc<ServerConfig>>>);

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// Reads `ca-cert.pem`, `server-cert.pem`, `server-key.pem` and, if it exists, `ca-crl.pem`.
    ///
    /// # Errors
    /// `NotFound`, which names the missing file; `InvalidInput` when a file cannot be used; `Io`.
    pub fn load(directory: &Path) -> Result<Self> {
        let config = read(directory)?;
        Ok(Self(Arc::new(RwLock::new(Arc::new(config)))))
    }

    /// Reads the files again: connections that begin from now on use the new ones. After an error
    /// everything stays as it was.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn reload(&self, directory: &Path) -> Result<()> {
        let config = read(directory)?;
        *self.0.write() = Arc::new(config);
        Ok(())
    }

    /// The configuration for rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read())
    }
}

fn read(directory: &Path) -> Result<ServerConfig> {
    let files = Directory(directory);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(files.roots()?), provider())
            .with_crls(files.revoked()?)
            .allow_unknown_revocation_status()
            // An expired revocation list does not show which certificates have been revoked since.
            .enforce_revocation_expiration()
            .build()
            .map_err(|e| unusable("clients' certificates cannot be checked", e))
            .at_path(directory)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable("TLS cannot be used", e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(files.chain(CERTIFICATE)?, files.key(KEY)?)
        .map_err(|e| unusable("the server's certificate and key cannot be used", e))
        .at_path(directory)?;
    // Connections last for hours: resumption would gain nothing, so the server keeps no state for
    // it.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
