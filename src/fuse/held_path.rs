//! A path to a mountpoint, walked one component at a time and held open: root mounts and unmounts at the
//! directory that it checked, even if the path leads elsewhere a moment later.
//!
//! # Invariants
//! - A symlink is followed only where nobody but root and this user can have created it.
//! - No FUSE mount of another user is entered: its process may never answer, and nothing ends the wait.
//!
//! # Why
//! A user with write permission on a directory of the path can replace the entries in it. Root would then
//! cover one of its own directories with a mount, or unmount another mount. Ownership by a user is not a
//! problem by itself: a real directory that is not a symlink belongs to its user.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mountinfo::{self, mount_id, trusted};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: symlinks in a path, as in the kernel (path_resolution(7)).
const LINKS_MAX: u32 = 40;
const WRITABLE_BY_OTHERS: u16 = 0o022;
const STICKY: u16 = 0o1000;

/// A directory on the path.
#[derive(Debug)]
struct Step {
    descriptor: OwnedFd,
    name: OsString,
}

/// A directory, held open together with all directories that lead to it.
#[derive(Debug)]
pub(super) struct HeldPath {
    steps: Vec<Step>,
    /// Whether nobody but root and this user can replace any component.
    is_firm: bool,
}

/// Whether a user may replace components without being an attacker: root and this user.
fn is_friend(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Whether other users can replace an entry of a directory.
fn can_exchange(above: &Statx, entry: &Statx) -> bool {
    let is_sticky = above.stx_mode & STICKY != 0;
    let is_shared = above.stx_mode & WRITABLE_BY_OTHERS != 0;
    !is_friend(above.stx_uid) || (is_shared && !(is_sticky && is_friend(entry.stx_uid)))
}

/// The components of a path, including `..` and `/`.
fn parts(path: &Path) -> VecDeque<OsString> {
    let own = |part: Component<'_>| match part {
        Component::CurDir => None,
        part => Some(part.as_os_str().to_owned()),
    };
    path.components().filter_map(own).collect()
}

/// Facts about a directory, without a request to the process that serves it.
fn stat(descriptor: &OwnedFd) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID;
    rustix::fs::statx(descriptor, "", flags, mask)
}

fn kind(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Opens an entry without following a symlink. It tries O_DIRECTORY first, which triggers automounts.
fn open(above: &OwnedFd, name: &OsStr, is_last: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !is_last {
        match rustix::fs::openat(above, name, flags | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR) => {}
            other => return other,
        }
    }
    rustix::fs::openat(above, name, flags, Mode::empty())
}

