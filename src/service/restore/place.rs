//! Checks of the names and directories that a restore may use.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::capture::watch::Watch;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::restore::target::refusal;
use crate::repo::Repository;
use crate::sys::beneath::{Access, Dir, Kind};
use crate::sys::durable::Replace;

/// Refuses a name that is taken. Only a regular file may be replaced.
///
/// # Errors
/// `AlreadyExists`; `IsADirectory`, `InvalidInput` for what is not a regular file; `Busy` when a
/// program writes the file; `Io`.
pub fn refuse_place(dir: &Dir, name: &OsStr, replace: Replace) -> Result<()> {
    let Some(stat) = dir.stat(name)? else {
        return Ok(());
    };
    let path = dir.path().join(name);
    if stat.kind != Kind::File {
        let kind = std::fs::symlink_metadata(&path)
            .or_io("cannot look at the target")
            .at_path(&path)?
            .file_type();
        return Err(refusal(kind).at_path(path));
    }
    match replace {
        Replace::Yes => refuse_written(dir, name),
        Replace::No => Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
            .at_path(path)
            .advise("name another, or use --force")),
    }
}

/// Refuses to replace a file that a program writes: a machine would continue with the file that has
/// lost its name, and everything that it writes would be gone when it ends.
fn refuse_written(dir: &Dir, name: &OsStr) -> Result<()> {
    // A file that cannot be opened cannot be checked; its directory's permissions decide whether it
    // may be replaced.
    let Ok(file) = dir.open_file(name, Access::Read) else {
        return Ok(());
    };
    refuse_used(&dir.path().join(name), &file, Used::Target)
}

/// What is not to be in use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Used {
    /// A file.
    Target,
    /// A device: the kernel does not report that a running machine has it open, or that a loop device over it is mounted.
    Device,
}

/// Refuses what another program writes.
///
/// # Errors
/// `Busy`; `Io`.
pub(super) fn refuse_used(path: &Path, file: &File, what: Used) -> Result<()> {
    let mut watch = Watch::default();
    let kept = file.try_clone().or_io("cannot keep the target")?;
    watch.add(path, Arc::new(kept))?;
    let Some(found) = watch.look()? else {
        return Ok(());
    };
    let (name, advice) = match what {
        Used::Target => ("target", "stop what writes it, or name another file"),
        Used::Device => ("device", "free it first, or use --force"),
    };
    let message = format!("the {name} is in use: {}", found.description);
    Err(Error::new(ErrorKind::Busy, message)
        .at_path(path)
        .advise(advice))
}

/// Refuses to restore into the repository: a file there could take the place of one of the
/// repository's files.
///
/// # Errors
/// `InvalidInput`.
pub fn refuse_repository(repository: &Repository, directory: &Path) -> Result<()> {
    let root = repository.store().local_root();
    let (Some(root), Some(there)) = (
        root.and_then(|root| root.canonicalize().ok()),
        directory.ancestors().find_map(|at| at.canonicalize().ok()),
    ) else {
        return Ok(());
    };
    if there.starts_with(&root) {
        return Err(Error::invalid("the target lies in the repository")
            .at_path(directory)
            .advise("choose a place outside of it"));
    }
    Ok(())
}
