//! Wiring: one process that owns the repository, with NBD, the mounted tree and the control socket.
//!
//! # Concurrency
//! The tokio runtime serves sockets; FUSE has threads of its own; sessions work on blocking threads. On the way
//! down: NBD stops first, then the control socket, then the mount, and the lock last of all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::access::Access;
use super::control;
use super::desk::Desk;
use super::exports::RepositoryExports;
use super::probe::Prober;
use super::runtime_dir;
use crate::chain::{Pool, PoolLimits};
use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::fuse::{self, MountOptions, Mounted};
use crate::ingest::{Audience, Engine, Keeper, Registry, Session, Telling};
use crate::nbd::server::{Exports, Security, Server, ServerLimits, Service};
use crate::nbd::tls::ServerTls;
use crate::repo::{Owner, Repository};
use crate::tree::{Tree, TreeOptions, Writing};

/// LIMIT: how long users of the mount are waited for when the daemon stops.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// What to serve.
pub struct ServeOptions {
    /// The repository.
    pub repository: PathBuf,
    /// Where to mount the tree, and how.
    pub mount: Option<(PathBuf, MountOptions)>,
    /// How the tree is shown, where the mount's options do not say.
    pub view: TreeOptions,
    /// NBD socket, beside the one in the runtime directory.
    pub nbd: Option<PathBuf>,
    /// Bytes that sessions are to leave free on the repository's filesystem; by default a share of it.
    pub low_water_bytes: Option<u64>,
    /// How long an NBD client that only reads may ask for nothing.
    pub nbd_idle: Duration,
    /// NBD over TCP.
    pub nbd_tcp: Option<TcpOptions>,
}

