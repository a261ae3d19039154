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

/// Certificates of a server; clients must have one of the same authority. Clones share them: also those that are read later.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<Arc<ServerConfig>>>);

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// Reads `ca-cert.pem`, `server-cert.pem`, `server-key.pem` and, if it is there, `ca-crl.pem`.
    ///
    /// # Errors
    /// `NotFound` naming the file that is missing; `InvalidInput` when one cannot be used; `Io`.
    pub fn load(directory: &Path) -> Result<Self> {
        let config = read(directory)?;
        Ok(Self(Arc::new(RwLock::new(Arc::new(config)))))
    }

    /// Reads them again: connections that begin from now on are served with what is found. When something is wrong, all stays as it is.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn reload(&self, directory: &Path) -> Result<()> {
        let config = read(directory)?;
        *self.0.write() = Arc::new(config);
        Ok(())
    }

    /// As rustls takes it.
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
            // A list that nobody renews says nothing of what was taken back since.
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
    // Connections last for hours: nothing is gained by resuming one, and no state is kept for it.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
