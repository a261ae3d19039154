//! Certificates for tests, created by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::kit::need::has;

/// An authority, and directories with its certificates.
pub(crate) struct Authority {
    dir: TempDir,
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}

/// Whether openssl is available.
pub(crate) fn can_certify() -> bool {
    has("openssl")
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Self { dir };
        let (key, cert) = (authority.path("ca-key.pem"), authority.path("ca-cert.pem"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=backup CA",
            "-keyout",
            text(&key),
            "-out",
            text(&cert),
        ]);
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a directory with `<side>-cert.pem`, `<side>-key.pem` and `ca-cert.pem`; `more` are
    /// extensions or other arguments.
    fn directory(&self, name: &str, side: &str, subject: &str, more: &[&str]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::copy(self.path("ca-cert.pem"), path.join("ca-cert.pem")).unwrap();
        let (ca, ca_key) = (self.path("ca-cert.pem"), self.path("ca-key.pem"));
        let (key, cert) = (
            path.join(format!("{side}-key.pem")),
            path.join(format!("{side}-cert.pem")),
        );
        let mut arguments = vec![
            "req",
            "-x509",
            "-CA",
            text(&ca),
            "-CAkey",
            text(&ca_key),
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            subject,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            text(&key),
            "-out",
            text(&cert),
        ];
        arguments.extend(more);
        openssl(&arguments);
        path
    }

    /// Certificates for a server on this machine.
    pub(crate) fn server(&self) -> PathBuf {
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        self.directory(
            "server",
            "server",
            "/CN=localhost",
            &["-addext", names, "-days", "30"],
        )
    }

    /// Certificates for a client with that common name.
    pub(crate) fn client(&self, name: &str) -> PathBuf {
        let directory = format!("client-{name}");
        let subject = format!("/O=tests/CN={name}");
        self.directory(&directory, "client", &subject, &["-days", "30"])
    }

    /// Certificates for a client with names in subjectAltName (`DNS:a`, `URI:b`).
    pub(crate) fn client_with(&self, directory: &str, names: &str) -> PathBuf {
        let names = format!("subjectAltName={names}");
        self.directory(
            directory,
            "client",
            "/O=tests",
            &["-addext", &names, "-days", "30"],
        )
    }

    /// Certificates for a client with a common name and other names beside it.
    pub(crate) fn client_named(&self, directory: &str, common: &str, names: &str) -> PathBuf {
        let (subject, names) = (format!("/CN={common}"), format!("subjectAltName={names}"));
        self.directory(
            directory,
            "client",
            &subject,
            &["-addext", &names, "-days", "30"],
        )
    }

    /// Revokes the certificate of a client: puts a valid revocation list into the server's
    /// directory.
    pub(crate) fn revoke(&self, client: &Path, server: &Path) {
        self.revoke_until(client, server, &["-crldays", "30"]);
    }

    /// The same with an expired list.
    pub(crate) fn revoke_long_ago(&self, client: &Path, server: &Path) {
        let times = [
            "-crl_lastupdate",
            "20200101000000Z",
            "-crl_nextupdate",
            "20200201000000Z",
        ];
        self.revoke_until(client, server, &times);
    }

    fn revoke_until(&self, client: &Path, server: &Path, times: &[&str]) {
        let config = self.path("ca.cnf");
        let (database, number) = (self.path("index.txt"), self.path("number"));
        let lines = format!(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = {}\ncrlnumber = {}\ndefault_md = sha256\n\
             default_crl_days = 30\ncrl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid:always\n",
            text(&database),
            text(&number)
        );
        std::fs::write(&config, lines).unwrap();
        std::fs::write(&database, "").unwrap();
        std::fs::write(&number, "01\n").unwrap();
        let (ca, key) = (self.path("ca-cert.pem"), self.path("ca-key.pem"));
        let common = [
            "ca",
            "-config",
            text(&config),
            "-keyfile",
            text(&key),
            "-cert",
            text(&ca),
        ];
        let certificate = client.join("client-cert.pem");
        openssl(&[&common[..], &["-revoke", text(&certificate)]].concat());
        let list = server.join("ca-crl.pem");
        openssl(&[&common[..], &["-gencrl", "-out", text(&list)], times].concat());
    }

    /// Certificates for a client that are issued for servers.
    pub(crate) fn misused(&self, name: &str) -> PathBuf {
        let (subject, usage) = (format!("/CN={name}"), "extendedKeyUsage=serverAuth");
        self.directory(
            "misused",
            "client",
            &subject,
            &["-addext", usage, "-days", "30"],
        )
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
