//! Where sockets live: `/run/restorefs` for root, below `$XDG_RUNTIME_DIR` for everybody else.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, ResultExt};
use crate::types::RepositoryId;

/// Directories that may hold a repository's sockets, in the order in which they are tried.
#[must_use]
pub fn candidates() -> Vec<PathBuf> {
    let mut all = Vec::new();
    if rustix::process::geteuid().is_root() {
        all.push(PathBuf::from("/run/restorefs"));
    }
    if let Some(dir) =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute())
    {
        all.push(Path::new(&dir).join("restorefs"));
    }
    if !rustix::process::geteuid().is_root() {
        // An administrator's daemon can be asked by whoever its socket lets in.
        all.push(PathBuf::from("/run/restorefs"));
    }
    all
}

/// Makes the directory for this process's sockets.
///
/// # Errors
/// `PermissionDenied` with advice when there is none that can be written.
pub fn make() -> Result<PathBuf> {
    let mut last = None;
    for dir in candidates() {
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir);
        match made
            .or_io("cannot make the directory for sockets")
            .at_path(&dir)
        {
            Ok(()) => return Ok(dir),
            Err(e) => last = Some(e),
        }
    }
    Err(last
        .unwrap_or_else(|| Error::not_found("there is no directory for sockets"))
        .advise("set XDG_RUNTIME_DIR"))
}

/// The control socket of a repository below `dir`.
#[must_use]
pub fn control_socket(dir: &Path, repository: RepositoryId) -> PathBuf {
    dir.join(format!("{repository}.sock"))
}

/// The daemon's own NBD socket below `dir`, beside those that were asked for.
#[must_use]
pub fn nbd_socket(dir: &Path, repository: RepositoryId) -> PathBuf {
    dir.join(format!("{repository}.nbd.sock"))
}
