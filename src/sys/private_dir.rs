//! Private directories for sockets of this process: no other user can reach what is in them.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, ResultExt};

/// The begin of the names.
const PREFIX: &str = "restorefs-";

/// A directory below the temporary one, which is removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Makes a directory that only this user can enter.
    ///
    /// # Errors
    /// `Io`.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{PREFIX}{}", uuid::Uuid::new_v4()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .or_io("cannot make a directory for a socket")
            .at_path(&path)?;
        Ok(Self(path))
    }

    /// The directory of a file that an earlier process left, which is removed when this is dropped; `None` for a file elsewhere. The
    /// directory may be gone already.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        let directory = file.parent()?;
        let id = directory.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let is_ours = uuid::Uuid::try_parse(id).is_ok()
            && directory.parent() == Some(std::env::temp_dir().as_path());
        is_ours.then(|| Self(directory.to_owned()))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What is left of it harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::PrivateDir;

    #[test]
    fn it_is_private_and_goes_with_its_value() {
        let dir = PrivateDir::new().unwrap();
        let path = dir.path().to_owned();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(path.join("s"), "").unwrap();
        assert!(
            PrivateDir::of(&path).is_none()
                && PrivateDir::of(Path::new("/tmp/restorefs-x/s")).is_none()
        );
        std::mem::forget(dir);
        let found = PrivateDir::of(&path.join("s")).unwrap();
        assert_eq!(found.path(), path);
        drop(found);
        assert!(!path.exists());
    }
}
