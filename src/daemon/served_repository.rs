//! A served repository: its owner, sessions, mounts, NBD and control socket.
//!
//! # Concurrency
//! Order of the shutdown: new sessions are refused and works are stopped, writers continue for a
//! while, then NBD stops, then the control socket, then works have ended, then the mounts that this
//! process has made, and last the lock is released.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::config::{MountConfig, NbdConfig, RepositoryConfig, TcpConfig};
use super::exports::RepositoryExports;
use super::gate::Gate;
use super::mount_table::MountTable;
use super::point::PointExports;
use crate::access::LiveAccess;
use crate::chain::{Pool, PoolLimits};
use crate::clock::{Clock, SystemClock};
use crate::control;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::{Engine, Keeper, Registry};
use crate::nbd::server::{Exports, Guests, Security, Server, Service};
use crate::repo::Owner;
use crate::service::OwnedRepository;
use crate::service::view::SharedView;
use crate::sys::inherit::{Inherited, Named};
use crate::sys::runtime_dir;
use crate::tls::ServerTls;
use crate::tree::TreeOptions;
use crate::types::{Memory, RepositoryId, RepositoryName};

/// One served repository with everything that serves it.
pub(super) struct ServedRepository {
    config: RepositoryConfig,
    served: Arc<OwnedRepository>,
    view: Arc<SharedView>,
    mounts: Arc<MountTable>,
    keeper: Keeper,
    exports: Arc<RepositoryExports>,
    service: Arc<Service>,
    tls: Option<ServerTls>,
    control_path: PathBuf,
    control: Option<JoinHandle<()>>,
    servers: Vec<JoinHandle<()>>,
    /// Sockets from the service manager, which [`ServedRepository::listen`] starts to serve.
    inherited: Vec<Inherited>,
}

/// Takes from `all` the sockets that a repository's configuration names. With `is_only`, takes
/// every Unix socket, as if it had been named.
pub(super) fn claim(
    config: &mut RepositoryConfig,
    all: &mut Vec<Named>,
    is_only: bool,
) -> Vec<Inherited> {
    let nbd = &mut config.nbd;
    let (own, others): (Vec<Named>, Vec<Named>) =
        all.drain(..).partition(|named| match &named.socket {
            Inherited::Unix(_, path) => is_only || nbd.sockets.contains(path),
            Inherited::Tcp(_, address) => {
                nbd.tcp.as_ref().is_some_and(|tcp| tcp.address == *address)
            }
        });
    *all = others;
    let own: Vec<Inherited> = own.into_iter().map(|named| named.socket).collect();
    for path in own.iter().filter_map(Inherited::path) {
        if !nbd.sockets.iter().any(|named| named == path) {
            nbd.sockets.push(path.to_owned());
        }
    }
    own
}

/// The table for certificates alone, where a configuration names one.
fn certificates(tcp: Option<&TcpConfig>, name: &RepositoryName) -> Result<Option<Arc<LiveAccess>>> {
    let tls = tcp.and_then(|tcp| tcp.tls.as_ref());
    let Some(path) = tls.and_then(|tls| tls.access.as_ref()) else {
        return Ok(None);
    };
    Ok(Some(LiveAccess::open(path, true)?.of_repository(name)))
}

