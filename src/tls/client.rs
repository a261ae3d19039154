//! The client's side of TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::directory::Directory;
use super::{provider, unusable};
use crate::error::{Error, Result, ResultExt};

const CERTIFICATE: &str = "client-cert.pem";
const KEY: &str = "client-key.pem";

/// The directory where libnbd looks for certificates by default: the system's for root, otherwise
/// one below the home directory.
#[must_use]
pub fn default_directory() -> PathBuf {
    let system = PathBuf::from("/etc/pki/libnbd");
    if rustix::process::geteuid().is_root() {
        return system;
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let own = home.map(|home| home.join(".pki/libnbd"));
    own.filter(|own| own.is_dir()).unwrap_or(system)
}

/// Certificates of a client, and its requirements for servers.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// Reads `ca-cert.pem`, and if they exist `client-cert.pem`, `client-key.pem` and `ca-crl.pem`.
    /// Without `is_verified` the client accepts any server, and nothing proves that it is the right
    /// one.
    ///
    /// # Errors
    /// `NotFound`, which names the missing file; `InvalidInput` when a file cannot be used; `Io`.
    pub fn load(directory: &Path, is_verified: bool) -> Result<Self> {
        let files = Directory(directory);
        let verifier: Arc<dyn ServerCertVerifier> = if is_verified {
            WebPkiServerVerifier::builder_with_provider(Arc::new(files.roots()?), provider())
                .with_crls(files.revoked()?)
                .allow_unknown_revocation_status()
                .enforce_revocation_expiration()
                .build()
                .map_err(|e| unusable("servers' certificates cannot be checked", e))
                .at_path(directory)?
        } else {
            Arc::new(Anybody(provider()))
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("TLS cannot be used", e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = if files.has(CERTIFICATE)? || files.has(KEY)? {
            config
                .with_client_auth_cert(files.chain(CERTIFICATE)?, files.key(KEY)?)
                .map_err(|e| unusable("the client's certificate and key cannot be used", e))
                .at_path(directory)?
        } else {
            config.with_no_client_auth()
        };
        Ok(Self(Arc::new(config)))
    }

    /// Begins TLS with a server, whose certificate must be for `host` (a name or an address).
    ///
    /// # Errors
    /// `InvalidInput` when `host` is neither.
    pub fn connect(&self, host: &str) -> Result<ClientConnection> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::invalid(format!(
                "\"{}\" is no name that a certificate could have",
                host.escape_debug()
            ))
            .advise("name it with tls-hostname=")
        })?;
        ClientConnection::new(Arc::clone(&self.0), name)
            .map_err(|e| unusable("TLS cannot be begun", e))
    }
}

/// Accepts any certificate, but still checks the signatures of the handshake.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
