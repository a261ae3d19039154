//! Whether two repositories lie apart.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result, ResultExt};
use crate::repo::Repository;

/// Refuses to copy a repository into itself, or into one that lies in it, or in which it lies: by id, and by what the paths lead
/// to.
///
/// # Errors
/// `InvalidInput`; `Io` when a path cannot be followed.
pub fn check_apart(source: &Repository, target: &Repository) -> Result<()> {
    if let (Some(from), Some(to)) = (source.store().local_root(), target.store().local_root()) {
        let (from_id, to_id) = (identity(from)?, identity(to)?);
        if from_id == to_id {
            return Err(Error::invalid(format!(
                "{} and {} are the same repository",
                from.display(),
                to.display()
            ))
            .advise("name another repository after --to"));
        }
        for (inner, outer, outer_id) in [(to, from, from_id), (from, to, to_id)] {
            if lies_below(inner, outer_id)? {
                return Err(Error::invalid(format!(
                    "the repository {} lies in the repository {}",
                    inner.display(),
                    outer.display()
                ))
                .advise("a copy belongs on another disk"));
            }
        }
    }
    let id = source.format().repository_id;
    if id == target.format().repository_id {
        return Err(Error::invalid(format!(
            "source and target have one id, {id}: one is a copy of the other that was made by other means"
        ))
        .advise("give the copy its own: restorefs repo new-id DIR"));
    }
    Ok(())
}

/// Device and inode.
fn identity(path: &Path) -> Result<(u64, u64)> {
    let found = std::fs::metadata(path).or_io("cannot look at the directory");
    let found = found.at_path(path)?;
    Ok((found.dev(), found.ino()))
}

/// Whether a directory lies below the one with an identity, whatever links lead to it.
fn lies_below(path: &Path, outer: (u64, u64)) -> Result<bool> {
    let real = path.canonicalize().or_io("cannot follow the path");
    let real = real.at_path(path)?;
    for above in real.ancestors().skip(1) {
        if identity(above)? == outer {
            return Ok(true);
        }
    }
    Ok(false)
}
