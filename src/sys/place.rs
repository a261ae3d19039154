//! Sets owners, modes, times and xattrs of files below a directory handle; makes symlinks and special files.
//!
//! # Invariants
//! Names are single plain components of an open directory, and symlinks are never followed: a call affects
//! only the file that was created under the name.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::beneath::Dir;
use crate::error::{Error, ErrorKind, Result};

/// Seconds and nanoseconds since the epoch.
pub type Instant = (i64, u32);

/// Kind of a special file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Character device with major and minor number.
    CharDevice(u32, u32),
    /// Block device with major and minor number.
    BlockDevice(u32, u32),
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
}

fn checked(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty()
        || bytes == b"."
        || bytes == b".."
        || bytes.iter().any(|b| matches!(b, b'/' | 0))
    {
        return Err(Error::invalid(format!(
            "\"{}\" is not a name",
            bytes.escape_ascii()
        )));
    }
    Ok(name)
}

fn failed(what: &'static str, errno: Errno) -> Error {
    Error::io(what, errno.into())
}

fn timestamps(accessed: Instant, modified: Instant) -> Timestamps {
    let spec = |(seconds, nanoseconds): Instant| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: spec(accessed),
        last_modification: spec(modified),
    }
}

/// Whether a new file in a directory gets its creator as owner, and the requested mode: true on native Linux
/// filesystems, false where a mount option sets one owner for all files, and over a network. False also when
/// the test fails.
#[must_use]
pub fn keeps_owners(dir: &Dir) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let stat = rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(0o600))
        .and_then(|file: OwnedFd| rustix::fs::fstat(&file));
    stat.is_ok_and(|stat| {
        stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o777 == 0o600
    })
}

/// A file that was just made, held open: attributes go to this file even when another process has replaced
/// its name.
#[derive(Debug)]
pub struct Made {
    held: OwnedFd,
}

/// Opens the file that was just made under a name.
fn hold(dir: &Dir, name: &OsStr, kind: FileType) -> Result<Made> {
    let what = "cannot open the new file";
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| failed(what, e))?;
    let stat = rustix::fs::fstat(&held).map_err(|e| failed(what, e))?;
    if FileType::from_raw_mode(stat.st_mode) == kind && stat.st_nlink == 1 {
        return Ok(Made { held });
    }
    Err(Error::new(
        ErrorKind::Busy,
        "another process replaced the file",
    ))
}

/// Makes a symlink with this target, verbatim; never replaces.
///
/// # Errors
/// `AlreadyExists`, `InvalidInput`, `NoSpace`, `Io`; `Busy` when another process replaced it at once.
pub fn symlink(dir: &Dir, name: &OsStr, target: &[u8]) -> Result<Made> {
    rustix::fs::symlinkat(OsStr::from_bytes(target), dir, checked(name)?)
        .map_err(|e| failed("cannot make the symlink", e))?;
    hold(dir, name, FileType::Symlink)
}

/// Makes a special file with exactly these permission bits; never replaces.
///
/// # Errors
/// `AlreadyExists`, `InvalidInput`, `PermissionDenied`, `Io`; `Busy` when another process replaced it at
/// once.
pub fn special(dir: &Dir, name: &OsStr, kind: Special, mode: u16) -> Result<Made> {
    let (file_type, device) = match kind {
        Special::CharDevice(major, minor) => {
            (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
        }
        Special::BlockDevice(major, minor) => {
            (FileType::BlockDevice, rustix::fs::makedev(major, minor))
        }
        Special::Fifo => (FileType::Fifo, 0),
        Special::Socket => (FileType::Socket, 0),
    };
    let private = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(dir, checked(name)?, file_type, private, device)
        .map_err(|e| failed("cannot make the special file", e))?;
    let made = hold(dir, name, file_type)?;
    rustix::fs::chmod(made.path(), Mode::from_raw_mode(mode.into()))
        .map_err(|e| failed("cannot set the mode", e))?;
    Ok(made)
}

impl Made {
    /// The magic link to the file; the kernel follows it to the file itself and no further.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.held.as_raw_fd())
    }

    /// Sets owner and group.
    ///
    /// # Errors
    /// `PermissionDenied`, `Io`.
    pub fn set_owner(&self, uid: u32, gid: u32) -> Result<()> {
        rustix::fs::chownat(
            &self.held,
            "",
            Some(rustix::fs::Uid::from_raw(uid)),
            Some(rustix::fs::Gid::from_raw(gid)),
            AtFlags::EMPTY_PATH,
        )
        .map_err(|e| failed("cannot set the owner", e))
    }

    /// Sets the times.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_times(&self, accessed: Instant, modified: Instant) -> Result<()> {
        let times = timestamps(accessed, modified);
        rustix::fs::utimensat(&self.held, "", &times, AtFlags::EMPTY_PATH)
            .map_err(|e| failed("cannot set the times", e))
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `Unsupported`, `PermissionDenied`, `NoSpace`, `Io`.
    pub fn set_xattr(&self, key: &[u8], value: &[u8]) -> Result<()> {
        rustix::fs::setxattr(
            self.path(),
            OsStr::from_bytes(key),
            value,
            XattrFlags::empty(),
        )
        .map_err(|e| failed("cannot set the extended attribute", e))
    }
}

