//! Resolves the text of a configuration to values. A mistake is reported with its key.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::file;
use super::{Config, HttpConfig, MountConfig, NbdConfig, RepositoryConfig, TcpConfig};
use crate::error::{Error, Result};
use crate::fuse::MountOptions;
use crate::guest::worker::Isolation;
use crate::log::{LogFormat, LogOptions, check_level};
use crate::nbd::server::ServerLimits;
use crate::repo::register::{Register, Registered};
use crate::sys::socket::PATH_BYTES_MAX;
use crate::types::duration::parse_seconds;
use crate::types::{Memory, RepositoryName, size};

/// LIMIT: the maximum of connections that a configuration can allow.
const CONNECTIONS_MAX: u32 = 65_536;

/// Collects mistakes, so that all are reported at once.
#[derive(Default)]
struct Mistakes(Vec<Error>);

impl Mistakes {
    /// The value, or `None` after its mistake is recorded under `key`.
    fn take<T>(&mut self, key: &str, result: Result<T>) -> Option<T> {
        result.map_err(|e| self.note(key, &e)).ok()
    }

    fn note(&mut self, key: &str, error: &Error) {
        let noted = Error::invalid(format!("{key}: {}", error.what()));
        let noted = match &error.context().path {
            Some(path) => noted.at_path(path),
            None => noted,
        };
        self.0.push(match &error.context().advice {
            Some(advice) => noted.advise(advice.to_string()),
            None => noted,
        });
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            let error = Error::invalid("the path is not absolute").at_path(path);
            self.note(
                key,
                &error.advise("a daemon has no directory of its own: write it from / on"),
            );
        }
    }
}

/// A path in the form for comparison: without `.` and doubled slashes. [`super::check`] resolves
/// symlinks.
fn plain(path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.collect()
}

pub(super) fn resolve(
    file: file::File,
    defaults: &Config,
    isolation: &Isolation,
) -> std::result::Result<Config, Vec<Error>> {
    let mut mistakes = Mistakes::default();
    let memory = file
        .memory
        .and_then(|text| mistakes.take("memory", size::parse(&text)))
        .map_or(defaults.memory, Memory::new);
    let stop_timeout = file
        .stop_timeout
        .and_then(|text| mistakes.take("stop_timeout", parse_seconds(&text)))
        .map_or(defaults.stop_timeout, Duration::from_secs);
    for (key, path) in [("access", &file.access), ("audit", &file.audit)] {
        if let Some(path) = path {
            mistakes.absolute(key, path);
        }
    }
    let log = log(file.log, &defaults.log, &mut mistakes);
    let http = http(file.http, &mut mistakes);
    if file.repository.is_empty() {
        let error = Error::invalid("there is none");
        mistakes.note(
            "repository",
            &error.advise("write [[repository]] and path = \"DIR\" below it"),
        );
    }
    let mut repositories = Vec::new();
    for (n, written) in file.repository.into_iter().enumerate() {
        let mut key = format!("repository {}", n + 1);
        if let Some(path) = &written.path {
            key = format!("{key} ({})", path.display());
        } else if let Some(name) = &written.name {
            key = format!("{key} ({name})");
        }
        repositories.extend(repository(&key, written, isolation, &mut mistakes));
    }
    twice(&repositories, &http, &mut mistakes);
    if mistakes.0.is_empty() {
        Ok(Config {
            memory,
            stop_timeout,
            log,
            access: file.access,
            audit: file.audit,
            http,
            repositories,
        })
    } else {
        Err(mistakes.0)
    }
}

fn log(written: file::Log, defaults: &LogOptions, mistakes: &mut Mistakes) -> LogOptions {
    let level = written.level.unwrap_or_else(|| defaults.level.clone());
    mistakes.take("log.level", check_level(&level));
    let format = written
        .format
        .and_then(|text| mistakes.take("log.format", LogFormat::parse(&text)));
    LogOptions {
        level,
        format: format.unwrap_or(defaults.format),
    }
}

/// The directory of a repository, and its entry in the register when it is given by its name.
fn place(written: &file::Repository) -> Result<(PathBuf, Option<Registered>)> {
    match (&written.path, &written.name) {
        (Some(path), None) => Ok((path.clone(), None)),
        (None, Some(name)) => {
            let register = Register::load()?;
            let entry = register.require(&RepositoryName::new(name.as_str())?)?;
            Ok((entry.path.clone(), Some(entry.clone())))
        }
        (Some(_), Some(_)) => Err(Error::invalid("path and name are both there")
            .advise("write one of them: a name has its path in repositories.toml")),
        (None, None) => Err(Error::invalid("its path is missing")
            .advise("write path = \"DIR\", or name = \"NAME\" of a named repository")),
    }
}

