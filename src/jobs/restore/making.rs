//! A file that is being restored: it gets its name only when it is whole, and no other process writes it
//! meanwhile.
//!
//! # Invariants
//! - During the restore it is called `NAME.restoring`, and its creator holds a lock on it: a second restore
//!   to that name is refused, and the rest of a killed one is removed.
//! - Only the file that was written gets the name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::{Access, Dir};
use crate::sys::durable::{self, Replace};
use crate::sys::flock::{Mode, try_lock};

/// A file under its temporary name; dropping this value removes it, unless it is finished.
pub struct Making<'a> {
    dir: &'a Dir,
    name: &'a OsStr,
    made_as: OsString,
    file: File,
    is_finished: bool,
}

impl<'a> Making<'a> {
    /// Begins the file.
    ///
    /// # Errors
    /// `Busy` when another restore is writing it; `NoSpace`, `ReadOnly`, `Io`.
    pub fn begin(dir: &'a Dir, name: &'a OsStr) -> Result<Self> {
        let mut made_as = name.to_os_string();
        made_as.push(".restoring");
        let left = dir.open_file(&made_as, Access::Read);
        if let Ok(left) = &left {
            lock(dir, name, left)?;
        }
        match dir.unlink(&made_as) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = dir.create_file(&made_as, 0o600).map_err(|e| {
            if e.kind() == ErrorKind::AlreadyExists {
                return busy(dir, name);
            }
            e
        })?;
        lock(dir, name, &file)?;
        Ok(Self {
            dir,
            name,
            made_as,
            file,
            is_finished: false,
        })
    }

    /// Its present path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.made_as)
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its final name, durably. Its content is durable already.
    ///
    /// # Errors
    /// `AlreadyExists`; `Busy` when another file has its temporary name; `Io`.
    pub fn finish(mut self, replace: Replace) -> Result<()> {
        if !self.is_there()? {
            return Err(busy(self.dir, self.name));
        }
        match replace {
            Replace::Yes => durable::rename(self.dir, &self.made_as, self.name)?,
            Replace::No => durable::rename_noreplace(self.dir, &self.made_as, self.name)?,
        }
        self.is_finished = true;
        self.dir.sync("")
    }

    fn is_there(&self) -> Result<bool> {
        is_named(&self.file, &self.path())
    }
}

/// Whether an open file still has a name.
///
/// # Errors
/// `Io`.
pub fn is_named(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().or_io("cannot stat the file")?;
    let there = std::fs::symlink_metadata(path);
    Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())))
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        // The returned error is the one that matters.
        if !self.is_finished && self.is_there().unwrap_or(false) {
            let _ = self.dir.unlink(&self.made_as);
        }
    }
}

fn lock(dir: &Dir, name: &OsStr, file: &File) -> Result<()> {
    // Without locks on the filesystem, the second restore fails at its end.
    match try_lock(file, Mode::Exclusive) {
        Ok(false) => Err(busy(dir, name)),
        Ok(true) | Err(_) => Ok(()),
    }
}

fn busy(dir: &Dir, name: &OsStr) -> Error {
    Error::new(
        ErrorKind::Busy,
        "another restore is writing this file at the same time",
    )
    .at_path(dir.path().join(name))
    .advise("wait for it to end, or name another")
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn a_file_that_another_one_replaced_is_not_named_any_more() {
        let temp = tempfile::tempdir().unwrap();
        let (path, other) = (temp.path().join("a"), temp.path().join("b"));
        std::fs::write(&path, "a").unwrap();
        std::fs::write(&other, "b").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        assert!(is_named(&file, &path).unwrap());
        std::fs::rename(&other, &path).unwrap();
        assert!(!is_named(&file, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_named(&file, &path).unwrap());
    }
}
