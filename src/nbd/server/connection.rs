//! One connection, from its greeting to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};

use super::buffer::BufferPool;
use super::check::Terms;
use super::export::{Exports, Target};
use super::handshake::{Agreement, negotiate, receive_or_end, skip};
use super::limit::ServerLimits;
use super::reply::{Duty, Reply, Share, send_all};
use super::step::{self, is_long};
use super::work::Scene;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{Connection, Reservation};
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::{Mode, PAYLOAD_BYTES_MAX};
use crate::types::width::usize_from_u32;

/// LIMIT: bytes in flight that each connection has for itself, beside those that it shares.
const ALLOWANCE_BYTES: usize = 1 << 20;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) limits: ServerLimits,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) workers: Arc<Semaphore>,
    pub(super) pool: Arc<BufferPool>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// NBD_CMD_DISC, or before an export was chosen.
    Goodbye,
    /// The client was gone between two requests.
    Vanished,
    /// The server shuts down.
    Shutdown,
}

/// Serves a client to its end.
pub(super) async fn serve(
    shared: &Shared,
    mut stream: UnixStream,
    mut shutdown: watch::Receiver<bool>,
) -> Result<End> {
    let exports = Arc::clone(&shared.exports);
    let handshake = tokio::time::timeout(
        shared.limits.handshake_timeout,
        negotiate(&mut stream, exports),
    );
    let agreement = tokio::select! {
        agreement = handshake => agreement
            .map_err(|_| Error::new(ErrorKind::TimedOut, "the client did not end its handshake in time"))??,
        () = told(&mut shutdown) => return Ok(End::Shutdown),
    };
    match agreement {
        Some(agreement) => transmit(shared, stream, agreement, shutdown).await,
        None => Ok(End::Goodbye),
    }
}

/// Returns when the server shuts down.
pub(super) async fn told(shutdown: &mut watch::Receiver<bool>) {
    // Whoever could have told is gone: that tells it as well.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The transmission phase of one connection.
struct Transmission<'a> {
    shared: &'a Shared,
    scene: Arc<Scene>,
    connection: Option<Connection>,
    terms: Terms,
    /// Requests in flight.
    requests: Arc<Semaphore>,
    /// Bytes in flight.
    bytes: Arc<Semaphore>,
    /// Bytes that do not count among those of the server.
    allowance: Arc<Semaphore>,
    replies: UnboundedSender<Reply>,
}

async fn transmit(
    shared: &Shared,
    stream: UnixStream,
    agreement: Agreement,
    mut shutdown: watch::Receiver<bool>,
) -> Result<End> {
    let limits = &shared.limits;
    tracing::debug!(export = agreement.name, "an export was opened");
    let (mut receiving, sending) = stream.into_split();
    let (replies, queue) = unbounded_channel();
    let mut sender = tokio::spawn(send_all(sending, queue, limits.stall_timeout));
    let mut transmission = Transmission {
        shared,
        terms: Terms {
            mode: agreement.mode,
            is_read_only: matches!(agreement.target, Target::Read(_)),
            size_bytes: agreement.target.bytes().size_bytes(),
            block_bytes: agreement.block_bytes,
        },
        scene: Arc::new(Scene {
            target: agreement.target,
            mode: agreement.mode,
            is_over: AtomicBool::new(false),
            contexts: agreement.contexts,
            pool: Arc::clone(&shared.pool),
        }),
        connection: agreement.connection,
        requests: Arc::new(Semaphore::new(usize_from_u32(limits.requests))),
        bytes: Arc::new(Semaphore::new(usize_from_u32(limits.connection_bytes))),
        allowance: Arc::new(Semaphore::new(ALLOWANCE_BYTES)),
        replies,
    };
    let result = tokio::select! {
        result = transmission.receive_all(&mut receiving) => result,
        () = told(&mut shutdown) => Ok(End::Shutdown),
        // It ends by itself only when the client cannot be reached any more.
        sent = &mut sender => Err(match sent {
            Ok(Err(e)) => e,
            _ => Error::new(ErrorKind::Disconnected, "the client cannot be reached"),
        }),
    };
    if !matches!(result, Ok(End::Goodbye)) {
        transmission.scene.is_over.store(true, Ordering::Relaxed);
    }
    if !matches!(result, Ok(End::Goodbye | End::Shutdown)) {
        // Nobody takes the replies: those that wait for being sent give back what they hold.
        sender.abort();
    }
    // Whatever is in flight ends before the session learns how the connection ended.
    let all = transmission.requests.acquire_many(limits.requests);
    let is_drained = match result {
        Ok(End::Shutdown) => tokio::time::timeout(limits.shutdown_timeout, all)
            .await
            .is_ok(),
        _ => all.await.is_ok(),
    };
    if !is_drained {
        tracing::warn!("requests were still in flight when the server shut down");
    }
    if let (Ok(End::Goodbye), Some(connection)) = (&result, transmission.connection.take()) {
        connection.finish();
    }
    drop(transmission);
    if !sender.is_finished() {
        // All replies have been sent or dropped, and no more can come.
        let _ = tokio::time::timeout(limits.shutdown_timeout, &mut sender).await;
        sender.abort();
    }
    result
}

