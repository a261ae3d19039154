//! The configuration of a daemon: what it serves, and how.
//!
//! # Invariants
//! - A file with a mistake is refused as a whole: nothing of it is used.
//! - All mistakes are reported at once.

mod check;
pub mod crawler;
mod file;
mod resolve;

pub use check::{check, check_names, check_served_names};

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access::default_file;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::fuse::MountOptions;
use crate::guest::worker::Isolation;
use crate::http::check_hosts;
use crate::log::LogOptions;
use crate::nbd::server::ServerLimits;
use crate::repo::Repository;
use crate::repo::register::{Register, Registered};
use crate::service::DEFAULT_NAME;
use crate::types::{Memory, RepositoryId, RepositoryName};

/// The default time that writers may continue when the daemon is stopped.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// LIMIT: bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The memory budget of the caches of all repositories.
    pub memory: Memory,
    /// How long writers may continue when the daemon is stopped.
    pub stop_timeout: Duration,
    /// The options of the log.
    pub log: LogOptions,
    /// The file of the access table; without one, the default file is used as soon as it is there.
    pub access: Option<PathBuf>,
    /// The file of the audit log, beside the log.
    pub audit: Option<PathBuf>,
    /// The HTTP server.
    pub http: HttpConfig,
    /// The served repositories.
    pub repositories: Vec<RepositoryConfig>,
}

/// The HTTP server of a daemon: API, web pages and metrics of all its repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// The TCP address; with port 0 the kernel chooses a free one.
    pub listen: Option<SocketAddr>,
    /// Unix sockets.
    pub sockets: Vec<PathBuf>,
    /// The directory of certificates (`server-cert.pem`, `server-key.pem`, and `ca-cert.pem` where clients may show one). Without it the
    /// address must be a loopback one.
    pub certificates: Option<PathBuf>,
    /// Names by which browsers call the server, beside its addresses.
    pub hosts: Vec<String>,
}

impl HttpConfig {
    /// Whether it names something on which to listen.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        self.listen.is_some() || !self.sockets.is_empty()
    }

    /// Refuses an address that others can reach without TLS, and names that are none.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn check(&self) -> Result<()> {
        check_hosts(&self.hosts)?;
        match self.listen {
            Some(address) if !address.ip().is_loopback() && self.certificates.is_none() => Err(
                Error::invalid(format!("{address} can be reached from elsewhere: HTTP needs TLS there"))
                    .advise("name the certificates: --tls-certificates DIR (http.tls_certificates in a configuration)"),
            ),
            _ => Ok(()),
        }
    }
}

/// A served repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// Its directory.
    pub path: PathBuf,
    /// Its entry in the register, when it is served by its name.
    pub named: Option<Registered>,
    /// Bytes that sessions must leave free on its filesystem; by default a fraction of the
    /// filesystem.
    pub low_water_bytes: Option<u64>,
    /// The isolation of the readers of guests' filesystems.
    pub isolation: Isolation,
    /// The mounts of its tree.
    pub mounts: Vec<MountConfig>,
    /// The NBD server of its disks.
    pub nbd: NbdConfig,
}

impl RepositoryConfig {
    /// Opens it.
    ///
    /// # Errors
    /// As [`Repository::open`] and [`Registered::open`].
    pub fn open(&self) -> Result<Repository> {
        match &self.named {
            Some(entry) => entry.open(),
            None => Repository::open(&self.path),
        }
    }

    /// The name under which it is served, which HTTP, the access table and the audit log know: the one in the register, else `default`.
    ///
    /// # Errors
    /// None that can happen: the default name is a name.
    pub fn served_name(&self, id: RepositoryId) -> Result<RepositoryName> {
        if let Some(named) = &self.named {
            return Ok(named.name.clone());
        }
        let register = Register::load().unwrap_or_else(|e| {
            tracing::warn!(error = %e.report(), "the repository's name is not known; it is served as {DEFAULT_NAME}");
            Register::default()
        });
        let mut entries = register.entries().iter();
        match entries.find(|entry| entry.id == id && entry.is_at(&self.path)) {
            Some(entry) => Ok(entry.name.clone()),
            None => RepositoryName::new(DEFAULT_NAME),
        }
    }
}

/// A mount of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    /// The mountpoint.
    pub at: PathBuf,
    /// The mount's options.
    pub options: MountOptions,
    /// The options as they were written.
    pub text: String,
}

/// The NBD server of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdConfig {
    /// Unix sockets, beside the one in the runtime directory.
    pub sockets: Vec<PathBuf>,
    /// The TCP address, if NBD is served over TCP as well.
    pub tcp: Option<TcpConfig>,
    /// Limits of connections.
    pub limits: ServerLimits,
}

/// The TCP address of NBD, and its access rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConfig {
    /// Address and port; with port 0 the kernel chooses a free one.
    pub address: SocketAddr,
    /// What TLS needs. Without it the address must be a loopback one, and every user of this
    /// machine may read everything.
    pub tls: Option<TlsConfig>,
}

