//! Bounds of a server.

use std::time::Duration;

use crate::nbd::proto::PAYLOAD_BYTES_MAX;

/// Bounds of a server; each is ours, none is the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at a time of one listener; further ones are closed at once. With TLS: those that have shown a certificate.
    pub connections: u32,
    /// Connections at a time that have not shown a certificate yet; for a further one the one that has been silent for longest is closed.
    pub strangers: u32,
    /// The same of one address, of IPv6 one /64.
    pub strangers_of_one: u32,
    /// Connections at a time to one export; further ones are refused.
    pub export_connections: u32,
    /// Requests in flight on one connection; further ones are not read.
    pub requests: u32,
    /// Bytes of requests and replies in flight on one connection.
    pub connection_bytes: u32,
    /// Bytes of requests and replies in flight on all connections, beside 1 MiB that each has for itself, and up to 256 KiB in
    /// buffers of TLS.
    pub bytes: u32,
    /// Requests that are worked on at a time.
    pub workers: u32,
    /// How long a client may take for the handshake.
    pub handshake_timeout: Duration,
    /// How long a client may take until TLS is spoken.
    pub tls_timeout: Duration,
    /// How long a client may take for the payload of one request, or to take replies.
    pub stall_timeout: Duration,
    /// How long a client that only reads may ask for nothing; one that writes is governed by its session's ttl.
    pub idle_timeout: Duration,
    /// How long requests in flight may take when the server shuts down.
    pub shutdown_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            connections: 128,
            strangers: 256,
            strangers_of_one: 32,
            export_connections: 64,
            requests: 64,
            connection_bytes: 64 << 20,
            bytes: 256 << 20,
            workers: u32::try_from(cores.saturating_mul(4)).unwrap_or(16).max(16),
            handshake_timeout: Duration::from_secs(60),
            tls_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(3600),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

impl ServerLimits {
    /// The same with room for at least one request of the largest size.
    pub(super) fn usable(mut self) -> Self {
        self.connections = self.connections.max(1);
        self.strangers = self.strangers.max(1);
        self.strangers_of_one = self.strangers_of_one.max(1);
        self.export_connections = self.export_connections.max(1);
        self.requests = self.requests.max(1);
        self.workers = self.workers.max(1);
        self.connection_bytes = self.connection_bytes.max(PAYLOAD_BYTES_MAX);
        self.bytes = self.bytes.max(PAYLOAD_BYTES_MAX);
        self
    }
}
