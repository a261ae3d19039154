//! A directory handle. Everything below it is opened by relative path, never through a symlink or magic link,
//! and never outside.
//!
//! # Invariants
//! - Paths are relative and consist of plain components; `..` and absolute paths are refused before any
//!   system call.
//! - Files are regular files: opened with `O_NONBLOCK` (so that a FIFO cannot block) and checked with fstat.
//!   All descriptors are close-on-exec.
//! - A path that is or passes a symlink, or is not a regular file, yields `Corrupt`: restorefs never makes
//!   such files there.
//!
//! # Why
//! openat2 resolves a path in one call with `RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS`. Where it is
//! unavailable (old kernels, seccomp), each component is opened with `O_NOFOLLOW` in turn: the same guarantee
//! with more calls.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::refuse::{self, Call};
pub use super::stat::{Kind, Stat};
use crate::error::{Error, ErrorKind, Result};

/// LIMIT: deepest tree that [`Dir::remove_tree`] walks (our limit; sessions are 3 deep).
const DEPTH_MAX: u32 = 64;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// An open directory, below which files are opened by relative path without symlinks.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// Owner of new files below, when it is not this process's user.
    heir: Option<(Uid, Gid)>,
}

fn resolves() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// Whether the kernel permits openat2; tested once.
pub(super) fn has_openat2() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let answer = refuse::check(Call::Openat2).and_then(|()| {
            rustix::fs::openat2(
                rustix::fs::CWD,
                ".",
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                resolves(),
            )
            .map_err(io::Error::from)
        });
        if let Err(error) = &answer {
            tracing::warn!(%error, "openat2 is refused here; paths are opened component by component");
        }
        answer.is_ok()
    })
}

/// Checks that a path is relative and has only plain components.
fn plain(path: &Path) -> Result<()> {
    let plain = path.as_os_str().is_empty()
        || path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.as_os_str().as_bytes().contains(&0) {
        Ok(())
    } else {
        Err(Error::invalid("not a relative path of plain components").at_path(path))
    }
}

