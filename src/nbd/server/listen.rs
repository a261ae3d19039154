//! Listens on sockets, accepts connections, shuts down.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::connection::{End, Entrance, serve, shutdown_requested};
use super::lobby::{Lobby, Seat};
use super::secure::enter;
use super::service::Service;
use super::stream::Stream;
use crate::access::{Caller, Door as Way, Origin};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::socket::{self, Protection, SocketFile};
use crate::tls::ServerTls;
use crate::types::width::usize_from_u32;

/// LIMIT: pause after a failed accept (too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// LIMIT: silence of a TCP connection before a keepalive probe, and time for the answer.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// LIMIT: number of keepalive probes.
const KEEPALIVE_COUNT: u32 = 5;

/// Protection of connections.
#[derive(Debug, Clone)]
pub enum Security {
    /// The credentials of a Unix socket's peer.
    Peer,
    /// TLS with certificates of both sides.
    Tls(ServerTls),
    /// None: any process on this machine may connect.
    Loopback,
}

/// Who may use a Unix socket, beside this process's user and root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests {
    /// Members of the socket's group.
    Group,
    /// No other user.
    Nobody,
}

impl Guests {
    /// Permissions of the socket.
    const fn mode(self) -> u32 {
        match self {
            Self::Group => 0o660,
            Self::Nobody => 0o600,
        }
    }
}

/// Socket on which a server listens.
enum Door {
    /// A socket of this process is removed with its file; one that a service manager keeps stays.
    Unix(UnixListener, SocketFile, Guests),
    Tcp(TcpListener),
}

/// A server that listens on one socket.
pub struct Server {
    door: Door,
    security: Security,
    service: Arc<Service>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("security", &self.security)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Identity of the peer, for the log.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Process { user: u32, process: i32 },
    Address(SocketAddr),
}

impl Peer {
    /// The peer as the audit log names it.
    fn origin(self) -> Origin {
        match self {
            Self::Process { process, .. } => Origin::at(Way::Nbd, format!("pid {process}")),
            Self::Address(address) => Origin::at(Way::Nbd, address),
        }
    }
}

impl Server {
    /// Listens on a Unix socket with mode 0660 (with guests) or 0600 (without); replaces a stale one. Call it
    /// within a tokio runtime.
    ///
    /// # Errors
    /// `NameTooLong` beyond 107 bytes; `Busy` when a process listens there; `AlreadyExists`, `NotFound`,
    /// `PermissionDenied`, `Io`.
    pub fn bind_unix(path: &Path, guests: Guests, service: &Arc<Service>) -> Result<Self> {
        let (listener, file) = socket::listen(path, guests.mode())?;
        Self::on_unix(listener, (file, guests), service)
    }

    /// Serves a Unix socket that a service manager made and keeps, including its group. Call it within a
    /// tokio runtime.
    ///
    /// # Errors
    /// `Io`.
    pub fn adopt_unix(
        listener: std::os::unix::net::UnixListener,
        path: &Path,
        service: &Arc<Service>,
    ) -> Result<Self> {
        let file = SocketFile::of_another(path);
        Self::on_unix(listener, (file, Guests::Group), service)
    }

    fn on_unix(
        listener: std::os::unix::net::UnixListener,
        (file, guests): (SocketFile, Guests),
        service: &Arc<Service>,
    ) -> Result<Self> {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .or_io("cannot listen")
            .at_path(file.path())?;
        Ok(Self {
            door: Door::Unix(listener, file, guests),
            security: Security::Peer,
            service: Arc::clone(service),
        })
    }

    /// Listens on a TCP address with TLS, or on a loopback address without it. Call it within a tokio
    /// runtime.
    ///
    /// # Errors
    /// `InvalidInput` for another address without TLS; `Io` when another process listens there, or the
    /// address is not of this host.
    pub fn bind_tcp(
        address: SocketAddr,
        security: Security,
        service: &Arc<Service>,
    ) -> Result<Self> {
        let listener = socket::listen_tcp(address)?;
        Self::adopt_tcp(listener, security, service)
    }

    /// Serves a TCP socket that already listens. Call it within a tokio runtime.
    ///
    /// # Errors
    /// As [`Server::bind_tcp`].
    pub fn adopt_tcp(
        listener: std::net::TcpListener,
        security: Security,
        service: &Arc<Service>,
    ) -> Result<Self> {
        let protection = match &security {
            Security::Tls(_) => Protection::Tls,
            Security::Peer | Security::Loopback => Protection::Loopback,
        };
        socket::prepare_tcp(&listener, protection, "NBD")?;
        let listener = TcpListener::from_std(listener).or_io("cannot listen")?;
        Ok(Self {
            door: Door::Tcp(listener),
            security,
            service: Arc::clone(service),
        })
    }

