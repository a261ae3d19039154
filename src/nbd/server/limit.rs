//! Bounds of a server.

use std::time::Duration;

use crate::nbd::proto::PAYLOAD_BYTES_MAX;

/// Limits of a server. Each is ours; the protocol has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections of one listener; further ones are closed at once. With TLS: connections that have
    /// presented a certificate.
    pub connections: u32,
    /// Connections that have not presented a certificate yet. For a further one, the longest silent one is
    /// closed.
    pub strangers: u32,
    /// The same for one address; for IPv6, for one /64.
    pub strangers_of_one: u32,
    /// Connections to one export; further ones are refused.
    pub export_connections: u32,
    /// Requests in flight on one connection; further ones are not read.
    pub requests: u32,
    /// Bytes of requests and replies in flight on one connection.
    pub connection_bytes: u32,
    /// Bytes of requests and replies in flight on all connections, beside 1 MiB for each connection, and up
    /// to 256 KiB in its TLS buffers.
    pub bytes: u32,
    /// Requests that run at the same time on blocking threads; each connection that writes may run one more on its own thread.
    pub workers: u32,
    /// Time limit for the handshake.
    pub handshake_timeout: Duration,
    /// Time limit for establishing TLS.
    pub tls_timeout: Duration,
    /// Time limit for receiving the payload of one request, and for the client to take replies.
    pub stall_timeout: Duration,
    /// Time that a reading client may be idle; for a writing one the ttl of its session applies.
    pub idle_timeout: Duration,
    /// Time limit for requests in flight when the server shuts down.
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
    /// The same limits, but with space for at least one request of the largest size.
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
