//! The mounts of a repository: those that this process has made, and those that a helper made and
//! handed over.
//!
//! # Invariants
//! Each mount has its own tree, because it may show other VMs to other users; the trees share what
//! they open and keep. Every mount shows a commit before the committing caller gets its answer. A
//! commit by a rename within a mount becomes visible a moment later: the rename holds a directory
//! that the kernel needs for the notification.
//!
//! # Concurrency
//! The table's mutex is held only for lookups and updates.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::config::MountConfig;
use super::probe::Prober;
use crate::access::{Caller, Door, Origin};
use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{self, MountOptions, Mounted};
use crate::ingest::{Change, Hook, Session, Telling};
use crate::service::{Host, MountAnswer, MountRequest, OwnedRepository};
use crate::tree::{Tree, TreeOptions};
use crate::types::sync::Mutex;

/// LIMIT: mounts of one repository.
const MOUNTS_MAX: usize = 32;

/// LIMIT: how long the daemon waits for users of the mounts when it stops.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// A mount.
struct ServedMount {
    tree: Arc<Tree>,
    mounted: Arc<Mounted>,
}

/// The owner of a mount, as its tree shows it.
#[derive(Clone, Copy)]
struct MountOwner {
    uid: u32,
    gid: u32,
}

/// The mounts of one repository that a daemon serves.
pub(super) struct MountTable {
    served: Arc<OwnedRepository>,
    /// The tree for this process's own reads of points; it is not mounted. The mounted trees share
    /// what it has opened.
    base: Arc<Tree>,
    open: Mutex<Vec<ServedMount>>,
    prober: Prober,
}

impl MountTable {
    pub(super) fn new(
        served: &Arc<OwnedRepository>,
        pool: &Arc<Pool>,
        view: TreeOptions,
    ) -> Result<Arc<Self>> {
        let sessions = served.sessions();
        let repository = sessions.engine().owner.repository();
        let base = Tree::new(Arc::clone(repository), Arc::clone(pool), view)?;
        let prober = Prober::start(&base, &sessions.engine().owner)?;
        let table = Arc::new(Self {
            served: Arc::clone(served),
            base,
            open: Mutex::default(),
            prober,
        });
        sessions.add_hook(Box::new(MountHook(Arc::clone(&table))));
        served.set_host(Arc::clone(&table) as Arc<dyn Host>);
        Ok(table)
    }

    /// The tree that shows everything, as of the last change.
    pub(super) const fn base(&self) -> &Arc<Tree> {
        &self.base
    }