fn repository(
    key: &str,
    written: file::Repository,
    isolation: &Isolation,
    mistakes: &mut Mistakes,
) -> Option<RepositoryConfig> {
    let (path, named) = mistakes.take(key, place(&written))?;
    mistakes.absolute(&format!("{key}: path"), &path);
    let low_water_bytes = written
        .low_water
        .and_then(|text| mistakes.take(&format!("{key}: low_water"), size::parse(&text)));
    let isolation = match written.guest_isolation.as_deref() {
        None => isolation.clone(),
        Some("thread") => Isolation::Thread,
        Some("process") => Isolation::of_this_program(),
        Some(other) => {
            let error = Error::invalid(format!("\"{other}\" is none of process, thread"));
            mistakes.note(&format!("{key}: guest_isolation"), &error);
            return None;
        }
    };
    let mut mounts = Vec::new();
    for mount in written.mount {
        let key = format!("{key}: mount {}", mount.at.display());
        mistakes.absolute(&key, &mount.at);
        let mut options = MountOptions::default();
        let known = options.parse(&mount.options);
        let possible = known.and_then(|()| options.is_writable(true));
        if mistakes.take(&key, possible).is_some() {
            mounts.push(MountConfig {
                at: plain(&mount.at),
                options,
                text: mount.options,
            });
        }
    }
    Some(RepositoryConfig {
        path: plain(&path),
        named,
        low_water_bytes,
        isolation,
        mounts,
        nbd: nbd(&format!("{key}: nbd"), written.nbd, mistakes)?,
    })
}

fn http(written: file::Http, mistakes: &mut Mistakes) -> HttpConfig {
    sockets("http", &written.sockets, mistakes);
    if let Some(path) = &written.tls_certificates {
        mistakes.absolute("http.tls_certificates", path);
    }
    let http = HttpConfig {
        listen: written.listen,
        sockets: written.sockets.iter().map(|path| plain(path)).collect(),
        certificates: written.tls_certificates,
        hosts: written.hosts,
    };
    mistakes.take("http", http.check());
    http
}

/// Checks the paths of Unix sockets.
fn sockets(key: &str, sockets: &[PathBuf], mistakes: &mut Mistakes) {
    let key = format!("{key}.sockets");
    for socket in sockets {
        mistakes.absolute(&key, socket);
        let length = socket.as_os_str().as_bytes().len();
        if length > PATH_BYTES_MAX {
            let error = Error::invalid(format!(
                "the socket's path has {length} bytes, {PATH_BYTES_MAX} are possible"
            ));
            mistakes.note(&key, &error.at_path(socket).advise("choose a shorter one"));
        }
    }
}

fn nbd(key: &str, written: file::Nbd, mistakes: &mut Mistakes) -> Option<NbdConfig> {
    let before = mistakes.0.len();
    sockets(key, &written.sockets, mistakes);
    for path in written.tls_certificates.iter().chain(&written.access) {
        mistakes.absolute(key, path);
    }
    let has_tcp_only =
        written.tls_certificates.is_some() || written.access.is_some() || written.plain;
    let tcp = match written.listen {
        Some(address) => mistakes.take(
            key,
            TcpConfig::new(
                address,
                written.tls_certificates,
                written.access,
                written.plain,
            ),
        ),
        None if has_tcp_only => {
            let error = Error::invalid(
                "tls_certificates, access and plain are for TCP, and listen is missing",
            );
            mistakes.note(key, &error);
            None
        }
        None => None,
    };
    let mut limits = ServerLimits::default();
    if let Some(text) = written.idle {
        let key = format!("{key}.idle");
        match mistakes.take(&key, parse_seconds(&text)) {
            Some(0) => mistakes.note(&key, &Error::invalid("a second or more is needed")),
            Some(seconds) => limits.idle_timeout = Duration::from_secs(seconds),
            None => {}
        }
    }
    for (name, written, limit) in [
        ("connections", written.connections, &mut limits.connections),
        (
            "export_connections",
            written.export_connections,
            &mut limits.export_connections,
        ),
    ] {
        match written {
            Some(count @ 1..=CONNECTIONS_MAX) => *limit = count,
            Some(count) => {
                let error =
                    Error::invalid(format!("{count} is not between 1 and {CONNECTIONS_MAX}"));
                mistakes.note(&format!("{key}.{name}"), &error);
            }
            None => {}
        }
    }
    (mistakes.0.len() == before).then_some(NbdConfig {
        sockets: written.sockets.iter().map(|path| plain(path)).collect(),
        tcp,
        limits,
    })
}

