//! Files to which lines are only appended: logs that other programs may rename.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result, ResultExt};

/// Opens a regular file for appending, and makes it with `mode` when it is missing. The last component of the path is never followed
/// through a symlink.
///
/// # Errors
/// `InvalidInput` when it is no regular file; `NotFound` (its directory), `PermissionDenied`, `Io` (also for a symlink).
pub fn open(path: &Path, mode: u32) -> Result<File> {
    // Without NONBLOCK opening a FIFO would wait for its reader.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(mode));
    let file = opened
        .map(File::from)
        .map_err(|e| Error::io("cannot open the file", e.into()).at_path(path))?;
    let meta = file
        .metadata()
        .or_io("cannot look at the file")
        .at_path(path)?;
    match meta.is_file() {
        true => Ok(file),
        false => Err(Error::invalid("it is not a regular file").at_path(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::open;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    #[test]
    fn a_regular_file_is_appended_to_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["one\n", "two\n"] {
            open(&path, 0o600)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        for other in [&link, &fifo, Path::new("/dev/null"), dir.path()] {
            assert!(open(other, 0o600).is_err(), "{}", other.display());
        }
    }
}
