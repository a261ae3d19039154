//! Where sockets and maps live: `/run/restorefs` for root, `/run/restorefs/daemon` for the user to whom that belongs, below
//! `$XDG_RUNTIME_DIR` for everybody else, or the absolute path that `$RESTOREFS_RUNTIME_DIR` says: for a second installation, and for
//! tests, which then do not meet the first one. Nobody but its user may write in it: who could would listen there under a daemon's name
//! before it does, and keep it from starting.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The directory of root's daemons and maps.
const SYSTEM: &str = "/run/restorefs";

/// The directory of the daemon that the package installs, which has a user of its own.
const DAEMON: &str = "/run/restorefs/daemon";

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
    if user.is_root() {
        return Some(PathBuf::from(SYSTEM));
    }
    // A service has a user of its own, and one of these was made for it.
    let is_ours =
        |dir: &&str| std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.uid() == user.as_raw());
    if let Some(dir) = [DAEMON, SYSTEM].iter().find(|dir| is_ours(dir)) {
        return Some(PathBuf::from(dir));
    }
    let dir = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    dir.is_absolute().then(|| dir.join("restorefs"))
}

/// Directories in which a daemon's sockets may be: our own, then those of this machine's daemons, who answer whom their sockets let in.
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
/// `NotFound` with advice when there is nowhere to make it; `PermissionDenied` when others can write in it; `Io`.
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

/// Only this process's user may write in the directory. The check is of what is there now; whose directory the one above is, is the
/// affair of who has named it.
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
            "others could listen there in the daemon's place: it must be a directory of user {user}, in which nobody else can write, and it is {found}"
        ),
    )
    .at_path(dir)
    .advise("give it its owner and mode: chown USER DIR; chmod 755 DIR (the package: systemd-tmpfiles --create restorefs.conf)"))
}
