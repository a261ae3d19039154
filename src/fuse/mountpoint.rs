//! Whether a directory can be a mountpoint.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::held::{Held, Pulse};
use super::held_path::{HeldPath, resolve};
use super::mountinfo::{self, TYPE};
use super::options::MountOptions;
use super::umount::trusted;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// What is to be mounted.
pub(super) struct Subject<'a> {
    /// The repository's directory, where it has one.
    pub(super) repository: Option<&'a Path>,
    /// Whether whoever mounts has the repository's lock, and so is its only daemon: one that does not answer is not alive.
    pub(super) is_owner: bool,
    pub(super) options: &'a MountOptions,
    /// Whether it is mounted by path, and not on the directory that is held.
    pub(super) is_by_path: bool,
}

impl Subject<'_> {
    /// Whose mounts are of our own kind.
    fn users(&self) -> Vec<u32> {
        let owner = self.repository.and_then(|root| root.metadata().ok());
        trusted(owner.map(|metadata| metadata.uid()))
    }
}

/// Checks the mountpoint, takes away what a process that died has left there, and answers the way to it.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `NotEmpty`; `InvalidInput` when it lies in the repository, or the repository in it; `Busy` when a
/// repository is mounted there already; `TimedOut` when what is mounted there does not answer; `PermissionDenied`, also where others
/// can exchange what is on the way; `Io`.
pub(super) fn prepare(mountpoint: &Path, subject: &Subject<'_>) -> Result<HeldPath> {
    let users = subject.users();
    // Before anything follows the path.
    drop(HeldPath::walk(mountpoint, &users)?);
    clear_dead(mountpoint, subject)?;
    let way = HeldPath::walk(mountpoint, &users)?;
    way.check_place(&users).at_path(mountpoint)?;
    if subject.is_by_path {
        way.require_firm()?;
    }
    let resolved = way.path();
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
        check_empty(mountpoint, &way.place()?)?;
    }
    Ok(way)
}

/// Takes away what a process of ours that died has left. What others have mounted is theirs, also when it does not answer; so is what the
/// daemon of another repository has. Another user's FUSE mount is asked nothing.
fn clear_dead(mountpoint: &Path, subject: &Subject<'_>) -> Result<()> {
    let Some(held) = Held::at(mountpoint, &subject.users())? else {
        return check_answers(mountpoint, subject);
    };
    check_trusted(&held, mountpoint, subject)?;
    let root = subject.repository.and_then(|root| root.canonicalize().ok());
    let pulse = held.pulse();
    if pulse == Pulse::Alive {
        return Ok(());
    }
    let is_this = subject.is_owner && Some(&held.entry.source) == root.as_ref();
    if held.entry.kind == TYPE && (pulse == Pulse::Dead || is_this) {
        return held.clear().map(|_| ());
    }
    let what = format!(
        "what is mounted there ({}) does not answer",
        held.entry.kind
    );
    Err(silent(what, mountpoint))
}

/// Refuses a mount of another user.
fn check_trusted(held: &Held, mountpoint: &Path, subject: &Subject<'_>) -> Result<()> {
    if held.entry.is_trusted(&subject.users()) {
        return Ok(());
    }
    let what = format!(
        "another user has mounted something there ({})",
        held.entry.kind
    );
    Err(Error::new(ErrorKind::Busy, what)
        .at_path(mountpoint)
        .advise("choose another directory, or unmount it first: umount -l DIR"))
}

fn silent(what: String, mountpoint: &Path) -> Error {
    Error::new(ErrorKind::TimedOut, what)
        .at_path(mountpoint)
        .advise("see to it that it does, or unmount it first: umount -l DIR")
}

/// Whether the filesystem of a directory answers where nothing is mounted on it: its server may be away.
fn check_answers(mountpoint: &Path, subject: &Subject<'_>) -> Result<()> {
    let Some(held) = Held::around(mountpoint, &subject.users())? else {
        return Ok(());
    };
    check_trusted(&held, mountpoint, subject)?;
    match held.pulse() {
        Pulse::Alive => Ok(()),
        Pulse::Dead | Pulse::Silent => {
            let what = "the filesystem of the mountpoint does not answer".to_owned();
            Err(silent(what, mountpoint))
        }
    }
}

/// Whether something is mounted at a path. What is mounted there is asked nothing.
#[must_use]
pub fn is_mountpoint(path: &Path) -> bool {
    Held::at(path, &trusted(None)).is_ok_and(|held| held.is_some())
}

/// Checks that a mountpoint does not lie in a repository, nor the repository in it. What cannot be resolved is not known to.
///
/// # Errors
/// `InvalidInput`.
pub fn check_apart(mountpoint: &Path, repository: &Path) -> Result<()> {
    match (resolve(mountpoint), repository.canonicalize()) {
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
