//! Whether a directory can be a mountpoint.

use std::path::{Path, PathBuf};

use super::mountinfo::{self, TYPE};
use super::options::MountOptions;
use super::umount::{Pulse, clear, pulse};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// What is to be mounted.
pub(super) struct Subject<'a> {
    /// The repository's directory, where it has one.
    pub(super) repository: Option<&'a Path>,
    /// Whether whoever mounts has the repository's lock, and so is its only daemon: one that does not answer is not alive.
    pub(super) is_owner: bool,
    pub(super) options: &'a MountOptions,
}

/// Checks the mountpoint, takes away what a process that died has left there, and answers its path without symlinks.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `NotEmpty`; `InvalidInput` when it lies in the repository, or the repository in it; `Busy` when a
/// repository is mounted there already; `TimedOut` when what is mounted there does not answer; `PermissionDenied`, `Io`.
pub(super) fn prepare(mountpoint: &Path, subject: &Subject<'_>) -> Result<PathBuf> {
    clear_dead(mountpoint, subject)?;
    let resolved = std::fs::canonicalize(mountpoint)
        .or_io("cannot use the mountpoint")
        .at_path(mountpoint)?;
    if !resolved.is_dir() {
        return Err(Error::new(
            ErrorKind::NotADirectory,
            "the mountpoint is not a directory",
        )
        .at_path(mountpoint));
    }
    if let Some(root) = subject.repository {
        check_overlap(mountpoint, &resolved, root)?;
    }
    if mountinfo::at(&resolved)?
        .last()
        .is_some_and(|m| m.kind == TYPE)
    {
        return Err(
            Error::new(ErrorKind::Busy, "a repository is mounted there already")
                .at_path(mountpoint)
                .advise("unmount it first: restorefs umount DIR"),
        );
    }
    if !subject.options.nonempty {
        check_empty(mountpoint, &resolved)?;
    }
    Ok(resolved)
}

/// Takes away what a process of ours that died has left. What others have mounted is theirs, also when it does not answer; so is what the
/// daemon of another repository has.
fn clear_dead(mountpoint: &Path, subject: &Subject<'_>) -> Result<()> {
    let pulse = pulse(mountpoint);
    if pulse == Pulse::Alive {
        return Ok(());
    }
    // The path is walked without asking what is mounted at its end.
    let resolved = std::fs::canonicalize(mountpoint)
        .or_io("cannot use the mountpoint")
        .at_path(mountpoint)?;
    let mounts = mountinfo::at(&resolved)?;
    let root = subject.repository.and_then(|root| root.canonicalize().ok());
    let is_left = mounts.last().is_some_and(|mount| {
        let is_this = subject.is_owner && Some(&mount.source) == root.as_ref();
        mount.kind == TYPE && (pulse == Pulse::Dead || is_this)
    });
    if is_left {
        return clear(&resolved);
    }
    let what = match mounts.last() {
        Some(mount) => format!("what is mounted there ({}) does not answer", mount.kind),
        None => "the filesystem of the mountpoint does not answer".to_owned(),
    };
    Err(Error::new(ErrorKind::TimedOut, what)
        .at_path(mountpoint)
        .advise("see to it that it does, or unmount it first: umount -l DIR"))
}

/// Whether something is mounted at a path. What is mounted there is asked nothing.
#[must_use]
pub fn is_mountpoint(path: &Path) -> bool {
    let resolved = path.canonicalize();
    resolved.is_ok_and(|path| mountinfo::at(&path).is_ok_and(|mounts| !mounts.is_empty()))
}

/// Checks that a mountpoint does not lie in a repository, nor the repository in it. What cannot be resolved is not known to.
///
/// # Errors
/// `InvalidInput`.
pub fn check_apart(mountpoint: &Path, repository: &Path) -> Result<()> {
    match (mountpoint.canonicalize(), repository.canonicalize()) {
        (Ok(resolved), Ok(root)) => check_overlap(mountpoint, &resolved, &root),
        _ => Ok(()),
    }
}

fn check_overlap(mountpoint: &Path, resolved: &Path, root: &Path) -> Result<()> {
    let root = std::fs::canonicalize(root)
        .or_io("cannot resolve the repository's path")
        .at_path(root)?;
    let advice = "choose a mountpoint outside the repository";
    if resolved.starts_with(&root) {
        return Err(Error::invalid(format!(
            "the mountpoint lies in the repository {}: reading it would wait for itself",
            root.display()
        ))
        .at_path(mountpoint)
        .advise(advice));
    }
    if root.starts_with(resolved) {
        return Err(Error::invalid(format!(
            "the mountpoint would hide the repository {}",
            root.display()
        ))
        .at_path(mountpoint)
        .advise(advice));
    }
    Ok(())
}

fn check_empty(mountpoint: &Path, resolved: &Path) -> Result<()> {
    let mut entries = std::fs::read_dir(resolved)
        .or_io("cannot look into the mountpoint")
        .at_path(mountpoint)?;
    if entries.next().is_none() {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::NotEmpty, "the mountpoint is not empty")
            .at_path(mountpoint)
            .advise("what is in it would be hidden; -o nonempty mounts all the same"),
    )
}
