//! Directory for sockets and maps: `/run/restorefs` for root, `/run/restorefs/daemon` for the user that owns
//! it, a directory below `$XDG_RUNTIME_DIR` for all other users, or the absolute path in
//! `$RESTOREFS_RUNTIME_DIR`: for a second installation, and for tests, which then do not interfere with the
//! first one. Only its user may write in it: another user could listen there under a daemon's name first, and
//! keep the daemon from starting.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The directory of root's daemons and maps.
const SYSTEM: &str = "/run/restorefs";

/// The directory of the packaged daemon, which has its own user.
const DAEMON: &str = "/run/restorefs/daemon";

/// Variable that names another directory.
const OVERRIDE: &str = "RESTOREFS_RUNTIME_DIR";

/// Whether this process uses the directory that outside programs know (udev's rule, for one).
#[must_use]
pub fn is_system() -> bool {
    own().is_some_and(|dir| dir == Path::new(SYSTEM))
}

/// This process's own directory.
///
/// # Errors
/// `NotFound` with advice when there is no place for one.
pub fn own_path() -> Result<PathBuf> {
    own().ok_or_else(|| {
        Error::not_found("there is no directory for the daemon's sockets")
            .advise("set XDG_RUNTIME_DIR to a directory of yours, as a login session does")
    })
}

/// This process's own directory, if there is a place for one.
fn own() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(OVERRIDE) {
        let dir = PathBuf::from(dir);
        return dir.is_absolute().then_some(dir);
    }
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Some(PathBuf::from(SYSTEM));
    }
    // A service has its own user, and one of these directories was made for it.
    let is_ours =
        |dir: &&str| std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.uid() == user.as_raw());
    if let Some(dir) = [DAEMON, SYSTEM].iter().find(|dir| is_ours(dir)) {
        return Some(PathBuf::from(dir));
    }
    let dir = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    dir.is_absolute().then(|| dir.join("restorefs"))
}

/// Directories that may contain a daemon's sockets: this process's own, then those of the machine's daemons,
/// whose sockets decide who may connect.
#[must_use]
pub fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = own().into_iter().collect();
    for dir in [SYSTEM, DAEMON].map(PathBuf::from) {
        if !all.contains(&dir) {
            all.push(dir);
        }
    }
    all
}

/// Makes the directory for this process's sockets and maps.
///
/// # Errors
/// `NotFound` with advice when there is no place for it; `PermissionDenied` when other users can write in it;
/// `Io`.
pub fn make() -> Result<PathBuf> {
    let dir = own_path()?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&dir)
        .or_io("cannot make the directory for sockets")
        .at_path(&dir)?;
    demand_own(&dir)?;
    Ok(dir)
}

/// Checks that only this process's user can write in the directory as it is now. The directory above is the
/// responsibility of the user who named it.
fn demand_own(dir: &Path) -> Result<()> {
    let meta = std::fs::symlink_metadata(dir)
        .or_io("cannot look at the directory for sockets")
        .at_path(dir)?;
    let user = rustix::process::geteuid().as_raw();
    if meta.is_dir() && meta.uid() == user && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let found = if meta.is_dir() {
        format!(
            "of user {} with mode {:04o}",
            meta.uid(),
            meta.mode() & 0o7777
        )
    } else {
        "no directory".to_owned()
    };
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "another user could listen there in the daemon's place: it must be a directory of user {user} that no other user can write, but it is {found}"
        ),
    )
    .at_path(dir)
    .advise("give it its owner and mode: chown USER DIR; chmod 755 DIR (the package: systemd-tmpfiles --create restorefs.conf)"))
}
