//! Mounting: threads of this process answer the kernel's requests.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};

use super::adapter::Adapter;
use super::ending;
use super::follow::{Follower, Wake};
use super::handed_mount::{self, HandedMount};
use super::label;
use super::mountinfo::{self, MountEntry, TYPE};
use super::mountpoint::{Subject, prepare};
use super::notify::Notify;
use super::options::MountOptions;
use super::readahead::widen_readahead;
use super::removal::detach;
use super::umount::umount;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tree::{Ino, Tree};
use crate::types::sync::Mutex;

/// Threads beyond one for each processor, because a thread that waits for a guest's reader serves no other
/// request.
const SPARE_THREADS: usize = 6;

/// LIMIT: time that a refresh waits for the kernel.
const REFRESH_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// State that exists while the tree is mounted.
struct Running {
    session: BackgroundSession,
    follower: Follower,
    notify: Notify,
}

/// A mount that threads of this process serve. Dropping it lazily unmounts a mount that this process made,
/// and does not wait for its users.
pub struct Mounted {
    running: Mutex<Option<Running>>,
    mountpoint: PathBuf,
    /// Device number as in mountinfo, which distinguishes this mount from a later one at the same path.
    /// `None` when another process made the mount.
    device: Option<String>,
    notifier: Notifier,
    /// Whether a thread has waited for the end of the session.
    ended: AtomicBool,
}

/// Mounts a tree.
///
/// # Errors
/// `InvalidInput` when the mountpoint is not a directory, lies in the repository, or contains it, and for
/// options that only a writable mount has; `NotEmpty`; `Busy` when a repository is mounted there already;
/// `PermissionDenied`; `Io`.
pub fn mount(tree: &Arc<Tree>, mountpoint: &Path, options: &MountOptions) -> Result<Mounted> {
    let subject = |is_by_path| Subject {
        repository: tree.repository().store().local_root(),
        // The holder of the lock is the only daemon.
        is_owner: tree.is_writable(),
        options,
        is_by_path,
    };
    if options.passthrough && !tree.options().passthrough {
        tracing::warn!("the disks are read without passthrough, which needs root");
    }
    if rustix::process::geteuid().is_root() {
        match mount_on_held(tree, &subject(false), mountpoint) {
            // A root user who cannot mount (in a container) uses the helper.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                tracing::debug!(error = %e.report(), "the helper mounts");
            }
            other => return other,
        }
    }
    mount_by_path(tree, &subject(true), mountpoint)
}

/// Mounts as root, on the directory that was checked.
fn mount_on_held(tree: &Arc<Tree>, subject: &Subject<'_>, mountpoint: &Path) -> Result<Mounted> {
    let options = subject.options;
    let source = subject.repository.unwrap_or(Path::new("restorefs"));
    let read_only = !options.is_writable(tree.is_writable())?;
    let made = HandedMount::make(subject, source, mountpoint, read_only)?;
    let descriptor = made
        .as_fd()
        .try_clone_to_owned()
        .or_io("cannot serve the mount")?;
    let mut mounted = serve(tree, descriptor, made.mountpoint(), options)?;
    mounted.device = Some(made.number().to_owned());
    made.served();
    Ok(mounted)
}

/// Lets the kernel, or for other users than root the helper, mount by path.
fn mount_by_path(tree: &Arc<Tree>, subject: &Subject<'_>, mountpoint: &Path) -> Result<Mounted> {
    let options = subject.options;
    let mountpoint = prepare(mountpoint, subject)?.path();
    let mut config = config(options);
    config.mount_options = mount_options(tree, options).at_path(&mountpoint)?;
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let failed = |e: std::io::Error| {
        let error = Error::io("cannot mount", e).at_path(&mountpoint);
        match error.kind() {
            ErrorKind::PermissionDenied if options.allow_other => {
                error.advise("allow_other needs the line user_allow_other in /etc/fuse.conf")
            }
            ErrorKind::PermissionDenied => error.advise(
                "without root, a mount needs fusermount3 (Debian: fuse3) and access to /dev/fuse",
            ),
            ErrorKind::NotFound => error.advise("is the kernel module loaded? modprobe fuse"),
            _ => error,
        }
    };
    let session =
        Session::new(Adapter::new(Arc::clone(tree)), &mountpoint, &config).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    let mut mounted = start(tree, session, mountpoint, options)?;
    let device = mountinfo::at(&mounted.mountpoint)?.pop();
    let device = device.map_or_else(String::new, |mount| mount.device);
    widen_readahead(&device);
    mounted.device = Some(device);
    tracing::info!(mountpoint = %mounted.mountpoint.display(), "mounted");
    Ok(mounted)
}

/// Serves a tree on a mount that another process made at `mountpoint` ([`super::HandedMount`]). Waits for
/// the kernel's first request.
///
/// # Errors
/// `InvalidInput` when the descriptor is not of the FUSE device; `Io`, `Disconnected` when it has been
/// unmounted again.
pub fn serve(
    tree: &Arc<Tree>,
    descriptor: OwnedFd,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Mounted> {
    handed_mount::check(&descriptor)?;
    options.is_writable(tree.is_writable())?;
    let mut config = config(options);
    // A sandbox may lack the device file, from which further descriptors of the mount are opened.
    config.clone_fd = std::fs::File::open(handed_mount::DEVICE).is_ok();
    // The options of the mount decide which users the kernel admits.
    let adapter = Adapter::new(Arc::clone(tree));
    let session = Session::from_fd(adapter, descriptor, SessionACL::All, config)
        .and_then(Session::spawn)
        .or_io("cannot serve the mount")
        .at_path(mountpoint)?;
    let mounted = start(tree, session, mountpoint.to_owned(), options)?;
    tracing::info!(mountpoint = %mountpoint.display(), "serving a mount that another process made");
    Ok(mounted)
}

/// The configuration for fuser, independent of which process mounts.
fn config(options: &MountOptions) -> Config {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) + SPARE_THREADS;
    let mut config = Config::default();
    config.n_threads = Some(options.threads.unwrap_or(threads));
    config.clone_fd = true;
    config
}

