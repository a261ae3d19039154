//! The directory of what a hypervisor writes for one backup: scratch images, and the socket of its NBD server.
//!
//! # Invariants
//! - Backup and guard hold a lock on it. One without a holder was left by a killed backup, and is removed by the next.
//! - QEMU's user can write the images and `s`, and nothing else: a link that it made would lead this program elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::names::DIRECTORY_PREFIX;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::{Dir, Kind};
use crate::sys::durable::TEMPORARY_PREFIX;
use crate::sys::flock::{Mode, try_lock};
use crate::sys::place::{set_mode, set_owner};

/// The room of the socket.
const SOCKET_ROOM: &str = "s";

/// LIMIT: bytes of a Unix socket's path (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;

/// A user and a group.
pub(super) type Owner = (u32, u32);

/// A directory that this process holds. It stays when this is dropped: see [`Directory::remove`].
pub(super) struct Directory {
    path: PathBuf,
    dir: Dir,
    owner: Option<Owner>,
}

impl Directory {
    /// Makes a directory. What is in it will belong to `owner`.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` when the path is too long for a socket; `PermissionDenied`, `NoSpace`, `Io`.
    pub(super) fn make(parent: &Path, name: &str, owner: Option<Owner>) -> Result<Self> {
        let parent = parent
            .canonicalize()
            .or_io("cannot find the scratch directory")
            .at_path(parent)?;
        let path = parent.join(name);
        if path.join(SOCKET_ROOM).join("nbd").as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(Error::invalid("the path is too long for a socket below it")
                .at_path(parent)
                .advise("name a directory with a shorter path: --scratch DIR"));
        }
        let above = Dir::open(&parent)?;
        // Under this name nobody sweeps it before it is held.
        let unheld = format!("{TEMPORARY_PREFIX}{name}");
        above.make_dir(&unheld, 0o700)?;
        let held = Self::hold(&parent.join(&unheld));
        let made = held.and_then(|mut made| {
            above.rename(&unheld, name)?;
            made.path.clone_from(&path);
            made.owner = owner;
            made.dir.make_dir(SOCKET_ROOM, 0o700)?;
            if let Some((uid, gid)) = owner {
                // It passes here to its files, whatever the umask says.
                set_mode(&made.dir, 0o711).at_path(&path)?;
                set_owner(made.dir.dir(SOCKET_ROOM)?, uid, gid)
                    .at_path(path.join(SOCKET_ROOM))
                    .map_err(|e| e.advise("run this command as root: QEMU runs as another user"))?;
            }
            Ok(made)
        });
        if made.is_err() {
            // The error counts that made it useless.
            let _ = above.remove_tree(&unheld);
            let _ = above.remove_tree(name);
        }
        made
    }

    /// Holds a directory that is there.
    ///
    /// # Errors
    /// `NotFound`; `Busy` when somebody removes it.
    pub(super) fn hold(path: &Path) -> Result<Self> {
        let dir = Dir::open(path)?;
        if !try_lock(&dir, Mode::Shared)? {
            return Err(
                Error::new(ErrorKind::Busy, "another process removes the directory").at_path(path),
            );
        }
        Ok(Self {
            path: path.to_owned(),
            dir,
            owner: None,
        })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the socket that QEMU makes.
    pub(super) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_ROOM).join("nbd")
    }

    /// Makes an empty file; it is given to QEMU's user by [`Directory::give`].
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace`, `Io`.
    pub(super) fn file(&self, name: &str) -> Result<File> {
        self.dir.create_file(name, 0o600)
    }

    /// Gives a file to QEMU's user.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    pub(super) fn give(&self, file: &File) -> Result<()> {
        match self.owner {
            Some((uid, gid)) => set_owner(file, uid, gid).at_path(&self.path),
            None => Ok(()),
        }
    }

    /// Removes it with everything in it; one that is gone is no error.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn remove(&self) -> Result<()> {
        remove(&self.path)
    }
}

fn remove(path: &Path) -> Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("not a directory of a backup").at_path(path));
    };
    match Dir::open(above)?.remove_tree(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The directory of a backup that a socket belongs to.
pub(super) fn of_socket(socket: &Path) -> Option<&Path> {
    let directory = socket.parent()?.parent()?;
    let name = directory.file_name().and_then(OsStr::to_str)?;
    name.starts_with(DIRECTORY_PREFIX).then_some(directory)
}

/// Whether a process holds the directory.
///
/// # Errors
/// `Io`.
pub(super) fn is_held(path: &Path) -> Result<bool> {
    match Dir::open(path) {
        Ok(dir) => Ok(!try_lock(&dir, Mode::Exclusive)?),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes directories that nobody holds; returns their names.
///
/// # Errors
/// `NotFound`, `Io`.
pub(super) fn sweep(parent: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for (name, stat) in Dir::open(parent)?.list("")? {
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else {
            continue;
        };
        let path = parent.join(name);
        // In a directory that all can write, others may have made something of that name.
        let is_own = stat.uid == rustix::process::geteuid().as_raw();
        if stat.kind != Kind::Directory || !is_own || is_held(&path)? {
            continue;
        }
        remove(&path)?;
        swept.push(name.to_owned());
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Directory, is_held, of_socket, sweep};

    #[test]
    fn what_nobody_holds_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let held = Directory::make(temp.path(), "restorefs-1-a", None).unwrap();
        held.file("vda").unwrap();
        assert_eq!(of_socket(&held.socket()), Some(held.path()));
        assert!(is_held(held.path()).unwrap());
        let left = Directory::make(temp.path(), "restorefs-1-b", None).unwrap();
        left.file("vda").unwrap();
        drop(left);
        let other = Directory::make(temp.path(), "restorefs-2-c", None).unwrap();
        drop(other);
        std::fs::write(temp.path().join("restorefs-1-file"), "").unwrap();
        let swept = sweep(temp.path(), "restorefs-1-").unwrap();
        assert_eq!(swept, ["restorefs-1-b"]);
        assert!(held.path().join("vda").exists());
        held.remove().unwrap();
        held.remove().unwrap();
        assert!(!is_held(held.path()).unwrap());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
    }

    #[test]
    fn sockets_of_others_are_in_no_directory_of_ours() {
        for other in ["/", "/nbd", "/var/tmp/s/nbd", "/var/tmp/restorefs-1/nbd"] {
            assert_eq!(of_socket(Path::new(other)), None, "{other}");
        }
        let long = "d".repeat(90);
        let temp = tempfile::tempdir().unwrap();
        assert!(Directory::make(temp.path(), &long, None).is_err());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
