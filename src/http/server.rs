//! The server: it listens, takes connections within limits, and ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::connection;
use super::host::Hosts;
use super::peer::Peer;
use super::router;
use super::site::Site;
use crate::access::Caller;
use crate::error::{Result, ResultExt};
use crate::sys::socket::{self, Protection, SocketFile};
use crate::tls::{self, ServerTls};

/// LIMIT: connections of one listener; for a further one that without a request is closed that has had none for longest, else it waits.
const CONNECTIONS_MAX: usize = 512;
/// How long a new connection waits for the place of one that is being closed before another one is.
const PLACE_LOOK: Duration = Duration::from_millis(50);
/// LIMIT: how long a TLS handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// LIMIT: how long running requests may go on when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// Mode of the Unix socket: members of its group may connect; the table tells what they may do.
const SOCKET_MODE: u32 = 0o660;

/// What a server listens on.
enum Door {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener, SocketAddr, Option<ServerTls>),
}

/// Where a server listens, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// A Unix socket.
    Unix(PathBuf),
    /// A URL: `http://127.0.0.1:8420/`.
    Url(String),
}

/// A server on one socket.
pub struct Server {
    door: Door,
    site: Arc<Site>,
    hosts: Arc<Hosts>,
}

impl Server {
    /// Listens on a Unix socket; replaces a stale one. Call it within a tokio runtime.
    ///
    /// # Errors
    /// `NameTooLong`; `Busy` when a process listens there; `AlreadyExists`, `NotFound`, `PermissionDenied`, `Io`.
    pub fn bind_unix(path: &Path, site: &Arc<Site>) -> Result<Self> {
        let (listener, file) = socket::listen(path, SOCKET_MODE)?;
        Self::on_unix(listener, file, site)
    }

    /// Serves a Unix socket that a service manager made and keeps. Call it within a tokio runtime.
    ///
    /// # Errors
    /// `Io`.
    pub fn adopt_unix(
        listener: std::os::unix::net::UnixListener,
        path: &Path,
        site: &Arc<Site>,
    ) -> Result<Self> {
        Self::on_unix(listener, SocketFile::of_another(path), site)
    }

    fn on_unix(
        listener: std::os::unix::net::UnixListener,
        file: SocketFile,
        site: &Arc<Site>,
    ) -> Result<Self> {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .or_io("cannot listen")
            .at_path(file.path())?;
        Ok(Self {
            door: Door::Unix(listener, file),
            site: Arc::clone(site),
            hosts: Arc::default(),
        })
    }

    /// Listens on a TCP address: with TLS, or without it on a loopback address. Call it within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` for another address without TLS; `Io` when another process listens there.
    pub fn bind_tcp(address: SocketAddr, tls: Option<ServerTls>, site: &Arc<Site>) -> Result<Self> {
        let listener = socket::listen_tcp(address)?;
        Self::adopt_tcp(listener, tls, site)
    }

