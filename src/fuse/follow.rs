//! Follows a repository that another process writes: with inotify where it works, and with polling
//! everywhere.
//!
//! # Why
//! A commit ends with a new `index.json` that is renamed over the old one. inotify reports that at once on a
//! local filesystem, but never on NFS or SMB when another host did it. Polling compares the times and inode
//! numbers of these files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

use super::notify;
use crate::error::{Result, ResultExt};
use crate::repo::layout::{self, VmKeys};
use crate::tree::Tree;

/// How a mount learns of new points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// Whether inotify is used.
    pub inotify: bool,
    /// Interval between checks of the indexes; zero disables them.
    pub interval: Duration,
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            inotify: true,
            interval: Duration::from_secs(5),
        }
    }
}

/// Wait this long for more events of the same commit.
const SETTLE: Duration = Duration::from_millis(5);
/// An interval that never passes.
const NEVER: Duration = Duration::from_secs(1 << 30);

pub(super) enum Wake {
    /// The repository may have changed.
    Changed,
    /// The repository has changed, and a thread waits until the kernel knows.
    Now(SyncSender<()>),
    /// The mount ends.
    Stop,
}

/// The threads that follow.
pub(super) struct Follower {
    wake: Sender<Wake>,
    threads: Vec<JoinHandle<()>>,
    /// Removing the watch wakes the thread that blocks on events.
    watch: Option<(Watches, WatchDescriptor)>,
}

impl Follower {
    /// Starts following.
    ///
    /// # Errors
    /// `Io` when no thread can be started. Without inotify it only polls, and logs that.
    pub(super) fn start(tree: &Arc<Tree>, sender: notify::Sender, how: Follow) -> Result<Self> {
        let (wake, woken) = channel();
        let mut threads = Vec::new();
        let mut watch = None;
        let root = tree
            .repository()
            .store()
            .local_root()
            .map(Path::to_path_buf);
        let mut watcher = None;
        if let (true, Some(root)) = (how.inotify, root) {
            match Self::watch(&root) {
                Ok((inotify, descriptor)) => {
                    watch = Some((inotify.watches(), descriptor.clone()));
                    watcher = Some(Watcher {
                        root,
                        watches: inotify.watches(),
                        known: HashSet::new(),
                    });
                    let wake = wake.clone();
                    let thread = std::thread::Builder::new()
                        .name("fuse-inotify".to_owned())
                        .spawn(move || listen(inotify, &descriptor, &wake));
                    threads.push(thread.or_io("cannot start a thread")?);
                }
                Err(error) => {
                    tracing::warn!(%error, "no inotify here; the repository is looked at from time to time only");
                }
            }
        }
        let tree = Arc::clone(tree);
        let interval = if how.interval.is_zero() {
            NEVER
        } else {
            how.interval
        };
        let thread = std::thread::Builder::new()
            .name("fuse-follow".to_owned())
            .spawn(move || follow(&tree, &sender, &woken, interval, watcher));
        threads.push(thread.or_io("cannot start a thread")?);
        Ok(Self {
            wake,
            threads,
            watch,
        })
    }

    fn watch(root: &Path) -> std::io::Result<(Inotify, WatchDescriptor)> {
        let inotify = Inotify::init()?;
        let vms = layout::vms().map_err(std::io::Error::other)?;
        let mask = WatchMask::CREATE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ONLYDIR;
        let descriptor = inotify.watches().add(root.join(vms.as_str()), mask)?;
        Ok((inotify, descriptor))
    }

    /// A sender that wakes the following thread.
    pub(super) fn wake(&self) -> Sender<Wake> {
        self.wake.clone()
    }

    /// Stops following.
    pub(super) fn stop(mut self) {
        // An error means that the thread has stopped already.
        let _ = self.wake.send(Wake::Stop);
        if let Some((watches, descriptor)) = &mut self.watch
            && let Err(error) = watches.remove(descriptor.clone())
        {
            tracing::debug!(%error, "the watch was gone");
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::warn!("a following thread panicked");
            }
        }
    }
}

/// Waits for events until the watch on `vms/` is removed.
fn listen(mut inotify: Inotify, descriptor: &WatchDescriptor, wake: &Sender<Wake>) {
    let mut buffer = [0; 4096];
    loop {
        let events = match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!(%error, "inotify has failed; the repository is looked at from time to time only");
                return;
            }
        };
        let mut ended = false;
        for event in events {
            ended |= event.wd == *descriptor && event.mask.contains(EventMask::IGNORED);
        }
        if wake.send(Wake::Changed).is_err() || ended {
            return;
        }
    }
}

/// Watches the directories of VMs.
struct Watcher {
    root: PathBuf,
    watches: Watches,
    known: HashSet<String>,
}

impl Watcher {
    fn watch_all(&mut self, tree: &Tree) {
        let names = match tree.repository().vm_names() {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(error = %error.report(), "the VMs cannot be listed");
                return;
            }
        };
        self.known
            .retain(|known| names.iter().any(|name| name.as_str() == known));
        for name in names {
            if self.known.contains(name.as_str()) {
                continue;
            }
            let Ok(keys) = VmKeys::new(&name) else {
                continue;
            };
            let mask = WatchMask::MOVED_TO
                | WatchMask::DELETE
                | WatchMask::CLOSE_WRITE
                | WatchMask::ONLYDIR;
            match self.watches.add(self.root.join(keys.root().as_str()), mask) {
                Ok(_) => {
                    self.known.insert(name.as_str().to_owned());
                }
                Err(error) => {
                    tracing::warn!(vm = %name, %error, "no more inotify watches; this VM is looked at from time to time only");
                    return;
                }
            }
        }
    }
}

fn follow(
    tree: &Tree,
    sender: &notify::Sender,
    woken: &Receiver<Wake>,
    interval: Duration,
    mut watcher: Option<Watcher>,
) {
    let mut waiting = Vec::new();
    loop {
        // The watches come first, so that a change after the check is noticed.
        if let Some(watcher) = &mut watcher {
            watcher.watch_all(tree);
        }
        match tree.refresh() {
            Ok(changes) if changes.is_empty() && waiting.is_empty() => {}
            Ok(changes) => {
                tracing::debug!(count = changes.len(), "the repository has changed");
                sender.send(changes, std::mem::take(&mut waiting));
            }
            Err(error) => {
                tracing::warn!(error = %error.report(), "the repository cannot be read; it is shown as it was");
            }
        }
        let mut patience = interval;
        loop {
            match woken.recv_timeout(patience) {
                Ok(Wake::Changed) => patience = SETTLE,
                Ok(Wake::Now(waiter)) => {
                    waiting.push(waiter);
                    break;
                }
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
    }
}