    /// The address on which it listens, with the assigned port; `None` for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.door {
            Door::Unix(..) => None,
            Door::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// Serves until `shutdown` becomes true or its sender is dropped. Then it accepts no further connections
    /// or requests, lets those in flight end within the limit, and returns. The socket's file is then gone.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let lobby = match self.security {
            Security::Tls(_) => Some(Lobby::new(self.service.limits())),
            Security::Peer | Security::Loopback => None,
        };
        loop {
            let accepted = tokio::select! {
                accepted = self.door.accept() => accepted,
                () = shutdown_requested(&mut shutdown) => break,
            };
            // Removes ended connections from the set.
            while connections.try_join_next().is_some() {}
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    tracing::warn!(error = %e.report(), "an NBD client was turned away");
                    continue;
                }
                Err(e) => {
                    tracing::warn!(error = %e.report(), "an NBD connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let most = self.service.limits().connections;
            let seat = match (&lobby, peer) {
                (Some(lobby), Peer::Address(address)) => {
                    Some((lobby.enter(address.ip()), address.ip()))
                }
                _ => None,
            };
            if seat.is_none() && connections.len() >= usize_from_u32(most) {
                tracing::warn!(
                    ?peer,
                    most,
                    "an NBD client was turned away: too many connections"
                );
                continue;
            }
            let span = match peer {
                Peer::Process { user, process } => tracing::info_span!("nbd", user, process),
                Peer::Address(address) => tracing::info_span!("nbd", %address),
            };
            let connection = serve_one(
                Arc::clone(&self.service),
                stream,
                (self.security.clone(), peer.origin()),
                seat,
                shutdown.clone(),
            );
            connections.spawn(connection.instrument(span));
        }
        drop(self.door);
        let all = async { while connections.join_next().await.is_some() {} };
        // Each connection keeps the limit itself; this one is for connections that fail to do so.
        let patience = self.service.limits().shutdown_timeout.saturating_mul(3);
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("NBD connections were cut off");
        }
    }
}

/// Serves one client over an existing connection, as a local caller, until it ends.
///
/// # Errors
/// The error that ended the connection, unless the client disconnected.
pub async fn serve_client(
    service: &Arc<Service>,
    stream: tokio::net::UnixStream,
    shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let caller = on_this_machine(&stream);
    let entrance = Entrance::Plain(Stream::Unix(stream), caller);
    let origin = Origin::of(Way::Nbd);
    serve(service, entrance, origin, shutdown).await.map(drop)
}

/// The user at the other end of a Unix socket. One whom the kernel does not name has the rights of any member of the socket's group.
fn on_this_machine(stream: &tokio::net::UnixStream) -> Caller {
    Caller::of_socket(stream).unwrap_or_else(|_| Caller::user(u32::MAX))
}

async fn serve_one(
    service: Arc<Service>,
    stream: Stream,
    (security, origin): (Security, Origin),
    seat: Option<(Seat, IpAddr)>,
    mut shutdown: watch::Receiver<bool>,
) {
    let (secured, _inside) = match (security, seat) {
        (Security::Tls(tls), Some((seat, address))) => {
            let lobby = seat.lobby();
            let entered = tokio::select! {
                entered = enter(stream, &tls, seat, service.limits().tls_timeout) => entered,
                () = shutdown_requested(&mut shutdown) => return,
            };
            match entered {
                Ok(Some((secured, inside))) => (Entrance::Secured(secured), Some(inside)),
                Ok(None) => return,
                Err(error) => return lobby.tell(address, &error),
            }
        }
        (security, _) => {
            let caller = match (&stream, security) {
                (Stream::Unix(stream), _) => on_this_machine(stream),
                (_, Security::Loopback) => Caller::Loopback,
                // Nobody has proved anything, so nothing is allowed.
                (_, Security::Peer | Security::Tls(_)) => Caller::Certified(Arc::default()),
            };
            (Entrance::Plain(stream, caller), None)
        }
    };
    match serve(&service, secured, origin, shutdown).await {
        Ok(End::Goodbye) => tracing::debug!("the client disconnected"),
        Ok(End::Vanished) => tracing::warn!("the client left without a goodbye"),
        Ok(End::Shutdown) => tracing::info!("the connection ends with the server"),
        Err(e) => {
            tracing::warn!(error = %e.report(), "the connection has ended");
        }
    }
}

impl Door {
    /// The next connection.
    async fn accept(&self) -> Result<(Stream, Peer)> {
        match self {
            Self::Unix(listener, file, guests) => {
                let (stream, _) = listener.accept().await.or_io("cannot accept")?;
                let peer = admit(&stream, file, *guests)?;
                Ok((Stream::Unix(stream), peer))
            }
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await.or_io("cannot accept")?;
                keep_alive(&stream).or_io("cannot set up the connection")?;
                Ok((Stream::Tcp(stream), Peer::Address(address)))
            }
        }
    }
}

/// Enables keepalive, so that a vanished client is noticed, and sends replies without delay.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

/// The peer of a Unix socket, if it may connect: this process's user, root, or a guest.
fn admit(stream: &UnixStream, file: &SocketFile, guests: Guests) -> Result<Peer> {
    let credentials = stream
        .peer_cred()
        .or_io("the peer's credentials are not known")?;
    let user = credentials.uid();
    let peer = Peer::Process {
        user,
        process: credentials.pid().unwrap_or_default(),
    };
    let is_ours = user == rustix::process::geteuid().as_raw() || user == 0;
    if is_ours {
        return Ok(peer);
    }
    if guests == Guests::Nobody {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("user {user} is not the server's"),
        ));
    }
    let group = file.group()?;
    if credentials.gid() == group || socket::peer_groups(stream.as_fd())?.contains(&group) {
        return Ok(peer);
    }
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!("user {user} is neither the server's nor in group {group}"),
    ))
}
