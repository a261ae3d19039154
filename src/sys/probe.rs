//! Tests what the filesystem of a directory supports, with small files.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::beneath::{Access, Dir, has_openat2};
use super::durable::TEMPORARY_PREFIX;
use super::{hole, immutable, reflink, statfs};
use crate::error::{Result, ResultExt};

/// Size of the probing file in bytes: whole blocks of every filesystem that shares extents.
const PROBE_BYTES: u64 = 65_536;

/// The supported operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// Name of the filesystem.
    pub filesystem: String,
    /// Whether openat2 works (depends on kernel and seccomp, not on the filesystem).
    pub openat2: bool,
    /// Whether renameat2 supports `RENAME_NOREPLACE`.
    pub rename_noreplace: bool,
    /// Whether FICLONERANGE shares extents.
    pub reflink: bool,
    /// Whether this process can set the immutable flag.
    pub immutable: bool,
    /// Whether holes can be punched.
    pub punch: bool,
    /// Whether SEEK_DATA and SEEK_HOLE find holes.
    pub seek_holes: bool,
}

/// Tests everything in `dir`, and removes the files that it made.
///
/// # Errors
/// `ReadOnly`, `PermissionDenied`, `NoSpace`, `Io` when even a plain file cannot be written.
pub fn probe(dir: &Dir) -> Result<Ability> {
    let name = |suffix: &str| {
        PathBuf::from(format!(
            "{TEMPORARY_PREFIX}{}-probe-{suffix}",
            std::process::id()
        ))
    };
    let (one, two, moved) = (name("1"), name("2"), name("3"));
    let result = probe_with(dir, &one, &two, &moved);
    for path in [&one, &two, &moved] {
        // Some of the files may not exist.
        let _ = dir.unlink(path);
    }
    result
}

fn probe_with(dir: &Dir, one: &Path, two: &Path, moved: &Path) -> Result<Ability> {
    let from = dir.create_file(one, 0o600)?;
    let to = dir.create_file(two, 0o600)?;
    let bytes = vec![1; 2 * 65_536];
    std::os::unix::fs::FileExt::write_all_at(&from, &bytes, 0)
        .or_io("cannot write a probing file")
        .at_path(dir.path().join(one))?;
    // Some filesystems refuse flags while a descriptor is open for writing.
    let flagged =
        |file: &File| immutable::set(file, true).and_then(|()| immutable::set(file, false));
    let immutable = dir
        .open_file(two, Access::Read)
        .and_then(|file| flagged(&file))
        .is_ok();
    let punch = hole::punch(&from, 0, PROBE_BYTES).is_ok();
    Ok(Ability {
        filesystem: statfs::type_name(dir)?,
        openat2: has_openat2(),
        reflink: reflink::clone_range(&from, PROBE_BYTES, PROBE_BYTES, &to, 0).is_ok(),
        immutable,
        punch,
        seek_holes: punch && matches!(hole::next_data(&from, 0), Ok(Some(PROBE_BYTES))),
        rename_noreplace: matches!(dir.rename_noreplace_flag(one, moved), Ok(Some(()))),
    })
}

#[cfg(test)]
mod tests {
    use super::probe;
    use crate::sys::beneath::Dir;

    #[test]
    fn leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let ability = probe(&dir).unwrap();
        assert!(!ability.seek_holes || ability.punch);
        assert!(dir.list("").unwrap().is_empty());
    }
}