fn mount_options(tree: &Tree, options: &MountOptions) -> Result<Vec<MountOption>> {
    let source = tree.repository().store().local_root();
    let source = source.map(|path| path.canonicalize().unwrap_or(path.to_owned()));
    let mut all = vec![
        MountOption::FSName(
            source.map_or_else(|| "restorefs".to_owned(), |path| path.display().to_string()),
        ),
        // This is not `Subtype`, which a mount without the helper omits.
        MountOption::CUSTOM("subtype=restorefs".to_owned()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    all.push(if options.is_writable(tree.is_writable())? {
        MountOption::RW
    } else {
        MountOption::RO
    });
    if !options.exec {
        all.push(MountOption::NoExec);
    }
    if let Some(bytes) = options.max_read {
        all.push(MountOption::CUSTOM(format!("max_read={bytes}")));
    }
    for label in label::effective(&options.labels)? {
        all.push(MountOption::CUSTOM(label.kernel_option()));
    }
    Ok(all)
}

fn start(
    tree: &Arc<Tree>,
    session: BackgroundSession,
    mountpoint: PathBuf,
    options: &MountOptions,
) -> Result<Mounted> {
    let notifier = session.notifier();
    let notify = Notify::start(notifier.clone())?;
    let follower = Follower::start(tree, notify.sender(), options.follow)?;
    Ok(Mounted {
        running: Mutex::new(Some(Running {
            session,
            follower,
            notify,
        })),
        mountpoint,
        device: None,
        notifier,
        ended: AtomicBool::new(false),
    })
}

impl Mounted {
    /// The resolved mountpoint.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Shows points that were just committed. Returns once the kernel has been notified, or after a limited
    /// time.
    pub fn refresh(&self) {
        let running = self.running.lock();
        let Some(wake) = running.as_ref().map(|running| running.follower.wake()) else {
            return;
        };
        drop(running);
        let (done, finished) = std::sync::mpsc::sync_channel(1);
        if wake.send(Wake::Now(done)).is_ok() {
            // A kernel that is slow to accept notifications must not delay a commit that is durable.
            let _ = finished.recv_timeout(REFRESH_PATIENCE);
        }
    }

    /// Makes the kernel write back and forget its pages of these files, and waits for it. Not to be called
    /// while the kernel holds a lock on one of them and waits for this process.
    pub fn flush_caches(&self, files: &[Ino]) {
        for file in files {
            // From 0 to the end. A file that the kernel does not know has nothing to write back.
            if let Err(error) = self.notifier.inval_inode(INodeNo(file.0), 0, 0) {
                tracing::debug!(?file, %error, "the kernel holds nothing of a file");
            }
        }
    }

    /// The same without waiting, for a caller that holds a lock that the notification needs.
    pub fn wake(&self) {
        let running = self.running.lock();
        if let Some(running) = running.as_ref() {
            // A follower that has ended needs no wake-up.
            let _ = running.follower.wake().send(Wake::Changed);
        }
    }

    /// Unmounts and waits for the end. While the mount is in use, this works only with `lazy`, and then waits
    /// for the users. When it fails, the mount is as before. May be called while another thread waits.
    ///
    /// # Errors
    /// `Busy`, `Io`.
    pub fn unmount(&self, lazy: bool) -> Result<()> {
        if !self.ended.load(Ordering::Acquire) && self.mounted().is_some() {
            umount(&self.mountpoint, lazy)?;
        }
        self.wait()
    }

    /// The mount, if it exists and this process made it. The kernel reuses device numbers: once the session
    /// has ended without an error, a mount with this number can belong to another process.
    fn mounted(&self) -> Option<MountEntry> {
        let device = self.device.as_ref()?;
        let topmost = mountinfo::at(&self.mountpoint).ok()?.pop();
        topmost.filter(|mount| mount.kind == TYPE && mount.device == *device)
    }

    /// Whether this process made the mount, and so can unmount it.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.device.is_some()
    }

    fn take(&self) -> Option<Running> {
        let mut running = self.running.lock();
        running.take()
    }

    /// Whether it has been unmounted or has failed, so that [`Mounted::wait`] does not wait.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let running = self.running.lock();
        running
            .as_ref()
            .is_none_or(|running| running.session.guard.is_finished())
    }

    /// Returns when the mount has been unmounted by any process and all threads have ended; at once when
    /// another thread waits already.
    ///
    /// # Errors
    /// `Io` when the session ended with an error.
    pub fn wait(&self) -> Result<()> {
        let Some(running) = self.take() else {
            return Ok(());
        };
        let ended = if self.is_own() {
            ending::join(running.session)
        } else {
            running.session.join()
        };
        self.ended.store(true, Ordering::Release);
        let ended = ended.or_io("the mount has failed");
        running.follower.stop();
        running.notify.finish();
        // A failed session leaves a dead mount.
        if ended.is_err()
            && let Some(mount) = self.mounted()
        {
            detach(&mount)?;
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
        if !self.is_own() {
            return;
        }
        if running.session.guard.is_finished() {
            // The error was reported before, or is of no use any more.
            if ending::join(running.session).is_ok() {
                return;
            }
        } else {
            ending::leave(running.session);
        }
        if let Some(mount) = self.mounted()
            && let Err(error) = detach(&mount)
        {
            tracing::warn!(error = %error.report(), "the mount is left");
        }
    }
}
