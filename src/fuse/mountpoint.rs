//! Checks whether a directory can be a mountpoint.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::held::{Held, Pulse};
use super::held_path::{HeldPath, resolve};
use super::mountinfo::{self, TYPE, trusted};
use super::options::MountOptions;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The mount to make.
pub(super) struct Subject<'a> {
    /// The repository's directory, where it has one.
    pub(super) repository: Option<&'a Path>,
    /// Whether the mounting process holds the repository's lock. It is then the only daemon, and an existing
    /// mount that does not answer is dead.
    pub(super) is_owner: bool,
    pub(super) options: &'a MountOptions,
    /// Whether the mount is made by path, not on the held directory.
    pub(super) is_by_path: bool,
}

impl Subject<'_> {
    /// The users whose mounts are accepted as restorefs's own.
    fn users(&self) -> Vec<u32> {
        let owner = self.repository.and_then(|root| root.metadata().ok());
        trusted(owner.map(|metadata| metadata.uid()))
    }
}

/// Checks the mountpoint, removes a dead mount that an earlier process left there, and returns the path to
/// it.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `NotEmpty`; `InvalidInput` when it lies in the repository, or contains it;
/// `Busy` when a repository is mounted there already; `TimedOut` when the present mount does not answer;
/// `PermissionDenied`, also where other users can replace a component of the path; `Io`.
pub(super) fn prepare(mountpoint: &Path, subject: &Subject<'_>) -> Result<HeldPath> {
    let users = subject.users();
    // This comes before anything follows the path.
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

/// Removes a dead mount of restorefs. Mounts of other programs stay, even when they do not answer; so do
/// mounts of another repository's daemon. FUSE mounts of other users receive no request.
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
        "the filesystem that is mounted there ({}) does not answer",
        held.entry.kind
    );
    Err(silent(what, mountpoint))
}

/// Refuses a mountpoint in another user's mount.
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

/// Checks that the filesystem of a directory with no mount on it answers: its server may be away.
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

/// Whether a path is a mountpoint. It sends no request to the mount.
#[must_use]
pub fn is_mountpoint(path: &Path) -> bool {
    Held::at(path, &trusted(None)).is_ok_and(|held| held.is_some())
}

/// Checks that neither the mountpoint lies in the repository nor the repository in it. A path that cannot be
/// resolved passes.
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
            .advise("the mount would hide its files; -o nonempty mounts all the same"),
    )
}