impl Transmission<'_> {
    async fn receive_all(&mut self, stream: &mut OwnedReadHalf) -> Result<End> {
        loop {
            let Some(request) = self.receive_header(stream).await? else {
                return Ok(End::Vanished);
            };
            if request.command == Command::Disconnect {
                return Ok(End::Goodbye);
            }
            self.receive(stream, request).await?;
        }
    }

    /// The next request; `None` when the client is gone.
    async fn receive_header(&self, stream: &mut OwnedReadHalf) -> Result<Option<Request>> {
        if self.terms.mode == Mode::Extended {
            let mut header = [0; Request::EXTENDED_BYTES];
            let is_there = receive_or_end(stream, &mut header).await?;
            return is_there
                .then(|| Request::parse_extended(&header))
                .transpose();
        }
        let mut header = [0; Request::BYTES];
        let is_there = receive_or_end(stream, &mut header).await?;
        is_there.then(|| Request::parse(&header)).transpose()
    }

    /// Room for a request: the request itself, and the bytes that it or its reply carries.
    async fn share(&self, request: &Request) -> Result<Share> {
        let closed = |_| Error::new(ErrorKind::Cancelled, "the server shuts down");
        let mut share = Share::default();
        let one = Arc::clone(&self.requests).acquire_owned();
        share.0.push(one.await.map_err(closed)?);
        let has_bytes = request.command == Command::Read || request.has_payload(self.terms.mode);
        let bytes = match u32::try_from(request.length_bytes) {
            _ if !has_bytes => 0,
            Ok(length) => length.min(PAYLOAD_BYTES_MAX),
            Err(_) => PAYLOAD_BYTES_MAX,
        };
        if bytes > 0 {
            let own = Arc::clone(&self.bytes).acquire_many_owned(bytes);
            share.0.push(own.await.map_err(closed)?);
            // What is the connection's own comes free by itself: clients that take no replies cannot stop others.
            let all = Arc::clone(&self.shared.bytes).acquire_many_owned(bytes);
            let permit = if usize_from_u32(bytes) <= ALLOWANCE_BYTES {
                let allowance = Arc::clone(&self.allowance).acquire_many_owned(bytes);
                tokio::select! {
                    biased;
                    allowance = allowance => allowance,
                    all = all => all,
                }
            } else {
                all.await
            };
            share.0.push(permit.map_err(closed)?);
        }
        Ok(share)
    }

    async fn receive(&mut self, stream: &mut OwnedReadHalf, request: Request) -> Result<()> {
        let has_payload = request.has_payload(self.terms.mode);
        // LIMIT: a payload twice as long as allowed is passed over; beyond that the client is out of its mind. With
        // extended headers the specification has no patience at all.
        let most = match self.terms.mode {
            Mode::Extended => u64::from(PAYLOAD_BYTES_MAX),
            Mode::Simple | Mode::Structured => u64::from(PAYLOAD_BYTES_MAX).saturating_mul(2),
        };
        if has_payload && request.length_bytes > most {
            return Err(violation(format!(
                "the client announced a payload of {} bytes",
                request.length_bytes
            )));
        }
        let share = self.share(&request).await?;
        let duty = Duty::new(&request, self.terms.mode, share, self.replies.clone());
        if let Err((status, why)) = self.terms.check(&request) {
            if has_payload {
                self.skip(stream, &request).await?;
            }
            duty.refuse(status, why);
            return Ok(());
        }
        if request.command == Command::Write {
            return self.receive_write(stream, request, duty).await;
        }
        if matches!(
            request.command,
            Command::Flush | Command::Trim | Command::WriteZeroes
        ) && let Err(e) = self.note_write()
        {
            duty.answer(Err(e));
            return Ok(());
        }
        let scene = Arc::clone(&self.scene);
        if is_long(&request) {
            let workers = Arc::clone(&self.shared.workers);
            tokio::spawn(step::run(scene, workers, request, duty));
            return Ok(());
        }
        self.spawn(move || duty.answer(scene.run(&request))).await
    }

    fn note_write(&self) -> Result<()> {
        self.connection
            .as_ref()
            .map_or(Ok(()), Connection::note_write)
    }

    async fn receive_write(
        &mut self,
        stream: &mut OwnedReadHalf,
        request: Request,
        duty: Duty,
    ) -> Result<()> {
        let reserved = match &self.scene.target {
            Target::Write { session, disk, .. } => {
                session.reserve(disk, request.offset, request.length_bytes)
            }
            Target::Read(_) => Err(Error::new(
                ErrorKind::ReadOnly,
                "the export cannot be written",
            )),
        };
        let mut reservation: Reservation = match reserved {
            Ok(reservation) => reservation,
            Err(e) => {
                self.skip(stream, &request).await?;
                duty.answer(Err(e));
                return Ok(());
            }
        };
        // From here on its end counts: a client that dies within its first payload leaves the disk unfinished.
        if let Err(e) = self.note_write() {
            self.skip(stream, &request).await?;
            duty.answer(Err(e));
            return Ok(());
        }
        let received = tokio::time::timeout(
            self.shared.limits.stall_timeout,
            receive_or_end(stream, reservation.bytes_mut()),
        );
        if !received.await.map_err(|_| stalled())?? {
            return Err(violation("the client left in the middle of a payload"));
        }
        let scene = Arc::clone(&self.scene);
        self.spawn(move || duty.answer(scene.write(&request, reservation)))
            .await
    }

    async fn skip(&self, stream: &mut OwnedReadHalf, request: &Request) -> Result<()> {
        let skipped = skip(stream, request.length_bytes);
        tokio::time::timeout(self.shared.limits.stall_timeout, skipped)
            .await
            .map_err(|_| stalled())?
    }

    async fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let turn = Arc::clone(&self.shared.workers)
            .acquire_owned()
            .await
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the server shuts down"))?;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work();
        });
        Ok(())
    }
}

fn stalled() -> Error {
    Error::new(
        ErrorKind::TimedOut,
        "the client does not send the payload that it announced",
    )
}
