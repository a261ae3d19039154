//! Listening, accepting, shutting down.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::connection::{End, serve, told};
use super::service::Service;
use super::stream::Stream;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::socket::{self, SocketFile};
use crate::types::width::usize_from_u32;

/// Permissions of the socket: owner and group.
const MODE: u32 = 0o660;

/// LIMIT: pause after a failed accept (too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that listens on one socket.
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
    service: Arc<Service>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("socket", &self.file.path())
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy)]
struct Peer {
    user: u32,
    process: i32,
}

impl Server {
    /// Listens on a Unix socket with mode 0660; a stale one is replaced. Call it within a tokio runtime.
    ///
    /// # Errors
    /// `NameTooLong` beyond 107 bytes; `Busy` when somebody listens there; `AlreadyExists`, `NotFound`,
    /// `PermissionDenied`, `Io`.
    pub fn bind_unix(path: &Path, service: &Arc<Service>) -> Result<Self> {
        let (listener, file) = socket::listen(path, MODE)?;
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .or_io("cannot listen")
            .at_path(path)?;
        Ok(Self {
            listener,
            file,
            service: Arc::clone(service),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Serves until `shutdown` becomes true (or its sender is gone); then takes no more connections or requests, lets those in
    /// flight end within the limit, and returns. The socket's file is gone then.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let limits = self.service.limits;
        let places = Arc::new(Semaphore::new(usize_from_u32(limits.connections)));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = told(&mut shutdown) => break,
            };
            // Those that have ended leave the set.
            while connections.try_join_next().is_some() {}
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "an NBD connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let peer = match self.admit(&stream) {
                Ok(peer) => peer,
                Err(e) => {
                    tracing::warn!(error = %e.report(), "an NBD client was turned away");
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(
                    user = peer.user,
                    process = peer.process,
                    most = limits.connections,
                    "an NBD client was turned away: too many connections"
                );
                continue;
            };
            let span = tracing::info_span!("nbd", user = peer.user, process = peer.process);
            let (service, shutdown) = (Arc::clone(&self.service), shutdown.clone());
            let connection = async move {
                let _place = place;
                match serve(&service, Stream::Unix(stream), shutdown).await {
                    Ok(End::Goodbye) => tracing::debug!("the client said goodbye"),
                    Ok(End::Vanished) => tracing::warn!("the client left without a goodbye"),
                    Ok(End::Shutdown) => tracing::info!("the connection ends with the server"),
                    Err(e) => {
                        tracing::warn!(error = %e.report(), "the connection has ended");
                    }
                }
            };
            connections.spawn(connection.instrument(span));
        }
        drop(self.listener);
        let all = async { while connections.join_next().await.is_some() {} };
        // Each connection keeps the limit itself; this one is for those that cannot.
        let patience = limits.shutdown_timeout.saturating_mul(3);
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("NBD connections were cut off");
        }
    }

    /// The peer, if it may connect: our own user, root, or somebody of the socket's group.
    fn admit(&self, stream: &UnixStream) -> Result<Peer> {
        let credentials = stream
            .peer_cred()
            .or_io("the peer's credentials are not known")?;
        let peer = Peer {
            user: credentials.uid(),
            process: credentials.pid().unwrap_or_default(),
        };
        let is_ours = peer.user == rustix::process::geteuid().as_raw() || peer.user == 0;
        if is_ours {
            return Ok(peer);
        }
        let group = self.file.group()?;
        if credentials.gid() == group || socket::peer_groups(stream.as_fd())?.contains(&group) {
            return Ok(peer);
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "user {} is neither the server's nor in group {group}",
                peer.user
            ),
        ))
    }
}
