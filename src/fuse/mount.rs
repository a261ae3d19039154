//! Mounting and unmounting.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::mount::UnmountFlags;

use super::adapter::Adapter;
use super::follow::{Follower, Wake};
use super::notify::Notify;
use super::options::MountOptions;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tree::{Ino, Tree};

/// Type of the mount as mountinfo shows it.
const TYPE: &str = "fuse.restorefs";
/// Readahead of the mount where we may set it: four of the kernel's largest requests, so that several run at once.
const READAHEAD_KB: &str = "4096";

/// Threads beyond one for each processor: one that waits for a guest's reader does not serve others.
const SPARE_THREADS: usize = 6;
/// LIMIT: how often a busy mount is tried again, and how long is waited between: half a second in all.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// LIMIT: how long a mount that is there already may take to say that it lives.
const ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// LIMIT: how long a refresh waits for the kernel.
const REFRESH_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// What runs while something is mounted.
struct Running {
    session: BackgroundSession,
    follower: Follower,
    notify: Notify,
}

/// A mount that is served by threads of this process; dropping it unmounts lazily and does not wait for those who use it.
pub struct Mounted {
    running: Mutex<Option<Running>>,
    mountpoint: PathBuf,
    /// Device number as mountinfo shows it: tells our mount from a later one at the same path.
    device: String,
    notifier: Notifier,
}

/// Mounts a tree.
///
/// # Errors
/// `InvalidInput` when the mountpoint is no directory, lies in the repository, or the repository in it, and for options that only a mount
/// that can be written has; `Busy` when a repository is mounted there already; `PermissionDenied`; `Io`.
pub fn mount(tree: &Arc<Tree>, mountpoint: &Path, options: &MountOptions) -> Result<Mounted> {
    let mountpoint = prepare(tree, mountpoint)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("restorefs".to_owned()),
        // Not `Subtype`, which a mount without the helper leaves out.
        MountOption::CUSTOM("subtype=restorefs".to_owned()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    let is_writable = tree.is_writable() && options.read_only != Some(true);
    if !is_writable && options.read_only == Some(false) {
        return Err(Error::invalid(
            "only a daemon's own mount can be written (restorefs serve --mount)",
        )
        .at_path(&mountpoint));
    }
    if !is_writable && options.allow_forget {
        return Err(Error::invalid(
            "allow_forget is for a mount that can be written (restorefs serve --mount, not ro)",
        )
        .at_path(&mountpoint));
    }
    config.mount_options.push(if is_writable {
        MountOption::RW
    } else {
        MountOption::RO
    });
    if !options.exec {
        config.mount_options.push(MountOption::NoExec);
    }
    if let Some(bytes) = options.max_read {
        config
            .mount_options
            .push(MountOption::CUSTOM(format!("max_read={bytes}")));
    }
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from) + SPARE_THREADS;
    config.n_threads = Some(options.threads.unwrap_or(threads));
    config.clone_fd = true;
    let failed = |e: std::io::Error| {
        let error = Error::io("cannot mount", e).at_path(&mountpoint);
        match error.kind() {
            ErrorKind::PermissionDenied if options.allow_other => {
                error.advise("allow_other needs the line user_allow_other in /etc/fuse.conf")
            }
            ErrorKind::PermissionDenied => error.advise(
                "who is not root needs fusermount3 (Debian: fuse3) and access to /dev/fuse",
            ),
            ErrorKind::NotFound => error.advise("is the kernel module loaded? modprobe fuse"),
            _ => error,
        }
    };
    let session =
        Session::new(Adapter::new(Arc::clone(tree)), &mountpoint, &config).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    let notifier = session.notifier();
    let notify = Notify::start(notifier.clone())?;
    let follower = Follower::start(tree, notify.sender(), options.follow)?;
    widen_readahead(&mountpoint);
    let device = mounts_at(&mountpoint)?
        .pop()
        .map_or_else(String::new, |mount| mount.device);
    tracing::info!(mountpoint = %mountpoint.display(), "mounted");
    Ok(Mounted {
        running: Mutex::new(Some(Running {
            session,
            follower,
            notify,
        })),
        mountpoint,
        device,
        notifier,
    })
}

/// Whether a process that has died has left a mount there. statfs always asks the other end, while attributes may still be cached; when
/// nobody answers at all, a thread of that process could not end.
fn is_dead(mountpoint: &Path, silence_is_death: bool) -> bool {
    let (answered, answer) = std::sync::mpsc::channel();
    let path = mountpoint.to_owned();
    let ask = move || {
        let dead = rustix::fs::statfs(&path).is_err_and(|e| e == rustix::io::Errno::NOTCONN);
        // Nobody listens any more when it took too long.
        let _ = answered.send(dead);
    };
    if std::thread::Builder::new().spawn(ask).is_err() {
        return false;
    }
    answer
        .recv_timeout(ANSWER_PATIENCE)
        .unwrap_or(silence_is_death)
}

