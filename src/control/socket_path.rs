//! Names of a daemon's sockets in a runtime directory.

use std::path::{Path, PathBuf};

use crate::store::Identity;
use crate::types::RepositoryId;

/// The control socket, below `dir`, of the repository with this lock file. A copy of the repository
/// has the same id, but another lock; a copy on a snapshot of the filesystem has the same inode,
/// but another device.
#[must_use]
pub fn control_socket(dir: &Path, repository: RepositoryId, lock: Identity) -> PathBuf {
    dir.join(format!("{}.sock", stem(repository, lock)))
}

/// The daemon's own NBD socket below `dir`, beside the configured ones.
#[must_use]
pub fn nbd_socket(dir: &Path, repository: RepositoryId, lock: Identity) -> PathBuf {
    dir.join(format!("{}.nbd.sock", stem(repository, lock)))
}

/// Whether this is the control socket of an older release, which did not distinguish copies of a
/// repository.
#[must_use]
pub(super) fn is_old_control_socket(path: &Path, repository: RepositoryId) -> bool {
    path.file_name() == Some(format!("{repository}.sock").as_ref())
}

fn stem(repository: RepositoryId, lock: Identity) -> String {
    format!("{repository}.{:x}-{}", lock.device, lock.inode)
}