/// Where NBD listens on TCP, and for whom.
pub struct TcpOptions {
    /// Address and port; port 0 is any that is free.
    pub address: SocketAddr,
    /// Certificates (`ca-cert.pem`, `server-cert.pem`, `server-key.pem`) and the file that says who may use what; without them the
    /// address must be a loopback one, and everybody on this machine may read everything.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// What NBD over TCP needs, loaded.
struct Tcp {
    address: SocketAddr,
    security: Security,
}

impl TcpOptions {
    fn load(&self) -> Result<(Tcp, Access)> {
        let (security, access) = match &self.tls {
            Some((certificates, access)) => (
                Security::Tls(ServerTls::load(certificates)?),
                Access::load(access)?,
            ),
            None => (Security::Loopback, Access::default()),
        };
        let address = self.address;
        Ok((Tcp { address, security }, access))
    }
}

impl Tcp {
    /// Listens, and says below which URI.
    fn bind(self, service: &Arc<Service>) -> Result<(Server, String)> {
        let scheme = match self.security {
            Security::Tls(_) => "nbds",
            Security::Loopback | Security::Peer => "nbd",
        };
        let server = Server::bind_tcp(self.address, self.security, service)?;
        let address = server.address().unwrap_or(self.address);
        let base = if address.ip().is_unspecified() {
            let host = rustix::system::uname();
            let host = host.nodename().to_string_lossy().into_owned();
            format!("{scheme}://{host}:{}/", address.port())
        } else {
            format!("{scheme}://{address}/")
        };
        Ok((server, base))
    }
}

/// What listens for NBD.
struct Nbd {
    sockets: Vec<PathBuf>,
    tcp: Option<Tcp>,
    access: Access,
    idle_timeout: Duration,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// `Locked`, `NoRepository`, `NameTooLong` (a socket), `Io`; whatever keeps it from starting.
pub fn serve(options: ServeOptions, ready: impl FnOnce(&control::Status)) -> Result<()> {
    // More descriptors make deep chains faster; without them the pool just reopens layers.
    let _ = crate::sys::limit::raise_open_files();
    let (tcp, access) = match options.nbd_tcp.as_ref().map(TcpOptions::load).transpose()? {
        Some((tcp, access)) => (Some(tcp), access),
        None => (None, Access::default()),
    };
    let repository = Arc::new(Repository::open(&options.repository)?);
    let owner = Arc::new(Owner::open(
        Arc::clone(&repository),
        Arc::new(SystemClock),
        "serve",
    )?);
    let pool = Pool::new(PoolLimits {
        memory_bytes: options.view.memory.chain_bytes(),
        ..PoolLimits::default()
    });
    let engine =
        Engine::new(Arc::clone(&owner), Arc::clone(&pool)).with_low_water(options.low_water_bytes);
    let id = repository.format().repository_id;
    let dir = runtime_dir::make()?;
    let own_nbd = runtime_dir::nbd_socket(&dir, id);
    let nbd_sockets: Vec<PathBuf> = options
        .nbd
        .iter()
        .cloned()
        .map(absolute)
        .chain([own_nbd])
        .collect();
    let mountpoint = options.mount.as_ref().map(|(path, _)| path.clone());
    let sessions = Registry::resume(engine)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("nbd")
        .build()
        .map_err(|e| Error::io("cannot start the runtime", e))?;
    let view = match &options.mount {
        Some((_, mount)) => view(mount, options.view),
        None => TreeOptions {
            writable: true,
            ..options.view
        },
    };
    let socket = nbd_sockets.first().cloned().unwrap_or_default();
    let writing = Writing {
        sessions: Arc::clone(&sessions),
        targets: Box::new(move |session| {
            control::BeginAnswer::of(session, &socket, None).nbd_targets_string
        }),
        allow_forget: options.mount.as_ref().is_some_and(|(_, m)| m.allow_forget),
    };
    let tree = Tree::writable(Arc::clone(&repository), Arc::clone(&pool), view, writing)?;
    let mounted = match &options.mount {
        Some((path, mount)) => Some(Arc::new(fuse::mount(&tree, path, mount)?)),
        None => None,
    };
    let prober = Prober::start(&tree, &owner)?;
    sessions.set_audience(Box::new(Onlookers {
        tree,
        mounted: mounted.clone(),
        prober,
    }));
    let desk = Arc::new(Desk::new(
        Arc::clone(&sessions),
        nbd_sockets.clone(),
        mountpoint,
    ));
    let control_path = runtime_dir::control_socket(&dir, id);
    let keeper = Keeper::start(&sessions)?;
    let nbd = Nbd {
        sockets: nbd_sockets,
        tcp,
        access,
        idle_timeout: options.nbd_idle,
    };
    let result = runtime.block_on(run(&desk, nbd, &control_path, ready));
    // Whoever still writes has had his time; sessions stay and go on with the next daemon.
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(keeper);
    let unmounted = mounted.map_or(Ok(()), unmount);
    let flushed = sessions
        .all()
        .iter()
        .try_for_each(|session| session.flush());
    result.and(unmounted).and(flushed)
}

/// Unmounts. Whoever still uses the mount is waited for, but not for ever: he would keep the service from stopping.
fn unmount(mounted: Arc<Mounted>) -> Result<()> {
    let (ended, end) = std::sync::mpsc::channel();
    let work = move || {
        // Nobody listens any more when it took too long.
        let _ = ended.send(mounted.unmount(true));
    };
    std::thread::Builder::new()
        .name("unmount".to_owned())
        .spawn(work)
        .map_err(|e| Error::io("cannot start a thread", e))?;
    end.recv_timeout(UNMOUNT_PATIENCE).unwrap_or_else(|_| {
        tracing::warn!("somebody still uses the mount; it ends under him");
        Ok(())
    })
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Who looks on: the mount shows what was committed, and new points are looked at in the background.
struct Onlookers {
    tree: Arc<Tree>,
    mounted: Option<Arc<Mounted>>,
    prober: Prober,
}

impl Audience for Onlookers {
    fn before_seal(&self, session: &Session) {
        if let Some(mounted) = &self.mounted {
            mounted.launder(&self.tree.session_files(session));
        }
    }

    fn changed(&self, telling: Telling) {
        match &self.mounted {
            Some(mounted) if telling == Telling::Wait => mounted.refresh(),
            Some(mounted) => mounted.wake(),
            None => {
                if let Err(error) = self.tree.refresh() {
                    tracing::warn!(error = %error.report(), "the tree could not be refreshed");
                }
            }
        }
        self.prober.wake();
    }
}

/// How the tree is shown: as the mount's options say, with readers and memory as the command line does.
fn view(options: &MountOptions, view: TreeOptions) -> TreeOptions {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    TreeOptions {
        isolation: view.isolation,
        memory: view.memory,
        ..options.tree_options(uid, gid, true)
    }
}

async fn run(
    desk: &Arc<Desk>,
    nbd: Nbd,
    control_path: &std::path::Path,
    ready: impl FnOnce(&control::Status),
) -> Result<()> {
    let watch_for = |kind| signal(kind).map_err(|e| Error::io("cannot watch for signals", e));
    let (mut interrupt, mut terminate) = (
        watch_for(SignalKind::interrupt())?,
        watch_for(SignalKind::terminate())?,
    );
    let (stop, stopped) = watch::channel(false);
    let sessions = desk.sessions();
    let exports = RepositoryExports::new(Arc::clone(sessions), nbd.access);
    let exports: Arc<dyn Exports> = Arc::new(exports);
    let limits = ServerLimits {
        idle_timeout: nbd.idle_timeout,
        ..ServerLimits::default()
    };
    let service = Service::new(exports, limits);
    let mut servers = Vec::new();
    for path in &nbd.sockets {
        let server = Server::bind_unix(path, &service)?;
        servers.push(tokio::spawn(server.run(stopped.clone())));
    }
    if let Some(tcp) = nbd.tcp {
        let (server, base) = tcp.bind(&service)?;
        desk.set_tcp(base);
        servers.push(tokio::spawn(server.run(stopped.clone())));
    }
    let (listener, _file) = control::server::bind(control_path)?;
    let control = tokio::spawn(control::server::run(listener, Arc::clone(desk)));
    ready(&desk.status());
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
    }
    // The receivers may all be gone when every server has ended by itself.
    let _ = stop.send(true);
    for server in servers {
        let _ = server.await;
    }
    control.abort();
    Ok(())
}
