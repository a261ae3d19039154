//! The server's side of TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::directory::Directory;
use super::{provider, unusable};
use crate::error::{ErrorKind, Result, ResultExt};
use crate::types::sync::RwLock;

const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";

/// Which clients a server lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Those with a certificate of the authority in the directory.
    Certified,
    /// All, over HTTP/2 and HTTP/1.1; a certificate that they show must be of that authority. Without an authority in the directory
    /// none is asked for.
    Web,
}

/// Certificates of a server. Clones share them, including those that are reloaded later.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    clients: Clients,
}

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
        Self::load_for(directory, Clients::Certified)
    }

    /// The same for these clients.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn load_for(directory: &Path, clients: Clients) -> Result<Self> {
        let config = read(directory, clients)?;
        Ok(Self {
            config: Arc::new(RwLock::new(Arc::new(config))),
            clients,
        })
    }

    /// Reads the files again: connections that begin from now on use the new ones. After an error
    /// everything stays as it was.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn reload(&self, directory: &Path) -> Result<()> {
        let config = read(directory, self.clients)?;
        *self.config.write() = Arc::new(config);
        Ok(())
    }

    /// The configuration for rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read())
    }
}

/// What checks clients' certificates; `None` where no client is asked for one.
fn verifier(
    directory: &Path,
    clients: Clients,
) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>> {
    let files = Directory(directory);
    let roots = match (files.roots(), clients) {
        (Err(e), Clients::Web) if e.kind() == ErrorKind::NotFound => return Ok(None),
        (roots, _) => roots?,
    };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(files.revoked()?)
        .allow_unknown_revocation_status()
        // An expired revocation list does not show which certificates have been revoked since.
        .enforce_revocation_expiration();
    let builder = match clients {
        Clients::Certified => builder,
        Clients::Web => builder.allow_unauthenticated(),
    };
    let verifier = builder
        .build()
        .map_err(|e| unusable("clients' certificates cannot be checked", e))
        .at_path(directory)?;
    Ok(Some(verifier))
}

fn read(directory: &Path, clients: Clients) -> Result<ServerConfig> {
    let files = Directory(directory);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable("TLS cannot be used", e))?;
    let builder = match verifier(directory, clients)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(files.chain(CERTIFICATE)?, files.key(KEY)?)
        .map_err(|e| unusable("the server's certificate and key cannot be used", e))
        .at_path(directory)?;
    if clients == Clients::Web {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        return Ok(config);
    }
    // Connections last for hours: resumption would gain nothing, so the server keeps no state for
    // it.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