impl ServedRepository {
    /// Takes the lock, resumes sessions, and mounts. `mounts` is false when a helper makes the
    /// mounts.
    ///
    /// # Errors
    /// `NoRepository`, `Locked`; any other error that prevents the start.
    pub(super) fn open(
        config: RepositoryConfig,
        inherited: Vec<Inherited>,
        memory: Memory,
        mounts: bool,
        gate: &Gate,
    ) -> Result<Self> {
        let tls = config.nbd.tcp.as_ref().and_then(|tcp| tcp.tls.as_ref());
        let tls = tls
            .map(|tls| ServerTls::load(&tls.certificates))
            .transpose()?;
        let repository = Arc::new(config.open()?);
        let id = repository.format().repository_id;
        let name = config.served_name(id)?;
        let certificates = certificates(config.nbd.tcp.as_ref(), &name)?;
        let dir = runtime_dir::make()?;
        let owner = Arc::new(Owner::open_with(
            &repository,
            &(Arc::new(SystemClock) as Arc<dyn Clock>),
            "serve",
            Some(&|site| control::control_socket(&dir, id, site.lock)),
        )?);
        let site = owner.site().ok_or_else(|| {
            Error::new(ErrorKind::Stale, "the repository's lock was taken away")
                .at_path(&config.path)
        })?;
        let control_path = control::control_socket(&dir, id, site.lock);
        let pool = Pool::new(PoolLimits {
            memory_bytes: memory.chain_bytes(),
            ..PoolLimits::default()
        });
        let engine = Engine::with_budget(owner, Arc::clone(&pool), memory.ingest_bytes())
            .with_low_water(config.low_water_bytes);
        let sessions = Registry::resume(engine)?;
        let own_nbd = control::nbd_socket(&dir, id, site.lock);
        let nbd_sockets: Vec<PathBuf> = config
            .nbd
            .sockets
            .iter()
            .cloned()
            .chain([own_nbd])
            .collect();
        let view = TreeOptions {
            writable: true,
            isolation: config.isolation.clone(),
            memory,
            ..TreeOptions::default()
        };
        let access = gate.access.of_repository(&name);
        let served = OwnedRepository::new(Arc::clone(&sessions), nbd_sockets, access);
        served.set_audit(Arc::clone(&gate.audit));
        let table = MountTable::new(&served, &pool, view)?;
        if mounts
            && let Err(error) = config
                .mounts
                .iter()
                .try_for_each(|mount| table.mount(mount))
        {
            // Mounts that already exist would be left dead.
            let _ = table.close();
            return Err(error);
        }
        let view = SharedView::new(name, &served, table.base(), &pool);
        let points = PointExports::new(table.base());
        let exports = RepositoryExports::new(Arc::clone(&served), points, certificates);
        let exports = Arc::new(exports);
        let visible: Arc<dyn Exports> = Arc::clone(&exports) as Arc<dyn Exports>;
        Ok(Self {
            keeper: Keeper::start(&sessions)?,
            service: Service::new(visible, config.nbd.limits),
            served,
            view,
            mounts: table,
            config,
            exports,
            tls,
            control_path,
            control: None,
            servers: Vec::new(),
            inherited,
        })
    }

    /// Listens on inherited sockets and on the other configured ones. The caller must be within the
    /// runtime.
    ///
    /// # Errors
    /// `NameTooLong` (a socket), `Busy`; `InvalidInput` for TCP that is not protected; `Io`.
    pub(super) fn listen(&mut self, stopped: &watch::Receiver<bool>) -> Result<()> {
        let mut servers = Vec::new();
        let mut adopted = Vec::new();
        for socket in std::mem::take(&mut self.inherited) {
            match socket {
                Inherited::Unix(listener, path) => {
                    servers.push(Server::adopt_unix(listener, &path, &self.service)?);
                    adopted.push(path);
                }
                Inherited::Tcp(listener, address) => {
                    let server = Server::adopt_tcp(listener, self.security(), &self.service)
                        .at_path(address.to_string())?;
                    self.tell_tcp(&server);
                    servers.push(server);
                }
            }
        }
        for path in self.served.nbd_sockets() {
            if !adopted.contains(path) {
                servers.push(Server::bind_unix(path, Guests::Group, &self.service)?);
            }
        }
        let tcp = self.config.nbd.tcp.as_ref();
        if let Some(tcp) = tcp.filter(|_| !self.served.has_tcp()) {
            let server = Server::bind_tcp(tcp.address, self.security(), &self.service)?;
            self.tell_tcp(&server);
            servers.push(server);
        }
        for server in servers {
            self.servers.push(tokio::spawn(server.run(stopped.clone())));
        }
        let (listener, file) = control::server::bind(&self.control_path)?;
        let served = Arc::clone(&self.served);
        self.control = Some(tokio::spawn(async move {
            // The socket's file is removed when the task ends.
            let _file = file;
            control::server::run(listener, served).await;
        }));
        Ok(())
    }

    fn security(&self) -> Security {
        match &self.tls {
            Some(tls) => Security::Tls(tls.clone()),
            None => Security::Loopback,
        }
    }