impl HeldPath {
    /// Walks to a directory. Only mounts of root and of `users` are entered.
    ///
    /// # Errors
    /// `PermissionDenied` where another user may have created a symlink on the path; `Busy` where it leads
    /// through another user's mount; `NotFound`, `NotADirectory`, `Io`.
    pub(super) fn walk(path: &Path, users: &[u32]) -> Result<Self> {
        let failed = |e: Errno| Error::io("cannot use the mountpoint", e.into()).at_path(path);
        let absolute = std::path::absolute(path).or_io("cannot tell the mountpoint's path")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open("/", flags, Mode::empty()).map_err(failed)?;
        let mut steps = vec![Step {
            descriptor: top,
            name: OsString::new(),
        }];
        let (mut rest, mut links, mut is_firm) = (parts(&absolute), 0, true);
        while let Some(name) = rest.pop_front() {
            if name == "/" {
                steps.truncate(1);
                continue;
            }
            if name == ".." {
                steps.truncate(steps.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(above) = steps.last() else { break };
            check_entry(&above.descriptor, users).at_path(path)?;
            let next = open(&above.descriptor, &name, rest.is_empty()).map_err(failed)?;
            // A mount is a directory that cannot be renamed, so the checks that need a request to it are
            // skipped.
            let is_mount = mount_id(&next)? != mount_id(&above.descriptor)?;
            let entry = (!is_mount)
                .then(|| stat(&next))
                .transpose()
                .map_err(failed)?;
            let kind = entry.map_or(FileType::Directory, |entry| kind(&entry));
            let above = stat(&above.descriptor).map_err(failed)?;
            let is_loose = entry.is_some_and(|entry| can_exchange(&above, &entry));
            match kind {
                FileType::Symlink if is_loose && rustix::process::geteuid().is_root() => {
                    return Err(strange_link(&steps, &name));
                }
                FileType::Symlink if links == LINKS_MAX => return Err(failed(Errno::LOOP)),
                FileType::Symlink => {
                    links += 1;
                    let target = rustix::fs::readlinkat(&next, "", Vec::new()).map_err(failed)?;
                    let target = OsString::from_vec(target.into_bytes());
                    for part in parts(Path::new(&target)).into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                FileType::Directory => {
                    is_firm &= !is_loose;
                    let descriptor = next;
                    steps.push(Step { descriptor, name });
                }
                _ => {
                    let what = "the mountpoint is not a directory";
                    return Err(Error::new(ErrorKind::NotADirectory, what).at_path(path));
                }
            }
        }
        Ok(Self { steps, is_firm })
    }

    fn descriptor(&self) -> Result<&OwnedFd> {
        let last = self.steps.last().map(|step| &step.descriptor);
        last.ok_or_else(|| Error::invalid("a path of no components"))
    }

    /// Fails where another user has mounted something on the directory itself.
    ///
    /// # Errors
    /// `Busy`.
    pub(super) fn check_place(&self, users: &[u32]) -> Result<()> {
        check_entry(self.descriptor()?, users)
    }

    /// The held directory.
    ///
    /// # Errors
    /// None in practice: a walked path always has an end.
    pub(super) fn into_place(mut self) -> Result<OwnedFd> {
        let last = self.steps.pop().map(|step| step.descriptor);
        last.ok_or_else(|| Error::invalid("a path of no components"))
    }

    /// A path that always leads to the held directory, even when its name has been replaced.
    ///
    /// # Errors
    /// None in practice: a walked path always has an end.
    pub(super) fn place(&self) -> Result<PathBuf> {
        Ok(magic(self.descriptor()?))
    }

    /// Its path without symlinks.
    pub(super) fn path(&self) -> PathBuf {
        let names = self.steps.iter().map(|step| &step.name);
        Path::new("/").join(names.filter(|name| !name.is_empty()).collect::<PathBuf>())
    }

    /// Fails for a path on which other users than root and this user can replace a component: for mounts that
    /// are made by path.
    ///
    /// # Errors
    /// `PermissionDenied`, with advice.
    pub(super) fn require_firm(&self) -> Result<()> {
        // The mounts of a root user in a user's own namespace can do no harm.
        if self.is_firm || !is_root_of_the_machine() {
            return Ok(());
        }
        let what = "another user than root can replace the mountpoint by another directory";
        Err(Error::new(ErrorKind::PermissionDenied, what)
            .at_path(self.path())
            .advise(
                "choose one below directories that only root can write, or mount as their owner",
            ))
    }

    /// Unmounts the mount with this id on the directory, and no other; `false` when it is gone. The path may
    /// have been walked before or after the mount was made.
    ///
    /// # Errors
    /// The errno of umount2(2).
    pub(super) fn unmount(self, id: u64, flags: UnmountFlags) -> Result<bool, Errno> {
        let mut steps = self.steps;
        let Some(last) = steps.pop() else {
            return Ok(false);
        };
        // An open descriptor in the mount would make it busy. The kernel does not allow renaming or removing
        // a mountpoint in the directory above, which stays open.
        drop(last.descriptor);
        let Some(above) = steps.pop() else {
            return Ok(false);
        };
        let there = open(&above.descriptor, &last.name, true)?;
        if mount_id(&there).ok() != Some(id) {
            return Ok(false);
        }
        drop(there);
        let place = magic(&above.descriptor).join(&last.name);
        rustix::mount::unmount(place, flags | UnmountFlags::NOFOLLOW)?;
        Ok(true)
    }
}

/// The path of a directory without symlinks. It enters no mount of another user.
///
/// # Errors
/// `NotFound`, `NotADirectory`, `PermissionDenied` (a symlink that another user can have created), `Io`.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    HeldPath::walk(path, &trusted(None)).map(|way| way.path())
}

fn magic(descriptor: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}

/// Refuses to enter a mount of another user.
fn check_entry(above: &OwnedFd, users: &[u32]) -> Result<()> {
    let id = mount_id(above)?;
    let mut entries = mountinfo::all()?.into_iter();
    match entries.find(|entry| entry.id == id) {
        Some(entry) if !entry.is_trusted(users) => {
            let what = format!(
                "the mountpoint lies in a mount of another user ({})",
                entry.kind
            );
            Err(Error::new(ErrorKind::Busy, what).advise("choose another directory"))
        }
        _ => Ok(()),
    }
}

fn strange_link(steps: &[Step], name: &OsStr) -> Error {
    let above: PathBuf = steps.iter().map(|step| &step.name).collect();
    let what =
        "the path to the mountpoint has a symlink that another user than root can have created";
    Error::new(ErrorKind::PermissionDenied, what)
        .at_path(Path::new("/").join(above).join(name))
        .advise("name the directory that it leads to")
}

/// Whether this process is root outside a user namespace: inside one, directories of the machine's root
/// appear to belong to nobody.
fn is_root_of_the_machine() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && is_whole
}

#[cfg(test)]
mod tests {
    use super::HeldPath;
    use crate::error::ErrorKind;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_way_is_that_of_the_kernel() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::write(root.join("a/file"), "").unwrap();
        symlink("b/../b", root.join("a/link")).unwrap();
        symlink(root.join("a/link"), root.join("far")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for path in [
            "a/b/c",
            "a/./b",
            "a/link/c",
            "far/c/..",
            "a/b/../../a/b",
            ".",
        ] {
            let way = HeldPath::walk(&root.join(path), &[]).unwrap();
            let kernel = root.join(path).canonicalize().unwrap();
            assert_eq!(way.path(), kernel, "{path}");
            assert_eq!(way.place().unwrap().canonicalize().unwrap(), kernel);
        }
        assert_eq!(
            HeldPath::walk("/".as_ref(), &[])
                .unwrap()
                .path()
                .as_os_str(),
            "/"
        );
        for (path, kind) in [
            ("a/none", ErrorKind::NotFound),
            ("none/b", ErrorKind::NotFound),
            ("a/file", ErrorKind::NotADirectory),
            ("a/file/b", ErrorKind::NotADirectory),
        ] {
            let error = HeldPath::walk(&root.join(path), &[]).err().unwrap();
            assert_eq!(error.kind(), kind, "{path}: {error}");
        }
        assert!(HeldPath::walk(&root.join("loop"), &[]).is_err());
    }

    #[test]
    fn what_others_can_write_is_not_firm() {
        let temp = tempfile::tempdir().unwrap();
        let open = temp.path().join("open");
        std::fs::create_dir_all(open.join("mnt")).unwrap();
        symlink("/", open.join("link")).unwrap();
        for (mode, is_firm) in [
            (0o755, true),
            (0o777, false),
            (0o1777, true),
            (0o775, false),
        ] {
            std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
            let way = HeldPath::walk(&open.join("mnt"), &[]).unwrap();
            assert_eq!(way.is_firm, is_firm, "{mode:o}");
            // Only root needs the protection against foreign symlinks.
            let is_followed = is_firm || !rustix::process::geteuid().is_root();
            assert_eq!(
                HeldPath::walk(&open.join("link"), &[]).is_ok(),
                is_followed,
                "{mode:o}"
            );
        }
    }
}