    /// Serves a TCP socket that already listens. Call it within a tokio runtime.
    ///
    /// # Errors
    /// As [`Server::bind_tcp`].
    pub fn adopt_tcp(
        listener: std::net::TcpListener,
        tls: Option<ServerTls>,
        site: &Arc<Site>,
    ) -> Result<Self> {
        let protection = match &tls {
            Some(_) => Protection::Tls,
            None => Protection::Loopback,
        };
        let address = socket::prepare_tcp(&listener, protection, "HTTP")?;
        let listener = TcpListener::from_std(listener).or_io("cannot listen")?;
        Ok(Self {
            hosts: Arc::new(Hosts::new(address, &site.hosts)?),
            door: Door::Tcp(listener, address, tls),
            site: Arc::clone(site),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn listening(&self) -> Listening {
        match &self.door {
            Door::Unix(_, file) => Listening::Unix(file.path().to_owned()),
            Door::Tcp(_, address, tls) => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                let host = match (self.site.hosts.first(), address.ip().is_unspecified()) {
                    (Some(name), _) if tls.is_some() => match name.contains(':') {
                        true => name.clone(),
                        false => format!("{name}:{}", address.port()),
                    },
                    (_, true) => format!("{}:{}", crate::sys::host::name(), address.port()),
                    (_, false) => address.to_string(),
                };
                Listening::Url(format!("{scheme}://{host}/"))
            }
        }
    }

    /// Serves until `shutdown` becomes true or its sender is dropped. Then it takes no further connections, lets running requests
    /// end within the limit, and breaks those that have not.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let router = router::router(&self.site);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        let mut connections = tokio::task::JoinSet::new();
        let mut open: Vec<(Arc<Activity>, AbortHandle)> = Vec::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let place = tokio::select! {
                place = place_for_one(&places, &mut open) => place,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            let (router, watcher) = (router.clone(), graceful.watcher());
            let (hosts, activity) = (Arc::clone(&self.hosts), Activity::new());
            let requests = Arc::clone(&activity);
            let task = connections.spawn(async move {
                let _place = place;
                stream.serve(router, hosts, watcher, requests).await;
            });
            if open.len() >= 2 * CONNECTIONS_MAX {
                open.retain(|(_, task)| !task.is_finished());
            }
            open.push((activity, task));
        }
        if tokio::time::timeout(STOP_PATIENCE, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("HTTP requests that have not ended are broken off");
        }
        connections.shutdown().await;
    }

    async fn accept(&self) -> std::io::Result<Accepted> {
        match &self.door {
            Door::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream))
            }
            Door::Tcp(listener, _, tls) => {
                let (stream, address) = listener.accept().await?;
                // Small answers go out at once.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, address, tls.clone()))
            }
        }
    }
}

/// Waits for a place, and makes one: the connection that has had no request for longest is closed. Who opens many and asks nothing keeps
/// nobody out.
async fn place_for_one(
    places: &Arc<Semaphore>,
    open: &mut Vec<(Arc<Activity>, AbortHandle)>,
) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        open.retain(|(_, task)| !task.is_finished());
        let idle = open
            .iter()
            .enumerate()
            .filter_map(|(at, (activity, _))| Some((activity.idle()?, at)));
        if let Some((_, at)) = idle.max() {
            // It may have ended just now, and its place may be taken: the next look finds another one.
            open.swap_remove(at).1.abort();
        }
        let waited = tokio::time::timeout(PLACE_LOOK, Arc::clone(places).acquire_owned());
        if let Ok(place) = waited.await {
            return place.ok();
        }
    }
}

/// A connection that was taken.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr, Option<ServerTls>),
}

impl Accepted {
    async fn serve(
        self,
        router: Router,
        hosts: Arc<Hosts>,
        watcher: hyper_util::server::graceful::Watcher,
        activity: Arc<Activity>,
    ) {
        match self {
            Self::Unix(stream) => match Caller::of_socket(&stream) {
                Ok(caller) => {
                    let peer = Peer::on_unix(caller);
                    connection::serve(stream, router, peer, hosts, watcher, activity).await;
                }
                Err(e) => tracing::warn!(error = %e.report(), "a peer is not known"),
            },
            Self::Tcp(stream, address, None) => {
                let peer = Peer::plain(address.ip());
                connection::serve(stream, router, peer, hosts, watcher, activity).await;
            }
            Self::Tcp(stream, address, Some(tls)) => {
                let acceptor = TlsAcceptor::from(tls.config());
                let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream));
                match shaken.await {
                    Ok(Ok(stream)) => {
                        let (_, session) = stream.get_ref();
                        let certificates = session.peer_certificates().unwrap_or_default();
                        let names = certificates.first().map(tls::names).unwrap_or_default();
                        let peer = Peer::with_tls(address.ip(), names);
                        connection::serve(stream, router, peer, hosts, watcher, activity).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%address, %error, "no TLS with a client"),
                    Err(_) => tracing::debug!(%address, "a client did not begin TLS in time"),
                }
            }
        }
    }
}
