//! The NBD exports that a server names: which of them a client writes to, and how.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::nbd::proto::uri::{Address, TlsParameters, Uri};

/// How a client connects to the exports of a server.
#[derive(Debug)]
pub(super) struct Targets {
    /// Whether the server is on this machine.
    pub(super) is_here: bool,
    /// The directory with what TLS needs.
    pub(super) certificates: PathBuf,
}

impl Targets {
    /// The URI to write to. Of what the server names, address and export count; the server's certificate is always checked.
    ///
    /// # Errors
    /// `Unsupported` for a socket or a connection without TLS, where the server is not on this machine; `InvalidInput` for what is
    /// no URI.
    pub(super) fn uri(&self, named: &str) -> Result<Uri> {
        let uri: Uri = named.parse().map_err(|e: Error| {
            // The URI has the session's secret in it.
            Error::unsupported(format!(
                "the server names a target that cannot be used: {}",
                e.kind().name()
            ))
        })?;
        let is_loopback = match uri.address() {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
        };
        match (uri.tls(), uri.address()) {
            (Some(_), Address::Tcp { .. }) => Ok(uri.with_tls(TlsParameters {
                certificates: Some(self.certificates.clone()),
                hostname: None,
                is_verified: true,
            })),
            (None, _) if self.is_here && is_loopback => Ok(uri),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "the server names a target without TLS, or a socket of its own machine",
            )
            .advise("set nbd.listen, nbd.tls_certificates and nbd.access in its configuration")),
        }
    }

    pub(super) fn certificates(&self) -> &Path {
        &self.certificates
    }
}

#[cfg(test)]
mod tests {
    use super::Targets;
    use crate::error::ErrorKind;

    fn of(is_here: bool) -> Targets {
        Targets {
            is_here,
            certificates: "/etc/c".into(),
        }
    }

    #[test]
    fn certificates_are_decided_here() {
        for named in [
            "nbds://backup01/web01/s~t/vda",
            "nbds://backup01/web01/s~t/vda?tls-verify-peer=0&tls-hostname=evil&tls-certificates=/tmp",
        ] {
            for is_here in [false, true] {
                assert_eq!(
                    of(is_here).uri(named).unwrap().to_string(),
                    "nbds://backup01/web01/s~t/vda?tls-certificates=/etc/c"
                );
            }
        }
    }

    #[test]
    fn nothing_leaves_this_machine_without_tls() {
        for named in [
            "nbd://backup01/x",
            "nbd://192.0.2.7/x",
            "nbd+unix:///x?socket=/run/s",
            "nbds+unix:///x?socket=/run/s",
            "nbd://127.0.0.1/x",
        ] {
            let error = of(false).uri(named).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{named}");
        }
        for named in ["nbd+unix:///x?socket=/run/s", "nbd://127.0.0.1/x"] {
            assert_eq!(of(true).uri(named).unwrap().to_string(), named);
        }
        assert!(of(true).uri("nbd://backup01/x").is_err());
        let error = of(true).uri("http://secret/x").unwrap_err().report();
        assert!(!error.contains("secret"), "{error}");
    }
}