/// Checks the mountpoint, and takes away what a process that died has left there.
fn prepare(tree: &Tree, mountpoint: &Path) -> Result<PathBuf> {
    // Who has the lock is the only daemon: one that does not answer is not alive.
    if is_dead(mountpoint, tree.is_writable()) {
        tracing::warn!(
            mountpoint = %mountpoint.display(),
            "a dead mount is there, of a process that has ended; it is unmounted first"
        );
        // By force: whoever waits for an answer of that process is told that there is none.
        let forced = rustix::mount::unmount(mountpoint, UnmountFlags::FORCE | UnmountFlags::DETACH);
        forced.or_else(|_| detach(mountpoint))?;
    }
    let resolved = std::fs::canonicalize(mountpoint)
        .or_io("cannot use the mountpoint")
        .at_path(mountpoint)?;
    if !resolved.is_dir() {
        return Err(Error::new(
            ErrorKind::NotADirectory,
            "the mountpoint is not a directory",
        )
        .at_path(mountpoint));
    }
    if let Some(root) = tree.repository().store().local_root() {
        let root = std::fs::canonicalize(root)
            .or_io("cannot resolve the repository's path")
            .at_path(root)?;
        if resolved.starts_with(&root) {
            return Err(Error::invalid(format!(
                "the mountpoint lies in the repository {}: reading it would wait for itself",
                root.display()
            ))
            .at_path(mountpoint)
            .advise("choose a mountpoint outside the repository"));
        }
        if root.starts_with(&resolved) {
            return Err(Error::invalid(format!(
                "the mountpoint would hide the repository {}",
                root.display()
            ))
            .at_path(mountpoint)
            .advise("choose a mountpoint outside the repository"));
        }
    }
    if mounts_at(&resolved)?.last().is_some_and(|m| m.kind == TYPE) {
        return Err(
            Error::new(ErrorKind::Busy, "a repository is mounted there already")
                .at_path(mountpoint)
                .advise("unmount it first: restorefs umount DIR"),
        );
    }
    Ok(resolved)
}

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct MountEntry {
    /// `fuse.restorefs`, `ext4`, ...
    kind: String,
    /// major:minor.
    device: String,
}

/// What is mounted at exactly this path, the topmost last.
fn mounts_at(path: &Path) -> Result<Vec<MountEntry>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").or_io("cannot read the mounts")?;
    Ok(entries_at(&text, path))
}

/// proc(5): field 3 is the device, field 5 the mountpoint with octal escapes; the type is the first after the lone hyphen.
fn entries_at(mountinfo: &str, path: &Path) -> Vec<MountEntry> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let device = fields.next()?.to_owned();
            let mountpoint = unescape(fields.nth(1)?);
            let (_, after) = line.split_once(" - ")?;
            let kind = after.split(' ').next()?.to_owned();
            (mountpoint == path.as_os_str().as_encoded_bytes())
                .then_some(MountEntry { kind, device })
        })
        .collect()
}

fn unescape(field: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(*first));
        rest = match octal {
            Some(_) => tail.get(3..).unwrap_or_default(),
            None => tail,
        };
    }
    out
}

/// Raises the mount's readahead; only root may, and nothing depends on it.
fn widen_readahead(mountpoint: &Path) {
    let Ok(metadata) = std::fs::metadata(mountpoint) else {
        return;
    };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let written = std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(READAHEAD_KB.as_bytes()));
    if let Err(error) = written {
        tracing::debug!(%path, %error, "the kernel's own readahead is used");
    }
}

/// Takes a mount away at once; who still uses it keeps it until done.
fn detach(mountpoint: &Path) -> Result<()> {
    unmount_by(
        mountpoint,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        &["-u", "-z", "-q", "--"],
    )
}

