//! Durable changes of names: writes whole files and renames them, so that a crash never loses a file or shows
//! a part of it.
//!
//! # Invariants
//! A change is: temporary file, fsync, rename, fsync of the directory. After a crash either the old or the
//! new content is there whole. A file with a temporary name, which begins with [`TEMPORARY_PREFIX`], may
//! remain and means nothing.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::beneath::{Dir, Kind};
use crate::error::{Error, ErrorKind, Result};

/// Prefix of temporary names; listings skip them.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// LIMIT: attempts to find a free temporary name (an earlier process with the same id may have left some).
const ATTEMPTS_MAX: u32 = 1000;

/// Whether an existing file may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Replaces it atomically.
    Yes,
    /// Fails with `AlreadyExists` instead.
    No,
}

/// Whether a name is one of this process's own temporary names.
#[must_use]
pub fn is_own_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY_PREFIX)
        .and_then(|rest| rest.split('-').next())
        .is_some_and(|pid| pid == std::process::id().to_string())
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Writes a whole file below `dir`, atomically; durable when the call returns. The directory must exist.
///
/// # Errors
/// `AlreadyExists`, `NotFound`, `NoSpace`, `ReadOnly`, `Io`.
pub fn put(
    dir: &Dir,
    path: impl AsRef<Path>,
    bytes: &[u8],
    mode: u32,
    replace: Replace,
) -> Result<()> {
    put_filled(dir, path, mode, replace, |mut file| {
        file.write_all(bytes)
            .map_err(|e| Error::io("cannot write the file", e))
    })
}

/// [`put`] with the content that `fill` writes into the file.
///
/// # Errors
/// As [`put`]; errors of `fill`.
pub fn put_filled(
    dir: &Dir,
    path: impl AsRef<Path>,
    mode: u32,
    replace: Replace,
    fill: impl FnOnce(&File) -> Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    if replace == Replace::No && dir.stat(path)?.is_some() {
        return Err(exists(dir, path));
    }
    let (temporary, file) = create_temporary(dir, parent(path), mode)?;
    let result = fill(&file)
        .and_then(|()| {
            file.sync_all()
                .map_err(|e| Error::io("cannot write the file", e))
        })
        .map_err(|e| e.at_path(dir.path().join(path)))
        .and_then(|()| match replace {
            Replace::Yes => dir.rename(&temporary, path),
            Replace::No => rename_noreplace(dir, &temporary, path),
        });
    if let Err(error) = result {
        // The first error is reported; a leftover file is harmless.
        let _ = dir.unlink(&temporary);
        return Err(error);
    }
    dir.sync(parent(path))
}

fn create_temporary(dir: &Dir, above: &Path, mode: u32) -> Result<(PathBuf, File)> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let mut attempt = 0;
    loop {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = above.join(format!("{TEMPORARY_PREFIX}{}-{serial}", std::process::id()));
        attempt += 1;
        match dir.create_file(&path, mode) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < ATTEMPTS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

fn exists(dir: &Dir, path: &Path) -> Error {
    Error::new(ErrorKind::AlreadyExists, "it exists already").at_path(dir.path().join(path))
}

/// Renames and replaces; both directories are durable when the call returns.
///
/// # Errors
/// As [`Dir::rename`].
pub fn rename(dir: &Dir, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    dir.rename(from, to)?;
    sync_both(dir, from, to)
}

/// Fsyncs the directories of both names: the new one first, so that a crash between leaves two names rather than none.
///
/// # Errors
/// `Io`.
pub fn sync_both(dir: &Dir, from: &Path, to: &Path) -> Result<()> {
    dir.sync(parent(to))?;
    if parent(from) == parent(to) {
        return Ok(());
    }
    dir.sync(parent(from))
}

/// Renames without replacing; an empty directory at `to` counts as existing. Durable after [`sync_both`].
///
/// Where the filesystem does not support `RENAME_NOREPLACE`, a file is linked and unlinked (still atomic).
/// For a directory, the call checks that `to` does not exist and then renames, which is safe because the
/// repository has one writer.
///
/// # Errors
/// `AlreadyExists`, `NotFound`, `Io`.
pub fn rename_noreplace(dir: &Dir, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    if dir.rename_noreplace_flag(from, to)?.is_some() {
        return Ok(());
    }
    rename_noreplace_by_link(dir, from, to)
}

fn rename_noreplace_by_link(dir: &Dir, from: &Path, to: &Path) -> Result<()> {
    let stat = dir.stat(from)?.ok_or_else(|| {
        Error::not_found("there is nothing to rename").at_path(dir.path().join(from))
    })?;
    if stat.kind == Kind::File {
        match dir.link(from, to) {
            Ok(()) => return dir.unlink(from),
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
    }
    if dir.stat(to)?.is_some() {
        return Err(exists(dir, to));
    }
    dir.rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::{Replace, is_own_temporary, put, rename_noreplace, rename_noreplace_by_link};
    use crate::error::ErrorKind;
    use crate::sys::beneath::Dir;
    use std::path::Path;

    #[test]
    fn put_creates_and_replaces_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        put(&dir, "f", b"one", 0o644, Replace::No).unwrap();
        let error = put(&dir, "f", b"two", 0o644, Replace::No).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(temp.path().join("f")).unwrap(), b"one");
        put(&dir, "f", b"three", 0o644, Replace::Yes).unwrap();
        assert_eq!(std::fs::read(temp.path().join("f")).unwrap(), b"three");
        dir.make_dir("d", 0o755).unwrap();
        assert!(put(&dir, "d", b"x", 0o644, Replace::Yes).is_err());
        assert_eq!(dir.list("").unwrap().len(), 2);
    }

    #[test]
    fn nothing_is_replaced_by_either_way() {
        type Rename = fn(&Dir, &Path, &Path) -> crate::error::Result<()>;
        let ways: [Rename; 2] = [
            |dir, from, to| rename_noreplace(dir, from, to),
            rename_noreplace_by_link,
        ];
        for way in ways {
            let temp = tempfile::tempdir().unwrap();
            let dir = Dir::open(temp.path()).unwrap();
            put(&dir, "a", b"a", 0o644, Replace::No).unwrap();
            put(&dir, "b", b"b", 0o644, Replace::No).unwrap();
            for name in ["d", "empty"] {
                dir.make_dir(name, 0o755).unwrap();
            }
            put(&dir, "d/x", b"x", 0o644, Replace::No).unwrap();
            let kind = |from: &str, to: &str| {
                way(&dir, Path::new(from), Path::new(to)).map_err(|e| e.kind())
            };
            assert_eq!(kind("a", "b"), Err(ErrorKind::AlreadyExists));
            assert_eq!(kind("d", "empty"), Err(ErrorKind::AlreadyExists));
            assert_eq!(kind("none", "c"), Err(ErrorKind::NotFound));
            assert_eq!(kind("a", "c"), Ok(()));
            assert_eq!(kind("d", "e"), Ok(()));
            assert_eq!(std::fs::read(temp.path().join("e/x")).unwrap(), b"x");
            assert!(!temp.path().join("a").exists());
        }
    }

    #[test]
    fn own_temporaries_are_known() {
        assert!(is_own_temporary(&format!(".tmp-{}-0", std::process::id())));
        assert!(!is_own_temporary(".tmp-1x-0"));
        assert!(!is_own_temporary("x"));
    }
}
