//! The mounts of a repository: those that this process has made, and those that a helper made and handed over.
//!
//! # Invariants
//! Each mount has a tree of its own, as it may show other VMs to other users; what they open and keep they share. All of them learn of a
//! commit before who made it is answered; of one by a rename within a mount, which holds what the kernel needs to be told, a moment later.
//!
//! # Concurrency
//! The table's mutex is held for looking and noting only.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::config::MountConfig;
use super::control::{self, MountAnswer, MountArguments};
use super::probe::Prober;
use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{self, MountOptions, Mounted};
use crate::ingest::{Audience, Registry, Session, Telling};
use crate::tree::{Tree, TreeOptions, Writing};
use crate::types::sync::Mutex;

/// LIMIT: mounts of one repository.
const MOUNTS_MAX: usize = 32;

/// LIMIT: how long users of the mounts are waited for when the daemon stops.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// A mount.
struct Window {
    tree: Arc<Tree>,
    mounted: Arc<Mounted>,
}

/// Whose a mount is, as its tree shows it.
#[derive(Clone, Copy)]
struct Viewer {
    uid: u32,
    gid: u32,
}

/// The mounts of one repository that a daemon answers for.
pub(super) struct MountTable {
    sessions: Arc<Registry>,
    /// The socket that `nbd-targets` names.
    socket: PathBuf,
    /// A tree that nobody mounts, for those who look at points within this process; the others are beside it.
    base: Arc<Tree>,
    open: Mutex<Vec<Window>>,
    prober: Prober,
}

impl MountTable {
    pub(super) fn new(
        sessions: &Arc<Registry>,
        pool: &Arc<Pool>,
        view: TreeOptions,
        socket: PathBuf,
    ) -> Result<Arc<Self>> {
        let repository = sessions.engine().owner.repository();
        let base = Tree::new(Arc::clone(repository), Arc::clone(pool), view)?;
        let prober = Prober::start(&base, &sessions.engine().owner)?;
        let table = Arc::new(Self {
            sessions: Arc::clone(sessions),
            socket,
            base,
            open: Mutex::default(),
            prober,
        });
        sessions.set_audience(Box::new(Onlooker(Arc::clone(&table))));
        Ok(table)
    }

    /// A tree that shows everything, as of the last change.
    pub(super) const fn base(&self) -> &Arc<Tree> {
        &self.base
    }