impl Dir {
    /// Opens a directory that the caller names; symlinks in `path` itself are followed.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied`, `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| Error::io("cannot open the directory", e.into()).at_path(path))?;
        Ok(Self {
            fd,
            path: path.to_path_buf(),
            heir: None,
        })
    }

    /// Makes new files that root creates below belong to the owner of this directory, so that a process of
    /// that user can change them later.
    ///
    /// # Errors
    /// `Io`.
    pub fn keeping_owner(mut self) -> Result<Self> {
        if rustix::process::geteuid().is_root() {
            let stat = rustix::fs::fstat(&self.fd).map_err(|e| {
                Error::io("cannot stat the directory", e.into()).at_path(&self.path)
            })?;
            let heir = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            self.heir = (!heir.0.is_root()).then_some(heir);
        }
        Ok(self)
    }

    /// Gives a new file to the user that it must belong to.
    fn bequeath(&self, fd: impl AsFd) {
        static SAID: std::sync::Once = std::sync::Once::new();
        let Some((uid, gid)) = self.heir else {
            return;
        };
        if let Err(error) = rustix::fs::fchown(fd, Some(uid), Some(gid)) {
            SAID.call_once(|| {
                tracing::warn!(path = %self.path.display(), %error,
                    "what root makes here stays root's: the directory's owner cannot change it");
            });
        }
    }

    /// The path by which the directory was opened, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the error of a call on `path` below this directory.
    fn failed(&self, what: &'static str, path: &Path, errno: Errno) -> Error {
        let at = self.path.join(path);
        match errno {
            Errno::LOOP | Errno::XDEV => Error::new(
                ErrorKind::Corrupt,
                format!("{what}: it is or passes a symlink, which is never followed here"),
            ),
            _ => Error::io(what, errno.into()),
        }
        .at_path(at)
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        if has_openat2() {
            // Without O_NOFOLLOW: NO_SYMLINKS refuses the last component too, and always with ELOOP.
            return rustix::fs::openat2(&self.fd, path, flags, mode, resolves());
        }
        let mut at: Option<OwnedFd> = None;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            let (flags, mode) = if last {
                (flags | OFlags::NOFOLLOW, mode)
            } else {
                (
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                    Mode::empty(),
                )
            };
            let dir = at.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let opened = rustix::fs::openat(dir, part.as_os_str(), flags, mode);
            // O_DIRECTORY with O_NOFOLLOW fails with ENOTDIR for a symlink; openat2 fails with ELOOP.
            if opened.as_ref().err() == Some(&Errno::NOTDIR) {
                let stat = rustix::fs::statat(dir, part.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)?;
                if Stat::from_raw(&stat).kind == Kind::Symlink {
                    return Err(Errno::LOOP);
                }
            }
            at = Some(opened?);
        }
        at.ok_or(Errno::INVAL)
    }

    /// The parent directory of `path`, and the last component.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        plain(path)?;
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid("the path names the root itself").at_path(&self.path))?;
        let above = path.parent().unwrap_or(Path::new(""));
        let fd = self
            .resolve(above, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(|e| self.failed("cannot open the directory", above, e))?;
        Ok((fd, name))
    }

    /// Opens a directory below; the empty path opens this one again.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Corrupt` (symlink), `Io`.
    pub fn dir(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        plain(path)?;
        let fd = self
            .resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|e| self.failed("cannot open the directory", path, e))?;
        Ok(Self {
            fd,
            path: self.path.join(path),
            heir: self.heir,
        })
    }

    /// Opens a regular file below.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when it is or passes a symlink or is not a regular file; `PermissionDenied`,
    /// `Io`.
    pub fn open_file(&self, path: impl AsRef<Path>, access: Access) -> Result<File> {
        let path = path.as_ref();
        plain(path)?;
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let fd = self
            .resolve(
                path,
                flags | OFlags::NONBLOCK | OFlags::NOCTTY,
                Mode::empty(),
            )
            // open(2) fails with ENXIO for a socket.
            .map_err(|e| match e {
                Errno::NXIO => self.not_regular(path, Kind::Other),
                e => self.failed("cannot open the file", path, e),
            })?;
        let stat = Stat::of(&fd)?;
        if stat.kind != Kind::File {
            return Err(self.not_regular(path, stat.kind));
        }
        if access == Access::ReadWrite {
            self.check_owner(&stat, path)?;
        }
        Ok(File::from(fd))
    }

    /// Opens a regular file below for reading, in order to change its permissions.
    ///
    /// # Errors
    /// As [`Dir::open_file`] for writing.
    pub fn open_to_protect(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let file = self.open_file(path, Access::Read)?;
        self.check_owner(&Stat::of(&file)?, path)?;
        Ok(file)
    }

    /// Refuses that root changes a file of another user than the directory's owner: the owner can have
    /// hard-linked any file of the machine there.
    fn check_owner(&self, stat: &Stat, path: &Path) -> Result<()> {
        match self.heir {
            Some((uid, _)) if uid.as_raw() != stat.uid => Err(Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "the file belongs to user {}, but its directory to user {}: root does not change such a file",
                    stat.uid,
                    uid.as_raw()
                ),
            )
            .at_path(self.path.join(path))
            .advise("if it is no link to something else (stat -c %h), give it to the owner of the repository: chown")),
            _ => Ok(()),
        }
    }

    fn not_regular(&self, path: &Path, kind: Kind) -> Error {
        Error::corrupt(
            "not a regular file",
            "a regular file",
            format!("{kind:?}").to_lowercase(),
        )
        .at_path(self.path.join(path))
    }

    /// Creates a regular file below, for reading and writing; its name is durable after [`Dir::sync`].
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` (no such directory), `NoSpace`, `ReadOnly`, `Io`.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let path = path.as_ref();
        plain(path)?;
        self.resolve(
            path,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            Mode::from_raw_mode(mode),
        )
        .map(File::from)
        .inspect(|file| self.bequeath(file))
        .map_err(|e| self.failed("cannot create the file", path, e))
    }

    /// Makes a directory below.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound`, `NoSpace`, `ReadOnly`, `Io`.
    pub fn make_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode))
            .map_err(|e| self.failed("cannot make the directory", path, e))?;
        if self.heir.is_some() {
            self.bequeath(&self.dir(path)?.fd);
        }
        Ok(())
    }

    /// Makes a directory and its missing parents; the names are durable when the call returns.
    ///
    /// # Errors
    /// `NotADirectory`, `Corrupt` (symlink), `NoSpace`, `ReadOnly`, `Io`.
    pub fn make_dirs(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        plain(path)?;
        match self.dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map(drop),
        }
        let above = path.parent().unwrap_or(Path::new(""));
        self.make_dirs(above, mode)?;
        match self.make_dir(path, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.dir(path).map(drop),
            Err(error) => Err(error),
            Ok(()) => self.sync(above),
        }
    }

    /// Removes a name that is not a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, `PermissionDenied`, `Io`.
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())
            .map_err(|e| self.failed("cannot delete the file", path, e))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NotEmpty`, `Io`.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (parent, name) = self.parent(path)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(|e| match e {
            // POSIX allows either error for a directory that is not empty.
            Errno::EXIST => self.failed("cannot remove the directory", path, Errno::NOTEMPTY),
            e => self.failed("cannot remove the directory", path, e),
        })
    }

    /// Removes a directory and everything below it; symlinks are removed, not followed.
    ///
    /// # Errors
    /// `NotFound`, `LimitExceeded` (too deep), `Io`.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.dir(path)?.empty(0)?;
        self.remove_dir(path)
    }

    fn empty(&self, depth: u32) -> Result<()> {
        if depth >= DEPTH_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the tree to remove is deeper than {DEPTH_MAX}"),
            )
            .at_path(&self.path));
        }
        for (name, stat) in self.list("")? {
            if stat.kind == Kind::Directory {
                self.dir(&name)?.empty(depth + 1)?;
                self.remove_dir(&name)?;
            } else {
                self.unlink(&name)?;
            }
        }
        Ok(())
    }

    /// Renames within this directory's tree, replacing a file at the new name.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `IsADirectory`, `Io`.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        rustix::fs::renameat(&from_dir, from_name, &to_dir, to_name)
            .map_err(|e| self.failed("cannot rename", from, e))
    }

    /// renameat2 with `RENAME_NOREPLACE`; `None` where the filesystem does not support the flag.
    pub(super) fn rename_noreplace_flag(&self, from: &Path, to: &Path) -> Result<Option<()>> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if refuse::check(Call::Renameat2).is_err() {
            return Ok(None);
        }
        match rustix::fs::renameat_with(
            &from_dir,
            from_name,
            &to_dir,
            to_name,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => Ok(Some(())),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::EXIST) => Err(self.failed("cannot rename", to, Errno::EXIST)),
            Err(e) => Err(self.failed("cannot rename", from, e)),
        }
    }

    /// Makes a hard link; never replaces a file.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound`, `Unsupported` where the filesystem has no hard links, `Io`.
    pub fn link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if refuse::check(Call::Link).is_err() {
            return Err(self.failed("cannot link", from, Errno::OPNOTSUPP));
        }
        rustix::fs::linkat(&from_dir, from_name, &to_dir, to_name, AtFlags::empty()).map_err(|e| {
            match e {
                Errno::PERM => self.failed("cannot link", from, Errno::OPNOTSUPP),
                e => self.failed("cannot link", to, e),
            }
        })
    }

    /// Facts about a name, without following a symlink; `None` when it does not exist.
    ///
    /// # Errors
    /// `Corrupt` (passes a symlink), `Io`.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Stat>> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() {
            return Stat::of(&self.fd).map(Some);
        }
        let (parent, name) = match self.parent(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::from_raw(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed("cannot stat", path, e)),
        }
    }

    /// All names directly below `path` with their facts, unordered, without `.` and `..`. A name that
    /// vanishes meanwhile is skipped.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Corrupt` (symlink), `Io`.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, Stat)>> {
        self.entries(path, |dir, name, _| dir.look(name))
    }

    /// Names in a directory, each with the size of the file in bytes; `None` for a directory. Where the filesystem
    /// tells by itself which names are directories, these are not looked at.
    ///
    /// # Errors
    /// As [`Dir::list`].
    pub fn list_sizes(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, Option<u64>)>> {
        self.entries(path, |dir, name, kind| {
            if kind == FileType::Directory {
                return Ok(Some(None));
            }
            let stat = dir.look(name)?;
            Ok(stat.map(|stat| (stat.kind != Kind::Directory).then_some(stat.size_bytes)))
        })
    }

    /// Facts about a name directly in this directory; `None` when it has vanished.
    fn look(&self, name: &OsStr) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::from_raw(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed("cannot stat", Path::new(name), e)),
        }
    }

    /// The entries of a directory, as `look` sees them; those for which it answers `None` are skipped.
    fn entries<T>(
        &self,
        path: impl AsRef<Path>,
        look: impl Fn(&Self, &OsStr, FileType) -> Result<Option<T>>,
    ) -> Result<Vec<(OsString, T)>> {
        let dir = self.dir(path)?;
        let failed = |e: Errno| dir.failed("cannot list the directory", Path::new(""), e);
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name);
            if let Some(found) = look(&dir, name, entry.file_type())? {
                entries.push((name.to_os_string(), found));
            }
        }
        Ok(entries)
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn sync(&self, path: impl AsRef<Path>) -> Result<()> {
        let dir = self.dir(path)?;
        match rustix::fs::fsync(&dir.fd) {
            // SMB and some FUSE filesystems cannot sync a directory; nothing else can be done.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(e) => Err(dir.failed("cannot make the directory durable", Path::new(""), e)),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Dir, Kind};
    use crate::error::ErrorKind;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    fn setup() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn what_leaves_the_directory_is_refused() {
        let (temp, dir) = setup();
        dir.make_dirs("a/b", 0o755).unwrap();
        for bad in ["../x", "/etc/passwd", "a/../../x", "a/.."] {
            let error = dir.open_file(bad, Access::Read).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
        symlink("/etc", temp.path().join("out")).unwrap();
        symlink("b", temp.path().join("a/in")).unwrap();
        for bad in ["out/passwd", "out", "a/in/x", "a/in"] {
            let error = dir.open_file(bad, Access::Read).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}: {error:?}");
            assert!(error.to_string().contains("symlink"), "{error}");
        }
        assert_eq!(dir.dir("out").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(
            dir.create_file("out/x", 0o644).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(
            dir.make_dirs("a/in/new", 0o755).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(dir.stat("out").unwrap().unwrap().kind, Kind::Symlink);
    }

    #[test]
    fn a_fifo_neither_hangs_nor_opens() {
        let (_temp, dir) = setup();
        rustix::fs::mkfifoat(&dir, "fifo", rustix::fs::Mode::RUSR).unwrap();
        for access in [Access::Read, Access::ReadWrite] {
            let error = dir.open_file("fifo", access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        }
        let error = dir.open_file("", Access::Read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn files_and_directories_come_and_go() {
        let (temp, dir) = setup();
        dir.make_dirs("a/b/c", 0o755).unwrap();
        dir.make_dirs("a/b/c", 0o755).unwrap();
        let mut file = dir.create_file("a/b/f", 0o644).unwrap();
        file.write_all(b"hello").unwrap();
        assert_eq!(
            dir.create_file("a/b/f", 0o644).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(dir.stat("a/b/f").unwrap().unwrap().size_bytes, 5);
        assert_eq!(dir.stat("a/zzz/f").unwrap(), None);
        dir.rename("a/b/f", "a/g").unwrap();
        let mut names: Vec<_> = dir
            .list("a")
            .unwrap()
            .into_iter()
            .map(|(name, stat)| (name.into_string().unwrap(), stat.kind))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(
            names,
            [
                ("b".to_owned(), Kind::Directory),
                ("g".to_owned(), Kind::File)
            ]
        );
        let mut sizes = dir.list_sizes("a").unwrap();
        sizes.sort();
        let size = dir.stat("a/g").unwrap().unwrap().size_bytes;
        assert_eq!(sizes, [("b".into(), None), ("g".into(), Some(size))]);
        assert_eq!(dir.remove_dir("a").unwrap_err().kind(), ErrorKind::NotEmpty);
        // The target of a symlink in the tree stays.
        std::fs::create_dir(temp.path().join("keep")).unwrap();
        std::fs::write(temp.path().join("keep/x"), b"x").unwrap();
        symlink("../../keep", temp.path().join("a/b/link")).unwrap();
        dir.remove_tree("a").unwrap();
        assert_eq!(dir.stat("a").unwrap(), None);
        assert!(temp.path().join("keep/x").exists());
        assert_eq!(dir.unlink("a").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_directory() {
        use std::os::unix::fs::MetadataExt;
        let (temp, _) = setup();
        if std::os::unix::fs::chown(temp.path(), Some(4711), Some(4712)).is_err() {
            // Only root can make files for others, so the test has nothing to check.
            return;
        }
        let dir = Dir::open(temp.path()).unwrap().keeping_owner().unwrap();
        dir.make_dirs("a/b", 0o755).unwrap();
        dir.dir("a").unwrap().create_file("b/f", 0o644).unwrap();
        for path in ["a", "a/b", "a/b/f"] {
            let meta = std::fs::metadata(temp.path().join(path)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (4711, 4712), "{path}");
        }
        let plain = Dir::open(temp.path()).unwrap();
        plain.create_file("own", 0o644).unwrap();
        assert_eq!(std::fs::metadata(temp.path().join("own")).unwrap().uid(), 0);
        // A file of root's that exists anyway is readable but not writable: the owner can have linked it
        // there.
        dir.open_file("own", Access::Read).unwrap();
        dir.open_file("a/b/f", Access::ReadWrite).unwrap();
        dir.open_to_protect("a/b/f").unwrap();
        for refused in [
            dir.open_file("own", Access::ReadWrite),
            dir.open_to_protect("own"),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        plain.open_file("own", Access::ReadWrite).unwrap();
    }
}