    fn open(&self) -> MutexGuard<'_, Vec<ServedMount>> {
        self.open.lock()
    }

    /// Creates the tree for these options.
    fn tree(
        &self,
        options: &MountOptions,
        viewer: MountOwner,
        mountpoint: &Path,
    ) -> Result<Arc<Tree>> {
        let view = options.tree_options(viewer.uid, viewer.gid, true);
        let caller = Caller::Mount {
            allow_forget: options.allow_forget,
        };
        let origin = Origin::at(Door::Tree, mountpoint.display());
        let sessions = Arc::new(self.served.of_caller(caller, origin));
        self.base.beside(view, sessions)
    }

    /// Mounts a tree in this process.
    ///
    /// # Errors
    /// As [`fuse::mount`].
    pub(super) fn mount(&self, config: &MountConfig) -> Result<()> {
        let viewer = MountOwner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let tree = self.tree(&config.options, viewer, &config.at)?;
        let mounted = Arc::new(fuse::mount(&tree, &config.at, &config.options)?);
        self.open().push(ServedMount { tree, mounted });
        Ok(())
    }

    /// Whether the tree is mounted at `mountpoint`.
    pub(super) fn is_at(&self, mountpoint: &Path) -> bool {
        self.tidy();
        let real = fuse::resolve(mountpoint);
        let real = real.as_deref().unwrap_or(mountpoint);
        let open = self.open();
        // A mount that has just been unmounted ends a moment later.
        let is_ours = |mount: &ServedMount| mount.mounted.mountpoint() == real;
        open.iter().any(is_ours) && fuse::is_mountpoint(real)
    }

    /// Drops mounts that have been unmounted.
    pub(super) fn tidy(&self) {
        let mut ended = Vec::new();
        let mut open = self.open();
        let mut n = 0;
        while let Some(mount) = open.get(n) {
            if mount.mounted.has_ended() {
                ended.push(open.remove(n));
            } else {
                n += 1;
            }
        }
        drop(open);
        for mount in ended {
            let mountpoint = mount.mounted.mountpoint().display();
            match mount.mounted.wait() {
                Ok(()) => tracing::info!(%mountpoint, "unmounted"),
                Err(error) => {
                    tracing::warn!(%mountpoint, error = %error.report(), "a mount has ended")
                }
            }
        }
    }

    fn pairs(&self) -> Vec<(Arc<Tree>, Arc<Mounted>)> {
        let open = self.open();
        let both = |mount: &ServedMount| (Arc::clone(&mount.tree), Arc::clone(&mount.mounted));
        open.iter().map(both).collect()
    }

    /// Unmounts the mounts that this process has made; mounts made by others end with the process.
    /// Waits for a mount that is still in use, but not for ever: a user must not keep the service
    /// from stopping.
    ///
    /// # Errors
    /// What unmounting returns.
    pub(super) fn close(&self) -> Result<()> {
        let own: Vec<Arc<Mounted>> = self
            .pairs()
            .into_iter()
            .map(|(_, mounted)| mounted)
            .filter(|mounted| mounted.is_own())
            .collect();
        let (ended, end) = std::sync::mpsc::channel();
        let work = move || {
            let all: Vec<_> = own.iter().map(|mounted| mounted.unmount(true)).collect();
            // The receiver is gone when unmounting took too long.
            let _ = ended.send(all.into_iter().collect::<Result<()>>());
        };
        std::thread::Builder::new()
            .name("unmount".to_owned())
            .spawn(work)
            .map_err(|e| Error::io("cannot start a thread", e))?;
        end.recv_timeout(UNMOUNT_PATIENCE).unwrap_or_else(|_| {
            tracing::warn!("a mount is still in use; it ends all the same");
            Ok(())
        })
    }
}

impl Host for MountTable {
    fn mounts(&self) -> Vec<MountAnswer> {
        self.tidy();
        let open = self.open();
        let answer = |mount: &ServedMount| MountAnswer {
            mountpoint: mount.mounted.mountpoint().to_owned(),
            vms: mount.tree.options().vms.clone(),
        };
        open.iter().map(answer).collect()
    }

    fn adopt(&self, request: &MountRequest, device: OwnedFd) -> Result<()> {
        if self.served.sessions().is_closing() {
            // A new mount would be dead in a moment.
            return Err(
                Error::new(ErrorKind::Disconnected, "the daemon is about to stop")
                    .advise("mount when it is there again"),
            );
        }
        self.tidy();
        if self.open().len() >= MOUNTS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("the repository is mounted {MOUNTS_MAX} times already"),
            ));
        }
        let mut options = MountOptions::default();
        options.parse(&request.options)?;
        options.is_writable(true)?;
        let viewer = MountOwner {
            uid: request.uid,
            gid: request.gid,
        };
        let tree = self.tree(&options, viewer, &request.mountpoint)?;
        let mounted = fuse::serve(&tree, device, &request.mountpoint, &options)?;
        let mounted = Arc::new(mounted);
        self.open().push(ServedMount { tree, mounted });
        Ok(())
    }
}

/// Shows each change in every mount, and starts the search for the volumes of new points in the
/// background.
struct MountHook(Arc<MountTable>);

impl Hook for MountHook {
    fn before_seal(&self, session: &Session) {
        for (tree, mounted) in self.0.pairs() {
            mounted.flush_caches(&tree.session_files(session));
        }
    }

    fn changed(&self, _: &Change, telling: Telling) {
        // The base tree comes first: NBD uses it, and must not wait for the kernel.
        if let Err(error) = self.0.base.refresh() {
            tracing::warn!(error = %error.report(), "the tree could not be refreshed");
        }
        for (_, mounted) in self.0.pairs() {
            if telling == Telling::Wait {
                mounted.refresh();
            } else {
                mounted.wake();
            }
        }
        self.0.prober.wake();
    }
}
