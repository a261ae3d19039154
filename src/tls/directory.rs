//! Certificates and keys in a directory, with the file names that QEMU, nbdkit and libnbd use.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::unusable;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Certificates of the trusted authorities.
pub(super) const CA: &str = "ca-cert.pem";
/// The certificate revocation list of the authorities; may be missing.
pub(super) const CRL: &str = "ca-crl.pem";

/// Permission bits of group and others. Members of the daemon's group are agents: with the key, an
/// agent could impersonate the daemon.
const OTHERS: u32 = 0o077;
/// The directory of systemd's credentials (`LoadCredential=`, systemd.exec(5)), which systemd
/// guards by access lists that look like a group's bits.
pub const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// LIMIT: bytes of one of the files.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A directory with certificates.
pub(super) struct Directory<'a>(pub(super) &'a Path);

impl Directory<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads the file's bytes; `None` when the file does not exist.
    fn find(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("cannot read", e).at_path(path)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX.saturating_add(1))
            .read_to_end(&mut bytes)
            .or_io("cannot read")
            .at_path(&path)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let error = Error::new(ErrorKind::LimitExceeded, "more than 1 MiB of certificates");
            return Err(error.at_path(path));
        }
        Ok(Some(bytes))
    }

    fn load(&self, name: &str) -> Result<Vec<u8>> {
        self.find(name)?.ok_or_else(|| {
            Error::not_found("there is no such file")
                .at_path(self.path(name))
                .advise("README, \"TLS\", says how certificates are made")
        })
    }

    fn parse<T: PemObject>(&self, name: &str, pem: &[u8]) -> Result<Vec<T>> {
        let all: std::result::Result<Vec<T>, _> = T::pem_slice_iter(pem).collect();
        let all = all
            .map_err(|e| unusable("not PEM", e))
            .at_path(self.path(name))?;
        if all.is_empty() {
            let error = Error::invalid("there is nothing of the sort in it");
            return Err(error.at_path(self.path(name)));
        }
        Ok(all)
    }

    /// The trusted authorities.
    pub(super) fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.parse::<CertificateDer<'_>>(CA, &self.load(CA)?)? {
            roots
                .add(certificate)
                .map_err(|e| unusable("the authority's certificate cannot be used", e))
                .at_path(self.path(CA))?;
        }
        Ok(roots)
    }

    /// The authorities' revocation lists.
    pub(super) fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>> {
        match self.find(CRL)? {
            Some(pem) => self.parse(CRL, &pem),
            None => Ok(Vec::new()),
        }
    }

    /// Whether the file exists.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.find(name)?.is_some())
    }

    /// A certificate chain, with the owner's certificate first.
    pub(super) fn chain(&self, name: &str) -> Result<Vec<CertificateDer<'static>>> {
        self.parse(name, &self.load(name)?)
    }

    /// A private key; refused when users other than its owner can use it.
    pub(super) fn key(&self, name: &str) -> Result<PrivateKeyDer<'static>> {
        let path = self.path(name);
        let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
        let is_credential = credentials.is_some_and(|directory| self.0.starts_with(directory));
        if let Ok(meta) = std::fs::metadata(&path)
            && meta.mode() & OTHERS != 0
            && !is_credential
        {
            let mode = meta.mode() & 0o7777;
            return Err(Error::invalid(format!(
                "others than its owner can use the private key (mode {mode:04o})"
            ))
            .at_path(&path)
            .advise(format!(
                "give it to the user of the daemon alone: chown restorefs {0} && chmod 400 {0}",
                path.display()
            )));
        }
        PrivateKeyDer::from_pem_slice(&self.load(name)?)
            .map_err(|e| unusable("there is no private key without a password in it", e))
            .at_path(self.path(name))
    }
}
