//! Scratch files: files without a name, whose space is freed when the last descriptor is closed, even by a
//! crash.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::beneath::Dir;
use super::durable::TEMPORARY_PREFIX;
use crate::error::{Error, Result};

/// Makes a scratch file in a directory that the caller names; no other user can read or write it.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `PermissionDenied`, `ReadOnly`, `NoSpace`, `Io`.
pub fn file(dir: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(File::from(fd)),
        // Not every filesystem supports files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => named(dir),
        Err(e) => Err(Error::io("cannot make a scratch file", e.into()).at_path(dir)),
    }
}

/// Makes a file with a name and removes the name at once.
fn named(dir: &Path) -> Result<File> {
    let dir = Dir::open(dir)?;
    let name = format!("{TEMPORARY_PREFIX}{}-scratch", uuid::Uuid::new_v4());
    let file = dir.create_file(&name, 0o600)?;
    dir.unlink(&name)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{file, named};
    use crate::error::ErrorKind;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn no_name_is_left_by_either_way() {
        let temp = tempfile::tempdir().unwrap();
        for make in [file, named] {
            let mut scratch = make(temp.path()).unwrap();
            scratch.write_all(b"x").unwrap();
            let metadata = scratch.metadata().unwrap();
            assert_eq!(metadata.nlink(), 0);
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        }
        let missing = file(&temp.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
