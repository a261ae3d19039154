//! Requests in flight on a connection, and the bytes that they take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::inline::is_small;
use super::limit::ServerLimits;
use super::reply::Share;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::{Mode, PAYLOAD_BYTES_MAX};
use crate::types::width::usize_from_u32;

/// LIMIT: bytes in flight that each connection has for itself, beside the shared ones.
const ALLOWANCE_BYTES: usize = 1 << 20;

/// What a connection may have in flight.
pub(super) struct InFlight {
    most: u32,
    requests: Arc<Semaphore>,
    /// Bytes of this connection.
    bytes: Arc<Semaphore>,
    /// Bytes of this connection that do not count against the server's limit.
    allowance: Arc<Semaphore>,
    /// Bytes of all connections.
    all_bytes: Arc<Semaphore>,
}

impl InFlight {
    /// Nothing in flight, within the limits of a connection and of all.
    pub(super) fn new(limits: &ServerLimits, all_bytes: &Arc<Semaphore>) -> Self {
        Self {
            most: limits.requests,
            requests: Arc::new(Semaphore::new(usize_from_u32(limits.requests))),
            bytes: Arc::new(Semaphore::new(usize_from_u32(limits.connection_bytes))),
            allowance: Arc::new(Semaphore::new(ALLOWANCE_BYTES)),
            all_bytes: Arc::clone(all_bytes),
        }
    }

    /// Whether no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.available_permits() >= usize_from_u32(self.most)
    }

    /// Waits until no request is in flight, and lets no further one begin.
    pub(super) fn all(&self) -> impl Future<Output = bool> + use<> {
        let (requests, most) = (Arc::clone(&self.requests), self.most);
        async move {
            let all = requests.acquire_many(most).await;
            all.is_ok()
        }
    }

    /// Waits for the share of a request: the request itself, and the bytes that it or its reply carries.
    ///
    /// # Errors
    /// `Cancelled` when the server shuts down.
    pub(super) async fn share(&self, request: &Request, mode: Mode) -> Result<Share> {
        let closed = |_| Error::new(ErrorKind::Cancelled, "the server shuts down");
        let mut share = Share::default();
        let one = Arc::clone(&self.requests).acquire_owned();
        share.0.push(one.await.map_err(closed)?);
        let has_bytes = request.command == Command::Read || request.has_payload(mode);
        let bytes = match u32::try_from(request.length_bytes) {
            _ if !has_bytes => 0,
            Ok(length) => length.min(PAYLOAD_BYTES_MAX),
            Err(_) => PAYLOAD_BYTES_MAX,
        };
        let own = is_small(request).then(|| {
            Arc::clone(&self.allowance)
                .try_acquire_many_owned(bytes)
                .ok()
        });
        if let Some(own) = own.flatten() {
            share.0.push(own);
        } else if bytes > 0 {
            let own = Arc::clone(&self.bytes).acquire_many_owned(bytes);
            share.0.push(own.await.map_err(closed)?);
            share.0.push(self.of_all(bytes).await.map_err(closed)?);
        }
        Ok(share)
    }

    /// The connection's own allowance becomes free by itself, so clients that take no replies cannot block
    /// others.
    async fn of_all(
        &self,
        bytes: u32,
    ) -> std::result::Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        let all = Arc::clone(&self.all_bytes).acquire_many_owned(bytes);
        if usize_from_u32(bytes) > ALLOWANCE_BYTES {
            return all.await;
        }
        let allowance = Arc::clone(&self.allowance).acquire_many_owned(bytes);
        tokio::select! {
            biased;
            allowance = allowance => allowance,
            all = all => all,
        }
    }
}
