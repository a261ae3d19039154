//! Checks whether this machine can serve a configuration, beyond what its text shows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Config, RepositoryConfig};
use crate::access::{Access, LiveAccess, default_file};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse;
use crate::tls::{Clients, ServerTls};
use crate::types::RepositoryName;

/// Checks everything that a daemon would use, and reports all mistakes. Changes nothing and takes
/// no lock.
///
/// # Errors
/// `InvalidInput`, which names all mistakes.
pub fn check(config: &Config) -> Result<()> {
    let mut mistakes: Vec<Error> = config.repositories.iter().flat_map(one).collect();
    mistakes.extend(gate(config));
    mistakes.extend(http(config));
    mistakes.extend(check_names(config).err());
    mistakes.extend(places(config));
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(super::one(mistakes))
}

/// Checks the access table and the place of the audit log.
fn gate(config: &Config) -> Vec<Error> {
    let mut mistakes: Vec<Error> = config.check_table().err().into_iter().collect();
    let table = match &config.access {
        Some(path) => LiveAccess::open(path, true),
        None => LiveAccess::open(&default_file(), false),
    };
    mistakes.extend(table.err());
    if let Some(path) = &config.audit {
        let is_other = std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file());
        if is_other {
            mistakes.push(Error::invalid("the audit log is not a regular file").at_path(path));
        } else if !path.parent().is_some_and(Path::is_dir) {
            let what = "the directory of the audit log is not there";
            mistakes.push(Error::invalid(what).at_path(path));
        }
    }
    mistakes
}

/// Checks what the HTTP server needs.
fn http(config: &Config) -> Vec<Error> {
    let http = &config.http;
    let mut mistakes: Vec<Error> = http.check().err().into_iter().collect();
    if let Some(certificates) = &http.certificates {
        mistakes.extend(ServerTls::load_for(certificates, Clients::Web).err());
    }
    mistakes.extend(missing_directories(&http.sockets));
    if http.is_served() {
        // One that cannot be opened is a mistake of its own.
        let names = config.repositories.iter().filter_map(|repository| {
            let id = repository.open().ok()?.format().repository_id;
            repository.served_name(id).ok()
        });
        mistakes.extend(check_served_names(&names.collect::<Vec<_>>()).err());
    }
    mistakes
}

/// Checks that HTTP does not serve two repositories under one name.
///
/// # Errors
/// `InvalidInput` with the name.
pub fn check_served_names(names: &[RepositoryName]) -> Result<()> {
    for (n, name) in names.iter().enumerate() {
        if names.iter().skip(n + 1).any(|other| other.same_as(name)) {
            return Err(Error::invalid(format!(
                "two repositories would be served as {name} over HTTP"
            ))
            .advise("give them names: restorefs repo add NAME PATH"));
        }
    }
    Ok(())
}

/// Sockets whose directory does not exist.
fn missing_directories(sockets: &[PathBuf]) -> impl Iterator<Item = Error> {
    let missing = |socket: &&PathBuf| !socket.parent().is_some_and(Path::is_dir);
    sockets
        .iter()
        .filter(missing)
        .map(|socket| Error::invalid("the directory of the socket is not there").at_path(socket))
}

/// Checks that no directory is listed under two names: the daemon would meet its own lock.
///
/// # Errors
/// `InvalidInput` with both names.
pub fn check_names(config: &Config) -> Result<()> {
    let mut real: HashMap<PathBuf, &Path> = HashMap::new();
    for repository in &config.repositories {
        if let Ok(path) = repository.path.canonicalize()
            && let Some(other) = real.insert(path, &repository.path)
        {
            return Err(Error::invalid(format!(
                "{} and {} are one repository",
                other.display(),
                repository.path.display()
            )));
        }
    }
    Ok(())
}

/// Finds mountpoints that would hide a repository or each other, or that lie in one: the running
/// daemon would refuse to mount them.
fn places(config: &Config) -> Vec<Error> {
    let mut mistakes = Vec::new();
    let mut real: Vec<(PathBuf, &Path)> = Vec::new();
    let mounts = config.repositories.iter().flat_map(|one| &one.mounts);
    for at in mounts.map(|mount| mount.at.as_path()) {
        let apart = |other: &RepositoryConfig| fuse::check_apart(at, &other.path).err();
        mistakes.extend(config.repositories.iter().filter_map(apart));
        let Ok(path) = fuse::resolve(at) else {
            continue;
        };
        for (other, name) in &real {
            let name = name.display();
            if path == *other {
                let what = format!("this mountpoint and {name} are one directory");
                mistakes.push(Error::invalid(what).at_path(at));
            } else if path.starts_with(other) || other.starts_with(&path) {
                let what = format!("of this mountpoint and {name} one lies in the other");
                mistakes.push(Error::invalid(what).at_path(at));
            }
        }
        real.push((path, at));
    }
    mistakes
}

fn one(repository: &RepositoryConfig) -> Vec<Error> {
    let mut mistakes = Vec::new();
    if let Err(error) = repository.open() {
        mistakes.push(match error.kind() {
            ErrorKind::NotFound | ErrorKind::NoRepository if repository.named.is_none() => {
                let advice = format!(
                    "make one with: restorefs init {}",
                    repository.path.display()
                );
                Error::invalid("there is no repository")
                    .at_path(&repository.path)
                    .advise(advice)
            }
            _ => error,
        });
    }
    for mount in &repository.mounts {
        // An existing mount is not accessed: it may be our own, or dead.
        if fuse::is_mountpoint(&mount.at) {
            continue;
        }
        match fuse::resolve(&mount.at) {
            Err(e) if e.kind() == ErrorKind::NotADirectory => mistakes
                .push(Error::invalid("the mountpoint is not a directory").at_path(&mount.at)),
            Err(e) if e.kind() == ErrorKind::NotFound => mistakes.push(
                Error::invalid("the mountpoint is not there")
                    .at_path(&mount.at)
                    .advise(format!("make it with: mkdir -p {}", mount.at.display())),
            ),
            // A user other than root may have no access.
            Err(e) if e.kind() == ErrorKind::Busy || rustix::process::geteuid().is_root() => {
                mistakes.push(e);
            }
            _ => {}
        }
    }
    mistakes.extend(missing_directories(&repository.nbd.sockets));
    if let Some(tls) = repository.nbd.tcp.as_ref().and_then(|tcp| tcp.tls.as_ref()) {
        mistakes.extend(ServerTls::load(&tls.certificates).err());
        let access = tls.access.as_ref();
        mistakes.extend(access.and_then(|path| Access::load(path).err()));
    }
    mistakes
}
