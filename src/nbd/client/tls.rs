//! TLS over a blocking socket, in both directions at once.
//!
//! # Concurrency
//! A sender holds `sending` during encryption and socket writes, so that records go out in order; a receiver
//! holds `incoming`. `connection` is held only for encryption and decryption, never during socket calls. Lock
//! order: `sending` or `incoming`, then `connection`. A receiver that has something to send (an answer to a
//! key update) does not wait for a sender: the next sender sends it.

use std::io::{ErrorKind as IoKind, Read, Write};

use rustls::ClientConnection;

use super::socket::{Socket, failure};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// LIMIT: bytes received from the socket at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// LIMIT: bytes encrypted at a time and then sent.
const PIECE_BYTES: usize = 256 << 10;

/// A TLS connection.
pub(super) struct Tls {
    connection: Mutex<ClientConnection>,
    sending: Mutex<Vec<u8>>,
    incoming: Mutex<Incoming>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Bytes that were received and not decrypted yet.
struct Incoming {
    bytes: Vec<u8>,
    from: usize,
    end: usize,
}

/// An error of TLS. Servers also reject the client's certificate in this way.
fn broken(error: &rustls::Error) -> Error {
    let text = format!("TLS with the NBD server failed: {error}");
    Error::new(ErrorKind::Disconnected, text)
        .advise("look at the certificates of both sides and their authority (tls-certificates=)")
}

impl Tls {
    /// Performs the TLS handshake.
    pub(super) fn begin(mut connection: ClientConnection, socket: &Socket) -> Result<Self> {
        // Each piece is sent before the next one is encrypted.
        connection.set_buffer_limit(None);
        let mut socket = socket;
        while connection.is_handshaking() {
            if let Err(e) = connection.complete_io(&mut socket) {
                let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
                return Err(match inner {
                    Some(inner) => broken(inner),
                    None => failure(e),
                });
            }
        }
        Ok(Self {
            connection: Mutex::new(connection),
            sending: Mutex::default(),
            incoming: Mutex::new(Incoming {
                bytes: vec![0; CHUNK_BYTES],
                from: 0,
                end: 0,
            }),
        })
    }

    /// Fills `buf`.
    pub(super) fn receive(&self, socket: &Socket, buf: &mut [u8]) -> Result<()> {
        let mut incoming = self.incoming.lock();
        let mut rest = buf;
        while !rest.is_empty() {
            let count = self.decrypted(rest)?;
            if count > 0 {
                rest = rest.get_mut(count..).unwrap_or_default();
                continue;
            }
            if incoming.from == incoming.end {
                incoming.from = 0;
                incoming.end = receive_some(socket, &mut incoming.bytes)?;
            }
            self.decrypt(&mut incoming)?;
            self.send_if_free(socket)?;
        }
        Ok(())
    }

    /// Takes decrypted bytes; 0 when there are none yet.
    fn decrypted(&self, buf: &mut [u8]) -> Result<usize> {
        match self.connection.lock().reader().read(buf) {
            // The server has ended TLS.
            Ok(0) => Err(failure(IoKind::UnexpectedEof.into())),
            Ok(count) => Ok(count),
            Err(e) if e.kind() == IoKind::WouldBlock => Ok(0),
            Err(e) => Err(failure(e)),
        }
    }

    /// Decrypts a part of the received bytes.
    fn decrypt(&self, incoming: &mut Incoming) -> Result<()> {
        let mut part = incoming
            .bytes
            .get(incoming.from..incoming.end)
            .unwrap_or_default();
        let mut connection = self.connection.lock();
        let count = connection.read_tls(&mut part).map_err(failure)?;
        incoming.from = incoming.from.saturating_add(count).min(incoming.end);
        let state = connection.process_new_packets().map(|_| ());
        state.map_err(|e| broken(&e))
    }

    fn send_if_free(&self, socket: &Socket) -> Result<()> {
        if !self.connection.lock().wants_write() {
            return Ok(());
        }
        match self.sending.try_lock() {
            Some(mut out) => self.send_pending(socket, &mut out),
            None => Ok(()),
        }
    }

    /// Sends both parts.
    pub(super) fn send(&self, socket: &Socket, first: &[u8], second: &[u8]) -> Result<()> {
        let mut out = self.sending.lock();
        let pieces = first.chunks(PIECE_BYTES).chain(second.chunks(PIECE_BYTES));
        for piece in pieces {
            {
                let mut connection = self.connection.lock();
                connection.writer().write_all(piece).map_err(failure)?;
                take(&mut connection, &mut out)?;
            }
            if out.len() >= PIECE_BYTES {
                send_all(socket, &mut out)?;
            }
        }
        send_all(socket, &mut out)
    }

    fn send_pending(&self, socket: &Socket, out: &mut Vec<u8>) -> Result<()> {
        take(&mut self.connection.lock(), out)?;
        send_all(socket, out)
    }

    /// Tells the server that no further bytes will come.
    pub(super) fn end(&self, socket: &Socket) {
        let mut out = self.sending.lock();
        self.connection.lock().send_close_notify();
        // If the server is gone, it does not need the message.
        let _ = self.send_pending(socket, &mut out);
    }
}

fn take(connection: &mut ClientConnection, out: &mut Vec<u8>) -> Result<()> {
    while connection.wants_write() {
        connection.write_tls(out).map_err(failure)?;
    }
    Ok(())
}

fn send_all(socket: &Socket, out: &mut Vec<u8>) -> Result<()> {
    let mut socket = socket;
    let sent = socket.write_all(out).map_err(failure);
    out.clear();
    sent
}

fn receive_some(socket: &Socket, buf: &mut [u8]) -> Result<usize> {
    let mut socket = socket;
    loop {
        match socket.read(buf) {
            Ok(0) => return Err(failure(IoKind::UnexpectedEof.into())),
            Ok(count) => return Ok(count),
            Err(e) if e.kind() == IoKind::Interrupted => {}
            Err(e) => return Err(failure(e)),
        }
    }
}
