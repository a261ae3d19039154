//! The transport of a connection: a Unix or TCP socket, with or without TLS.

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::OnceLock;
use std::time::Duration;

use super::socket::{Socket, failure};
use super::tls::Tls;
use crate::error::{Error, Result, ResultExt};
use crate::nbd::proto::uri::Address;
use crate::sys::socket;
use crate::tls::ClientTls;

/// LIMIT: time for connecting to one address of a TCP server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// LIMIT: time that a server may leave sent bytes unread before the client gives up.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection; both directions work through `&self`.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Socket,
    tls: OnceLock<Tls>,
}

impl Stream {
    /// Connects.
    pub(super) fn connect(address: &Address) -> Result<Self> {
        let socket = match address {
            Address::Unix(path) => Socket::Unix(
                socket::connect(path, CONNECT_TIMEOUT)
                    .or_io("cannot connect to the NBD server")
                    .at_path(path)?,
            ),
            Address::Tcp { host, port } => Socket::Tcp(connect_tcp(host, *port)?),
        };
        match &socket {
            Socket::Unix(s) => s.set_write_timeout(Some(SEND_TIMEOUT)),
            Socket::Tcp(s) => s
                .set_nodelay(true)
                .and_then(|()| s.set_write_timeout(Some(SEND_TIMEOUT))),
        }
        .or_io("cannot set up the connection")?;
        Ok(Self {
            socket,
            tls: OnceLock::new(),
        })
    }

    /// Switches to TLS with a server that must have a certificate for `host`.
    pub(super) fn secure(&self, tls: &ClientTls, host: &str) -> Result<()> {
        let tls = Tls::begin(tls.connect(host)?, &self.socket)?;
        self.tls
            .set(tls)
            .map_err(|_| Error::invalid("TLS is spoken already"))
    }

    /// Sets the time limit of a read; `None` for no limit.
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        match &self.socket {
            Socket::Unix(s) => s.set_read_timeout(timeout),
            Socket::Tcp(s) => s.set_read_timeout(timeout),
        }
        .or_io("cannot set up the connection")
    }

    /// Ends both directions, or only the sending one; a blocked read returns.
    pub(super) fn shutdown(&self, how: Shutdown) {
        if how == Shutdown::Write
            && let Some(tls) = self.tls.get()
        {
            tls.end(&self.socket);
        }
        // If the peer is gone already, there is nothing left to end.
        let _ = match &self.socket {
            Socket::Unix(s) => s.shutdown(how),
            Socket::Tcp(s) => s.shutdown(how),
        };
    }

    /// Fills `buf`.
    pub(super) fn receive(&self, buf: &mut [u8]) -> Result<()> {
        match self.tls.get() {
            Some(tls) => tls.receive(&self.socket, buf),
            None => (&self.socket).read_exact(buf).map_err(failure),
        }
    }

    /// Receives a fixed number of bytes.
    pub(super) fn receive_array<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.receive(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends both parts, in one call where the socket accepts it.
    pub(super) fn send(&self, first: &[u8], second: &[u8]) -> Result<()> {
        if let Some(tls) = self.tls.get() {
            return tls.send(&self.socket, first, second);
        }
        let mut slices = [IoSlice::new(first), IoSlice::new(second)];
        let mut rest = slices.as_mut_slice();
        while rest.iter().any(|slice| !slice.is_empty()) {
            match (&self.socket).write_vectored(rest) {
                Ok(0) => return Err(failure(std::io::ErrorKind::WriteZero.into())),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failure(e)),
            }
        }
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16) -> Result<TcpStream> {
    let place = format!("{host}:{port}");
    let addresses = (host, port)
        .to_socket_addrs()
        .or_io("the NBD server's host is not known")
        .at_path(&place)?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Some(Error::io("cannot connect to the NBD server", e)),
        }
    }
    let error = last.unwrap_or_else(|| Error::not_found("the NBD server's host has no address"));
    Err(error.at_path(place))
}