    /// Logs the URI below which exports are served over TCP.
    fn tell_tcp(&self, server: &Server) {
        let Some(address) = server.address() else {
            return;
        };
        let scheme = if self.tls.is_some() { "nbds" } else { "nbd" };
        self.served.set_tcp(if address.ip().is_unspecified() {
            let host = crate::sys::host::name();
            format!("{scheme}://{host}:{}/", address.port())
        } else {
            format!("{scheme}://{address}/")
        });
    }

    /// The repository with its sessions.
    pub(super) const fn served(&self) -> &Arc<OwnedRepository> {
        &self.served
    }

    /// What HTTP shows of it.
    pub(super) const fn view(&self) -> &Arc<SharedView> {
        &self.view
    }

    /// Its open sessions.
    pub(super) fn sessions(&self) -> &Arc<Registry> {
        self.served.sessions()
    }

    /// Its id.
    pub(super) fn id(&self) -> RepositoryId {
        let owner = &self.sessions().engine().owner;
        owner.repository().format().repository_id
    }

    /// Its directory.
    pub(super) const fn path(&self) -> &PathBuf {
        &self.config.path
    }

    /// Applies the settings of a configuration that can change at run time: certificates, access
    /// rules, limits, the low water. After an error everything is as before.
    ///
    /// # Errors
    /// What loading certificates or the access file returns.
    pub(super) fn reload(&self, new: &RepositoryConfig) -> Result<()> {
        let NbdConfig { tcp, limits, .. } = &new.nbd;
        if let (Some(tls), Some(new)) = (&self.tls, tcp.as_ref().and_then(|tcp| tcp.tls.as_ref()))
            && let Some(name) = self.served.access().repository()
        {
            let access = certificates(tcp.as_ref(), name)?;
            tls.reload(&new.certificates)?;
            self.exports.set_certificates(access);
        }
        self.service.set_limits(*limits);
        self.sessions().engine().set_low_water(new.low_water_bytes);
        Ok(())
    }

    /// Makes the configured mounts that are missing.
    ///
    /// # Errors
    /// As [`crate::fuse::mount`]: the first error, after all were tried.
    pub(super) fn mount_missing(&self, wanted: &[MountConfig]) -> Result<()> {
        let mut result = Ok(());
        for mount in wanted.iter().filter(|mount| !self.mounts.is_at(&mount.at)) {
            let mounted = self.mounts.mount(mount);
            match &mounted {
                Ok(()) => tracing::info!(mountpoint = %mount.at.display(), "mounted"),
                Err(error) => {
                    tracing::error!(mountpoint = %mount.at.display(), error = %error.report(), "it could not be mounted");
                }
            }
            result = result.and(mounted);
        }
        result
    }

    /// Waits for the running servers, after the NBD servers were asked to stop.
    pub(super) async fn finish(&mut self) {
        for server in self.servers.drain(..) {
            // A panic of the task has been logged.
            let _ = server.await;
        }
        if let Some(control) = self.control.take() {
            control.abort();
            let _ = control.await;
        }
    }

    /// Unmounts, and suspends the sessions. The lock is released with the process.
    ///
    /// # Errors
    /// The first error of unmounting or flushing.
    pub(super) fn close(self) -> Result<()> {
        drop(self.keeper);
        let unmounted = self.mounts.close();
        let ended = unmounted.and(self.served.sessions().suspend());
        if ended.is_ok() {
            self.served.sessions().engine().owner.end();
        }
        ended
    }

    /// Takes the locks that every operation takes, and drops ended mounts: returning proves that
    /// the repository is responsive.
    pub(super) fn touch(&self) {
        self.mounts.tidy();
        let (_, _) = (
            self.sessions().all(),
            self.sessions().engine().owner.vm_names(),
        );
    }
}

/// Refuses a socket of the service manager that no repository names.
///
/// # Errors
/// `InvalidInput`, which names the socket.
pub(super) fn refuse_rest(rest: &[Named]) -> Result<()> {
    let Some(first) = rest.first() else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "the service manager listens on {}, which no repository's nbd.sockets or nbd.listen names",
        first.socket.name()
    ))
    .advise("name it in the configuration of the repository that is to be served there"))
}
