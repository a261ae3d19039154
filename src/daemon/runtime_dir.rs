//! Where sockets and maps live: `/run/restorefs` for root and for the user to whom it belongs, below `$XDG_RUNTIME_DIR` for everybody
//! else, or the absolute path that `$RESTOREFS_RUNTIME_DIR` says: for a second installation, and for tests, which then do not meet the
//! first one.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, ResultExt};
use crate::store::Identity;
use crate::types::RepositoryId;

/// The directory of root's daemons.
const SYSTEM: &str = "/run/restorefs";

/// Names another directory.
const OVERRIDE: &str = "RESTOREFS_RUNTIME_DIR";

/// Whether this process uses the directory that everything outside knows (udev's rule, for one).
#[must_use]
pub fn is_system() -> bool {
    own().is_some_and(|dir| dir == Path::new(SYSTEM))
}

/// This process's own directory.
///
/// # Errors
/// `NotFound` with advice when it can have none.
pub fn own_path() -> Result<PathBuf> {
    own().ok_or_else(|| {
        Error::not_found("there is no directory for the daemon's sockets")
            .advise("set XDG_RUNTIME_DIR to a directory of yours, as a login session does")
    })
}

/// This process's own directory, if it can have one.
fn own() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(OVERRIDE) {
        let dir = PathBuf::from(dir);
        return dir.is_absolute().then_some(dir);
    }
    let user = rustix::process::geteuid();
    // A service has a user of its own, and the directory was made for it.
    let is_ours = || std::fs::metadata(SYSTEM).is_ok_and(|meta| meta.uid() == user.as_raw());
    if user.is_root() || is_ours() {
        return Some(PathBuf::from(SYSTEM));
    }
    let dir = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    dir.is_absolute().then(|| dir.join("restorefs"))
}

/// Directories in which a daemon's sockets may be: our own, then that of root's daemons, who answer whom their sockets let in.
#[must_use]
pub fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = own().into_iter().collect();
    if all.iter().all(|dir| dir != Path::new(SYSTEM)) {
        all.push(PathBuf::from(SYSTEM));
    }
    all
}

/// Makes the directory for this process's sockets.
///
/// # Errors
/// `NotFound` with advice when there is nowhere to make it; `PermissionDenied`, `Io`.
pub fn make() -> Result<PathBuf> {
    let dir = own_path()?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&dir)
        .or_io("cannot make the directory for sockets")
        .at_path(&dir)?;
    Ok(dir)
}

/// The control socket below `dir` of a repository whose lock is this file. A copy of the repository has the same id, but another lock;
/// one on a snapshot of the filesystem the same inode, but another device.
#[must_use]
pub fn control_socket(dir: &Path, repository: RepositoryId, lock: Identity) -> PathBuf {
    dir.join(format!("{}.sock", stem(repository, lock)))
}

/// The daemon's own NBD socket below `dir`, beside those that were asked for.
#[must_use]
pub fn nbd_socket(dir: &Path, repository: RepositoryId, lock: Identity) -> PathBuf {
    dir.join(format!("{}.nbd.sock", stem(repository, lock)))
}

/// The name of the control socket of releases that told no copies apart.
#[must_use]
pub fn is_old_control_socket(path: &Path, repository: RepositoryId) -> bool {
    path.file_name() == Some(format!("{repository}.sock").as_ref())
}

fn stem(repository: RepositoryId, lock: Identity) -> String {
    format!("{repository}.{:x}-{}", lock.device, lock.inode)
}