/// Reports duplicates of what must be unique: repositories, mountpoints, sockets, addresses.
fn twice(repositories: &[RepositoryConfig], http: &HttpConfig, mistakes: &mut Mistakes) {
    let mut seen = HashSet::new();
    let mut once = |what: &str, name: String| {
        if !seen.insert((what.to_owned(), name.clone())) {
            mistakes
                .0
                .push(Error::invalid(format!("{what} {name} is there twice")));
        }
    };
    for socket in &http.sockets {
        once("the socket", socket.display().to_string());
    }
    if let Some(address) = http.listen.filter(|address| address.port() != 0) {
        once("the address", address.to_string());
    }
    for repository in repositories {
        once("the repository", repository.path.display().to_string());
        for mount in &repository.mounts {
            once("the mountpoint", mount.at.display().to_string());
        }
        for socket in &repository.nbd.sockets {
            once("the socket", socket.display().to_string());
        }
        if let Some(tcp) = repository
            .nbd
            .tcp
            .as_ref()
            .filter(|tcp| tcp.address.port() != 0)
        {
            once("the address", tcp.address.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::daemon::config::{Config, HttpConfig, STOP_TIMEOUT};
    use crate::guest::worker::Isolation;
    use crate::log::LogOptions;
    use crate::types::Memory;

    fn defaults() -> Config {
        Config {
            memory: Memory::default(),
            stop_timeout: STOP_TIMEOUT,
            log: LogOptions::default(),
            access: None,
            audit: None,
            http: HttpConfig::default(),
            repositories: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        let text = r#"
            memory = "1G"
            stop_timeout = "90s"
            access = "/etc/restorefs/access.toml"
            audit = "/var/log/restorefs/audit.jsonl"
            [http]
            listen = "192.0.2.7:8420"
            tls_certificates = "/etc/restorefs/tls"
            hosts = ["backup01.example"]
            sockets = ["/run//restorefs/./http.sock"]
            [log]
            level = "restorefs::nbd=debug"
            format = "json"
            [[repository]]
            path = "/srv//repo/./x"
            low_water = "10G"
            [[repository.mount]]
            at = "/mnt/backups"
            options = "allow_other,umask=027,vm=web*"
            [repository.nbd]
            sockets = ["/run/restorefs/nbd.sock"]
            listen = "127.0.0.1:10809"
            plain = true
            idle = "2h"
            connections = 5
            export_connections = 3
        "#;
        let config = Config::parse(text, &defaults(), &Isolation::Thread).unwrap();
        assert_eq!(config.memory.bytes(), 1 << 30);
        assert_eq!(config.stop_timeout.as_secs(), 90);
        let named = |path: &Option<std::path::PathBuf>| path.clone().unwrap();
        assert!(named(&config.access).ends_with("access.toml"));
        assert!(named(&config.audit).ends_with("audit.jsonl"));
        let http = &config.http;
        assert_eq!(http.listen.unwrap().port(), 8420);
        assert_eq!(http.hosts, ["backup01.example"]);
        assert_eq!(http.sockets[0].to_str(), Some("/run/restorefs/http.sock"));
        let repository = &config.repositories[0];
        assert_eq!(repository.path.to_str(), Some("/srv/repo/x"));
        assert_eq!(repository.low_water_bytes, Some(10 << 30));
        assert!(repository.mounts[0].options.allow_other);
        assert_eq!(repository.mounts[0].options.vms, ["web*"]);
        let limits = repository.nbd.limits;
        assert_eq!((limits.connections, limits.export_connections), (5, 3));
        assert_eq!(limits.idle_timeout.as_secs(), 7200);
    }

    #[test]
    fn all_mistakes_are_told_at_once_by_their_keys() {
        let long = "x".repeat(108);
        let text = format!(
            r#"
            memory = "much"
            stop_timeout = "soon"
            access = "a.toml"
            audit = "b.jsonl"
            [http]
            listen = "0.0.0.0:8420"
            sockets = ["http.sock"]
            [log]
            format = "xml"
            [[repository]]
            path = "repo"
            [[repository.mount]]
            at = "mnt"
            options = "colour=blue"
            [[repository]]
            path = "/srv/a"
            guest_isolation = "vm"
            [[repository]]
            path = "/srv/b"
            [repository.nbd]
            sockets = ["/run/{long}"]
            listen = "192.0.2.1:10809"
            connections = 0
            idle = "0s"
        "#
        );
        let error = Config::parse(&text, &defaults(), &Isolation::Thread).unwrap_err();
        let message = error.report();
        for part in [
            "memory: ",
            "stop_timeout: ",
            "access: the path is not absolute",
            "audit: the path is not absolute",
            "http: 0.0.0.0:8420 can be reached from elsewhere",
            "http.sockets: the path is not absolute",
            "log.format: ",
            "repository 1 (repo): path: the path is not absolute",
            "mount mnt: the path is not absolute",
            "unknown mount option \"colour=blue\"",
            "guest_isolation: \"vm\"",
            "113 bytes, 107 are possible",
            "needs TLS",
            "nbd.connections: 0",
            "nbd.idle",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidInput);
    }

    #[test]
    fn nothing_can_be_there_twice() {
        for (text, what) in [
            (
                "[[repository]]\npath = \"/srv/a\"\n[[repository]]\npath = \"/srv/./a/\"",
                "the repository /srv/a is there twice",
            ),
            (
                "[[repository]]\npath=\"/a\"\nmount=[{at=\"/m\"},{at=\"/m/\"}]",
                "the mountpoint /m is there twice",
            ),
            ("memory = \"1G\"", "repository: there is none"),
            (
                "[[repository]]\nlow_water = \"1G\"",
                "repository 1: its path is missing",
            ),
        ] {
            let message = Config::parse(text, &defaults(), &Isolation::Thread)
                .unwrap_err()
                .report();
            assert!(message.contains(what), "{message}");
        }
    }
}