/// Sets owner and group of an open file or directory.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    rustix::fs::fchown(
        file,
        Some(rustix::fs::Uid::from_raw(uid)),
        Some(rustix::fs::Gid::from_raw(gid)),
    )
    .map_err(|e| failed("cannot set the owner", e))
}

/// Sets the permission bits (0o7777) of an open file or directory.
///
/// # Errors
/// `PermissionDenied`, `Io`.
pub fn set_mode(file: impl AsFd, mode: u16) -> Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode.into()))
        .map_err(|e| failed("cannot set the mode", e))
}

/// Sets the times of an open file or directory.
///
/// # Errors
/// `Io`.
pub fn set_times(file: impl AsFd, accessed: Instant, modified: Instant) -> Result<()> {
    rustix::fs::futimens(file, &timestamps(accessed, modified))
        .map_err(|e| failed("cannot set the times", e))
}

/// Sets an extended attribute of an open file or directory.
///
/// # Errors
/// `Unsupported`, `PermissionDenied`, `NoSpace`, `Io`.
pub fn set_xattr(file: impl AsFd, key: &[u8], value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(file, OsStr::from_bytes(key), value, XattrFlags::empty())
        .map_err(|e| failed("cannot set the extended attribute", e))
}

#[cfg(test)]
mod tests {
    use super::{FileType, Special, hold, set_mode, special, symlink};
    use crate::error::ErrorKind;
    use crate::sys::Dir;
    use std::ffi::OsStr;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn names_are_single_components_and_nothing_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        for bad in ["", ".", "..", "a/b", "/a", "../a"] {
            let error = symlink(&dir, OsStr::new(bad), b"x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
        let link = symlink(&dir, OsStr::new("a"), b"/etc/passwd").unwrap();
        let error = symlink(&dir, OsStr::new("a"), b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let before = std::fs::metadata("/etc/passwd").unwrap().mtime();
        link.set_times((-7, 5), (-7, 5)).unwrap();
        let link = std::fs::symlink_metadata(temp.path().join("a")).unwrap();
        assert_eq!(link.mtime(), -7);
        assert_eq!(std::fs::metadata("/etc/passwd").unwrap().mtime(), before);
        special(&dir, OsStr::new("fifo"), Special::Fifo, 0o666).unwrap();
        let fifo = std::fs::metadata(temp.path().join("fifo")).unwrap();
        assert_eq!(fifo.mode() & 0o7777, 0o666);
        let error = special(&dir, OsStr::new("a"), Special::Fifo, 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        set_mode(&dir, 0o711).unwrap();
        assert_eq!(
            std::fs::metadata(temp.path()).unwrap().mode() & 0o7777,
            0o711
        );
    }
    /// Puts another kind of file in place of the new one, and a file with a second name elsewhere.
    #[test]
    fn what_others_have_put_in_its_place_is_given_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let name = OsStr::new("a");
        let path = temp.path().join("a");
        let link = symlink(&dir, name, b"x").unwrap();
        std::fs::rename(&path, temp.path().join("kept")).unwrap();
        std::fs::write(&path, "another").unwrap();
        // The new file gets the attribute, wherever it is now.
        link.set_times((-7, 5), (-7, 5)).unwrap();
        let kept = std::fs::symlink_metadata(temp.path().join("kept")).unwrap();
        assert_eq!(kept.mtime(), -7);
        assert!(std::fs::metadata(&path).unwrap().mtime() > 0);
        assert!(hold(&dir, name, FileType::Symlink).is_err());
        hold(&dir, name, FileType::RegularFile).unwrap();
        std::fs::hard_link(&path, temp.path().join("b")).unwrap();
        assert!(hold(&dir, name, FileType::RegularFile).is_err());
    }
}
