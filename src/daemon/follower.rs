//! A follower: a process that mounts a repository's tree read-only, without the repository's lock,
//! and optionally serves its points over NBD.
//!
//! # Invariants
//! The process, its mount and its socket end together: unmounting ends the connections in order,
//! and when the socket or the mount fails at the start, nothing of the other is left.
//!
//! # Concurrency
//! FUSE has its own threads. The runtime serves the socket, and one of its threads waits for the
//! end of the mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::point::PointExports;
use super::signal::StopSignals;
use crate::chain::Pool;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::fuse::{self, MountOptions, Mounted};
use crate::nbd::server::{Exports, Guests, Server, ServerLimits, Service};
use crate::repo::Repository;
use crate::tree::{Tree, TreeOptions};

/// LIMIT: how often the follower tries to take a socket on which another process listens, and the
/// pause between: a mount that has just been unmounted releases its socket a moment later.
const SOCKET_TRIES: u32 = 5;
const SOCKET_PAUSE: Duration = Duration::from_millis(200);

/// What a follower shows, and where.
pub struct FollowerOptions {
    /// The repository.
    pub repository: Arc<Repository>,
    /// The pool for the chains of files and exports.
    pub pool: Arc<Pool>,
    /// The options of the tree.
    pub view: TreeOptions,
    /// The mountpoint.
    pub mountpoint: PathBuf,
    /// The options of the mount.
    pub mount: MountOptions,
    /// The Unix socket on which points are served over NBD, and the server's limits.
    pub nbd: Option<(PathBuf, ServerLimits)>,
}

/// A running follower.
struct Follower {
    mounted: Arc<Mounted>,
    signals: StopSignals,
    /// Tells the server to stop.
    stop: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
}

/// Mounts the tree, serves it, calls `ready`, and returns when any process has unmounted the tree.
/// SIGINT and SIGTERM unmount it; the follower then waits for users of the mount until the second
/// signal.
///
/// # Errors
/// As [`Tree::new`] and [`fuse::mount`]; `NameTooLong`, `Busy`, `AlreadyExists` for the socket,
/// `InvalidInput` when it lies below the mountpoint; what `ready` returns; `Cancelled` at the
/// second signal; `Io` when the mount has failed.
pub fn follow(options: &FollowerOptions, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut builder = match &options.nbd {
        Some(_) => Builder::new_multi_thread(),
        None => Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .thread_name("nbd")
        .build()
        .or_io("cannot start the runtime")?;
    let started = Follower::start(options, &runtime);
    let result = started.and_then(|follower| {
        ready()?;
        runtime.block_on(follower.run())
    });
    // Tasks that are still running would not end in time.
    runtime.shutdown_background();
    result
}

impl Follower {
    fn start(options: &FollowerOptions, runtime: &Runtime) -> Result<Self> {
        let _inside = runtime.enter();
        let (repository, pool) = (Arc::clone(&options.repository), Arc::clone(&options.pool));
        let tree = Tree::new(repository, pool, options.view.clone())?;
        // Signals are watched only from here: until now a signal ends the process, which leaves
        // nothing behind.
        let signals = StopSignals::watch()?;
        // The socket comes first: it leaves nothing behind when the mount fails.
        let server = options.nbd.as_ref().map(|(socket, limits)| {
            check_socket(socket, &options.mountpoint)?;
            let exports: Arc<dyn Exports> = Arc::new(PointExports::new(&tree));
            listen(socket, &Service::new(exports, *limits))
        });
        let server = server.transpose()?;
        let mounted = fuse::mount(&tree, &options.mountpoint, &options.mount)?;
        let (stop, stopped) = watch::channel(false);
        Ok(Self {
            mounted: Arc::new(mounted),
            signals,
            stop,
            server: server.map(|server| tokio::spawn(server.run(stopped))),
        })
    }

    async fn run(mut self) -> Result<()> {
        let mounted = Arc::clone(&self.mounted);
        let mut end = tokio::task::spawn_blocking(move || mounted.wait());
        let mut is_told = false;
        let result = loop {
            tokio::select! {
                ended = &mut end => break ended.map_err(failed).and_then(|ended| ended),
                name = self.signals.next() => {
                    if is_told {
                        break Err(Error::new(
                            ErrorKind::Cancelled,
                            format!("{name} again: the process ends without waiting for the users of the mount"),
                        ));
                    }
                    is_told = true;
                    self.stop_serving();
                    if let Err(error) = self.unmount().await {
                        break Err(error);
                    }
                }
            }
        };
        self.stop_serving();
        if let Some(server) = self.server.take() {
            // A panic of the task has been logged.
            let _ = server.await;
        }
        result
    }

    fn stop_serving(&self) {
        // The send fails when there is no server.
        let _ = self.stop.send(true);
    }

    /// Unmounts. The mount may be in use: a signal ends it nevertheless.
    async fn unmount(&self) -> Result<()> {
        let mounted = Arc::clone(&self.mounted);
        let unmounted = tokio::task::spawn_blocking(move || mounted.unmount(true)).await;
        unmounted.map_err(failed)?
    }
}

fn failed(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Io, "a thread of the mount has panicked").caused_by(error)
}

/// Refuses a socket that the mount would hide.
fn check_socket(socket: &Path, mountpoint: &Path) -> Result<()> {
    let resolve = |path: &Path| fuse::resolve(path).unwrap_or_else(|_| path.to_owned());
    let is_hidden = socket
        .parent()
        .is_some_and(|dir| resolve(dir).starts_with(resolve(mountpoint)));
    if !is_hidden {
        return Ok(());
    }
    Err(Error::invalid("the mount would hide the socket")
        .at_path(socket)
        .advise("choose one outside of the mountpoint"))
}

/// A user's own follower serves only that user; root's may be opened to the socket's group, as a
/// daemon's.
fn listen(socket: &Path, service: &Arc<Service>) -> Result<Server> {
    let guests = if rustix::process::geteuid().is_root() {
        Guests::Group
    } else {
        Guests::Nobody
    };
    let mut tries = 1;
    loop {
        match Server::bind_unix(socket, guests, service) {
            Err(e) if e.kind() == ErrorKind::Busy && tries < SOCKET_TRIES => {
                tries += 1;
                std::thread::sleep(SOCKET_PAUSE);
            }
            other => return other,
        }
    }
}