/// What TLS needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The directory of certificates (`ca-cert.pem`, `server-cert.pem`, `server-key.pem`).
    pub certificates: PathBuf,
    /// An access table for the certificates of clients alone, in place of the daemon's.
    pub access: Option<PathBuf>,
}

impl TcpConfig {
    /// Combines the settings for TCP.
    ///
    /// # Errors
    /// `InvalidInput` when a setting is missing.
    pub fn new(
        address: SocketAddr,
        certificates: Option<PathBuf>,
        access: Option<PathBuf>,
        is_plain: bool,
    ) -> Result<Self> {
        let tls = match (certificates, access) {
            (Some(_) | None, Some(_)) | (Some(_), None) if is_plain => {
                return Err(Error::invalid(
                    "NBD over TCP is either plain, or has certificates",
                ));
            }
            (Some(certificates), access) => Some(TlsConfig {
                certificates,
                access,
            }),
            (None, _) if is_plain => None,
            (None, _) => {
                return Err(Error::invalid(
                    "NBD over TCP needs TLS: --tls-certificates is missing (nbd.tls_certificates in a configuration)",
                )
                .advise("on a loopback address --nbd-plain (plain = true) does without"));
            }
        };
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(
                Error::invalid(format!("{address} can be reached from elsewhere"))
                    .advise("NBD without TLS is for loopback addresses (127.0.0.1, [::1]) only"),
            );
        }
        Ok(Self { address, tls })
    }
}

impl Config {
    /// Loads a file. Missing settings are taken from `defaults`, without its repositories; readers
    /// run as in `isolation`.
    ///
    /// # Errors
    /// `InvalidInput`, which names all mistakes; `NotFound`, `PermissionDenied`, `LimitExceeded`,
    /// `Io`.
    pub fn load(path: &Path, defaults: &Self, isolation: &Isolation) -> Result<Self> {
        let mut text = String::new();
        let failed = "cannot read the configuration";
        let file = std::fs::File::open(path).or_io(failed).at_path(path)?;
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .or_io(failed)
            .at_path(path)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            let error = Error::new(ErrorKind::LimitExceeded, "the file has more than 1 MiB");
            return Err(error.at_path(path));
        }
        Self::parse(&text, defaults, isolation).at_path(path)
    }

    fn parse(text: &str, defaults: &Self, isolation: &Isolation) -> Result<Self> {
        resolve::resolve(file::File::parse(text)?, defaults, isolation).map_err(one)
    }

    /// Refuses TLS without an access table: no client could do anything.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn check_table(&self) -> Result<()> {
        let mut tls = self
            .repositories
            .iter()
            .filter_map(|one| one.nbd.tcp.as_ref()?.tls.as_ref());
        let file = default_file();
        if self.access.is_some() || file.exists() || tls.all(|tls| tls.access.is_some()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "NBD over TLS needs an access table: --access or --nbd-access (access or nbd.access in a configuration), or the file {}",
            file.display()
        ))
        .advise("write a file with [[access]] entries, see docs/access.md"))
    }

    /// The keys of `new` whose changes need a restart.
    #[must_use]
    pub fn restarts(&self, new: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut differs = |is: bool, key: String| {
            if is {
                keys.push(key);
            }
        };
        differs(self.memory != new.memory, "memory".to_owned());
        differs(self.access != new.access, "access".to_owned());
        differs(self.audit != new.audit, "audit".to_owned());
        differs(self.log.format != new.log.format, "log.format".to_owned());
        let place = |http: &HttpConfig| {
            let tls = http.certificates.is_some();
            (http.listen, http.sockets.clone(), tls, http.hosts.clone())
        };
        differs(place(&self.http) != place(&new.http), "http".to_owned());
        for old in &self.repositories {
            let name = |key: &str| format!("{}: {key}", old.path.display());
            let Some(new) = new.repositories.iter().find(|new| new.path == old.path) else {
                differs(true, name("repository removed"));
                continue;
            };
            differs(old.isolation != new.isolation, name("guest_isolation"));
            // A new mount needs no restart: it is mounted.
            for mount in old.mounts.iter().filter(|old| !new.mounts.contains(old)) {
                differs(true, name(&format!("mount {}", mount.at.display())));
            }
            differs(old.nbd.sockets != new.nbd.sockets, name("nbd.sockets"));
            let addresses =
                |nbd: &NbdConfig| nbd.tcp.as_ref().map(|tcp| (tcp.address, tcp.tls.is_some()));
            differs(
                addresses(&old.nbd) != addresses(&new.nbd),
                name("nbd.listen"),
            );
        }
        for new in &new.repositories {
            let is_new = self.repositories.iter().all(|old| old.path != new.path);
            differs(is_new, format!("{}: repository added", new.path.display()));
        }
        keys
    }
}

/// Combines several mistakes into one error.
fn one(mut mistakes: Vec<Error>) -> Error {
    if mistakes.len() == 1
        && let Some(only) = mistakes.pop()
    {
        return only.with_kind(ErrorKind::InvalidInput);
    }
    let all: Vec<String> = mistakes.iter().map(Error::report).collect();
    Error::invalid(format!("{} mistakes:\n  {}", all.len(), all.join("\n  ")))
}