/// Unmounts what is mounted at a path, with `lazy` also while somebody uses it.
///
/// # Errors
/// `InvalidInput` when no repository is mounted there; `Busy`; `PermissionDenied`; `Io`.
pub fn umount(mountpoint: &Path, lazy: bool) -> Result<()> {
    // A dead mount cannot be resolved; then the path is taken as it is.
    let resolved = std::fs::canonicalize(mountpoint).or_else(|_| std::path::absolute(mountpoint));
    let resolved = resolved
        .or_io("cannot use the mountpoint")
        .at_path(mountpoint)?;
    match mounts_at(&resolved)?.last() {
        Some(mount) if mount.kind == TYPE => {}
        _ => return Err(Error::invalid("no repository is mounted there").at_path(mountpoint)),
    }
    if lazy {
        return detach(&resolved);
    }
    let mut tries = 0;
    loop {
        match unmount_by(&resolved, UnmountFlags::NOFOLLOW, &["-u", "-q", "--"]) {
            // The kernel lets go of a file a moment after its last user has closed it.
            Err(e) if e.kind() == ErrorKind::Busy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

fn unmount_by(mountpoint: &Path, flags: UnmountFlags, helper: &[&str]) -> Result<()> {
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => return Ok(()),
        // Not root: the setuid helper knows who mounted.
        Err(rustix::io::Errno::PERM) => {}
        Err(e) => {
            let error = Error::io("cannot unmount", e.into()).at_path(mountpoint);
            return Err(if error.kind() == ErrorKind::Busy {
                error.advise("close what uses it (fuser -vm DIR), or unmount lazily")
            } else {
                error
            });
        }
    }
    let output = Command::new("fusermount3")
        .args(helper)
        .arg(mountpoint)
        .output()
        .or_io("cannot run fusermount3")
        .at_path(mountpoint)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("busy") {
        ErrorKind::Busy
    } else {
        ErrorKind::PermissionDenied
    };
    Err(Error::new(kind, format!("cannot unmount: {said}")).at_path(mountpoint))
}

impl Mounted {
    /// Where it is mounted, resolved.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Shows what has been committed just now: returns once the kernel has been told, or after a moment.
    pub fn refresh(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wake) = running.as_ref().map(|running| running.follower.wake()) else {
            return;
        };
        drop(running);
        let (told, tell) = std::sync::mpsc::sync_channel(1);
        if wake.send(Wake::Now(told)).is_ok() {
            // A kernel that is slow to take notifications does not hold up a commit that is durable.
            let _ = tell.recv_timeout(REFRESH_PATIENCE);
        }
    }

    /// Has the kernel hand in what it holds of these files, and forget them. Waits for it: not to be called where the kernel waits for
    /// us with one of them locked.
    pub fn launder(&self, files: &[Ino]) {
        for file in files {
            // From 0 to the end. One that the kernel does not know has nothing to hand in.
            if let Err(error) = self.notifier.inval_inode(INodeNo(file.0), 0, 0) {
                tracing::debug!(?file, %error, "the kernel holds nothing of a file");
            }
        }
    }

    /// The same without waiting: for one who holds what the kernel needs to be told.
    pub fn wake(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_ref() {
            // A follower that has ended tells nobody any more.
            let _ = running.follower.wake().send(Wake::Changed);
        }
    }

    /// Unmounts and waits for the end; while somebody uses it, only with `lazy`, and then waits for him. When it fails, it is
    /// mounted as before. May be called while another thread waits.
    ///
    /// # Errors
    /// `Busy`, `Io`.
    pub fn unmount(&self, lazy: bool) -> Result<()> {
        if self.is_mounted() {
            umount(&self.mountpoint, lazy)?;
        }
        self.wait()
    }

    fn is_mounted(&self) -> bool {
        mounts_at(&self.mountpoint).is_ok_and(|mounts| {
            mounts
                .last()
                .is_some_and(|mount| mount.kind == TYPE && mount.device == self.device)
        })
    }

    fn take(&self) -> Option<Running> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.take()
    }

    /// Returns when it has been unmounted, by whomever, and all threads have ended; at once when another thread waits already.
    ///
    /// # Errors
    /// `Io` when the session ended with an error.
    pub fn wait(&self) -> Result<()> {
        let Some(running) = self.take() else {
            return Ok(());
        };
        let ended = running.session.join().or_io("the mount has failed");
        running.follower.stop();
        running.notify.finish();
        // A session that has failed leaves a dead mount.
        if self.is_mounted() {
            detach(&self.mountpoint)?;
        }
        ended.at_path(&self.mountpoint)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(running) = self.take() else {
            return;
        };
        running.follower.stop();
        running.notify.finish();
        if self.is_mounted()
            && let Err(error) = detach(&self.mountpoint)
        {
            tracing::warn!(error = %error.report(), "the mount is left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{entries_at, unescape};
    use std::path::Path;

    #[test]
    fn mounts_are_found_by_their_exact_path() {
        let text = "36 35 0:98 / /mnt/a\\040b ro,nosuid - fuse.restorefs restorefs ro\n\
                    37 35 8:1 / /mnt rw shared:1 - ext4 /dev/sda1 rw\n\
                    38 37 0:99 / /mnt ro - fuse.restorefs restorefs ro\n";
        let kinds = |path: &str| -> Vec<String> {
            let entries = entries_at(text, Path::new(path));
            entries.into_iter().map(|entry| entry.kind).collect()
        };
        assert_eq!(kinds("/mnt/a b"), ["fuse.restorefs"]);
        assert_eq!(kinds("/mnt"), ["ext4", "fuse.restorefs"]);
        assert!(kinds("/mn").is_empty());
        let last = entries_at(text, Path::new("/mnt")).pop();
        assert_eq!(last.map(|entry| entry.device).as_deref(), Some("0:99"));
        assert_eq!(unescape("a\\134\\x\\04"), b"a\\\\x\\04");
    }
}