    fn open(&self) -> MutexGuard<'_, Vec<Window>> {
        self.open.lock()
    }

    /// The tree that is shown under these options.
    fn tree(&self, options: &MountOptions, viewer: Viewer) -> Result<Arc<Tree>> {
        let view = options.tree_options(viewer.uid, viewer.gid, true);
        let socket = self.socket.clone();
        let writing = Writing {
            sessions: Arc::clone(&self.sessions),
            targets: Box::new(move |session| {
                control::BeginAnswer::of(session, &socket, None).nbd_targets_string
            }),
            allow_forget: options.allow_forget,
        };
        self.base.beside(view, writing)
    }

    /// Mounts a tree here.
    ///
    /// # Errors
    /// As [`fuse::mount`].
    pub(super) fn mount(&self, config: &MountConfig) -> Result<()> {
        let viewer = Viewer {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let tree = self.tree(&config.options, viewer)?;
        let mounted = Arc::new(fuse::mount(&tree, &config.at, &config.options)?);
        self.open().push(Window { tree, mounted });
        Ok(())
    }

    /// Serves what a helper has mounted.
    ///
    /// # Errors
    /// `InvalidInput` (options, descriptor); `LimitExceeded`; `Disconnected` when the daemon is about to stop; as [`fuse::serve`].
    pub(super) fn adopt(&self, arguments: &MountArguments, descriptor: OwnedFd) -> Result<()> {
        if self.sessions.is_closing() {
            // It would be dead in a moment.
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
        options.parse(&arguments.options)?;
        options.is_writable(true)?;
        let viewer = Viewer {
            uid: arguments.uid,
            gid: arguments.gid,
        };
        let tree = self.tree(&options, viewer)?;
        let mounted = fuse::serve(&tree, descriptor, &arguments.mountpoint, &options)?;
        let mounted = Arc::new(mounted);
        self.open().push(Window { tree, mounted });
        Ok(())
    }

    /// Where the repository is mounted.
    pub(super) fn list(&self) -> Vec<MountAnswer> {
        self.tidy();
        let open = self.open();
        let answer = |window: &Window| MountAnswer {
            mountpoint: window.mounted.mountpoint().to_owned(),
            vms: window.tree.options().vms.clone(),
        };
        open.iter().map(answer).collect()
    }

    /// Whether it is mounted there.
    pub(super) fn is_at(&self, mountpoint: &Path) -> bool {
        self.tidy();
        let real = fuse::resolve(mountpoint);
        let real = real.as_deref().unwrap_or(mountpoint);
        let open = self.open();
        // One that has just been unmounted ends a moment later.
        let is_ours = |window: &Window| window.mounted.mountpoint() == real;
        open.iter().any(is_ours) && fuse::is_mountpoint(real)
    }

    /// Lets go of what has been unmounted.
    pub(super) fn tidy(&self) {
        let mut ended = Vec::new();
        let mut open = self.open();
        let mut n = 0;
        while let Some(window) = open.get(n) {
            if window.mounted.has_ended() {
                ended.push(open.remove(n));
            } else {
                n += 1;
            }
        }
        drop(open);
        for window in ended {
            let mountpoint = window.mounted.mountpoint().display();
            match window.mounted.wait() {
                Ok(()) => tracing::info!(%mountpoint, "unmounted"),
                Err(error) => {
                    tracing::warn!(%mountpoint, error = %error.report(), "a mount has ended")
                }
            }
        }
    }

    fn windows(&self) -> Vec<(Arc<Tree>, Arc<Mounted>)> {
        let open = self.open();
        let both = |window: &Window| (Arc::clone(&window.tree), Arc::clone(&window.mounted));
        open.iter().map(both).collect()
    }

    /// Unmounts what this process has mounted; what others have mounted ends with the process. Whoever still uses one is waited for, but
    /// not for ever: he would keep the service from stopping.
    ///
    /// # Errors
    /// What unmounting answers.
    pub(super) fn close(&self) -> Result<()> {
        let own: Vec<Arc<Mounted>> = self
            .windows()
            .into_iter()
            .map(|(_, mounted)| mounted)
            .filter(|mounted| mounted.is_own())
            .collect();
        let (ended, end) = std::sync::mpsc::channel();
        let work = move || {
            let all: Vec<_> = own.iter().map(|mounted| mounted.unmount(true)).collect();
            // Nobody listens any more when it took too long.
            let _ = ended.send(all.into_iter().collect::<Result<()>>());
        };
        std::thread::Builder::new()
            .name("unmount".to_owned())
            .spawn(work)
            .map_err(|e| Error::io("cannot start a thread", e))?;
        end.recv_timeout(UNMOUNT_PATIENCE).unwrap_or_else(|_| {
            tracing::warn!("somebody still uses a mount; it ends under him");
            Ok(())
        })
    }
}

/// Who looks on: each mount shows what was committed, and new points are looked at in the background.
struct Onlooker(Arc<MountTable>);

impl Audience for Onlooker {
    fn before_seal(&self, session: &Session) {
        for (tree, mounted) in self.0.windows() {
            mounted.launder(&tree.session_files(session));
        }
    }

    fn changed(&self, telling: Telling) {
        // First: NBD shows what it has, and does not wait for the kernel.
        if let Err(error) = self.0.base.refresh() {
            tracing::warn!(error = %error.report(), "the tree could not be refreshed");
        }
        for (_, mounted) in self.0.windows() {
            if telling == Telling::Wait {
                mounted.refresh();
            } else {
                mounted.wake();
            }
        }
        self.0.prober.wake();
    }
}
