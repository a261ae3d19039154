//! One connection, from its greeting to its end.

use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};

use super::buffer::BufferPool;
use super::export::{Exports, Target};
use super::handshake::{Agreement, negotiate, receive_or_end, skip};
use super::limit::ServerLimits;
use super::reply::{Duty, Reply, Share, send_all};
use super::work::Scene;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{Connection, Reservation};
use crate::nbd::proto::PAYLOAD_BYTES_MAX;
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::flag::CommandFlags;
use crate::nbd::proto::status::Status;
use crate::types::width::{u64_from_usize, usize_from_u32};

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
    size_bytes: u64,
    block_bytes: u32,
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
        size_bytes: agreement.target.bytes().size_bytes(),
        scene: Arc::new(Scene {
            target: agreement.target,
            is_structured: agreement.is_structured,
            contexts: agreement.contexts,
            pool: Arc::clone(&shared.pool),
        }),
        connection: agreement.connection,
        block_bytes: agreement.block_bytes,
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
            let mut header = [0; Request::BYTES];
            if !receive_or_end(stream, &mut header).await? {
                return Ok(End::Vanished);
            }
            let request = Request::parse(&header)?;
            if request.command == Command::Disconnect {
                return Ok(End::Goodbye);
            }
            self.receive(stream, request).await?;
        }
    }

    /// Room for a request: the request itself, and the bytes that it or its reply carries.
    async fn share(&self, request: &Request) -> Result<Share> {
        let closed = |_| Error::new(ErrorKind::Cancelled, "the server shuts down");
        let mut share = Share::default();
        let one = Arc::clone(&self.requests).acquire_owned();
        share.0.push(one.await.map_err(closed)?);
        let bytes = match request.command {
            Command::Read | Command::Write => request.length_bytes.min(PAYLOAD_BYTES_MAX),
            _ => 0,
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
        let is_write = request.command == Command::Write;
        // LIMIT: a payload twice as long as allowed is passed over; beyond that the client is out of its mind.
        if is_write && request.length_bytes > PAYLOAD_BYTES_MAX.saturating_mul(2) {
            return Err(violation(format!(
                "the client announced a payload of {} bytes",
                request.length_bytes
            )));
        }
        let share = self.share(&request).await?;
        let duty = Duty::new(
            request.cookie,
            self.scene.is_structured,
            share,
            self.replies.clone(),
        );
        if let Err((status, why)) = self.check(&request) {
            if is_write {
                self.skip(stream, &request).await?;
            }
            duty.refuse(status, why);
            return Ok(());
        }
        if is_write {
            return self.receive_write(stream, request, duty).await;
        }
        if matches!(
            request.command,
            Command::Flush | Command::Trim | Command::WriteZeroes
        ) {
            self.note_write();
        }
        let scene = Arc::clone(&self.scene);
        self.spawn(move || duty.answer(scene.run(&request))).await
    }

    fn note_write(&self) {
        if let Some(connection) = &self.connection {
            connection.note_write();
        }
    }

    async fn receive_write(
        &mut self,
        stream: &mut OwnedReadHalf,
        request: Request,
        duty: Duty,
    ) -> Result<()> {
        let reserved = match &self.scene.target {
            Target::Write { session, disk, .. } => session.reserve(
                disk,
                request.offset,
                u64_from_usize(usize_from_u32(request.length_bytes)),
            ),
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
        self.note_write();
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

    /// What can be said of a request without doing anything.
    fn check(&self, request: &Request) -> std::result::Result<(), (Status, &'static str)> {
        let invalid = |why| Err((Status::Einval, why));
        let is_write = matches!(
            request.command,
            Command::Write | Command::WriteZeroes | Command::Trim
        );
        let allowed = match request.command {
            Command::Read if self.scene.is_structured => CommandFlags::DF,
            Command::Write | Command::Trim => CommandFlags::FUA,
            Command::WriteZeroes => {
                CommandFlags::FUA | CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO
            }
            Command::BlockStatus => CommandFlags::REQ_ONE,
            Command::Unknown(_) => return invalid("the command is not known"),
            Command::Read | Command::Flush | Command::Cache | Command::Disconnect => {
                CommandFlags::empty()
            }
        };
        if is_write && matches!(self.scene.target, Target::Read(_)) {
            return Err((Status::Eperm, "the export cannot be written"));
        }
        // FUA without a write means nothing, but is allowed.
        if !(allowed | CommandFlags::FUA).contains(request.flags) {
            return invalid("a flag is not known, or not with this command");
        }
        if request.command == Command::Flush {
            if request.offset != 0 || request.length_bytes != 0 {
                return invalid("a flush has neither offset nor length");
            }
            return Ok(());
        }
        if request.length_bytes == 0 {
            return invalid("a request of no bytes");
        }
        if matches!(request.command, Command::Read | Command::Write)
            && request.length_bytes > PAYLOAD_BYTES_MAX
        {
            return invalid("more than 32 MiB in one request");
        }
        let end = request
            .offset
            .checked_add(u64::from(request.length_bytes))
            .filter(|end| *end <= self.size_bytes);
        let Some(end) = end else {
            let status = match request.command {
                Command::Write | Command::WriteZeroes => Status::Enospc,
                _ => Status::Einval,
            };
            return Err((status, "the request passes the end of the export"));
        };
        let block = u64::from(self.block_bytes);
        let is_whole = request.offset.is_multiple_of(block)
            && (end.is_multiple_of(block) || end == self.size_bytes);
        if !is_whole {
            return invalid("the request is not aligned to 512 bytes");
        }
        Ok(())
    }
}

fn stalled() -> Error {
    Error::new(
        ErrorKind::TimedOut,
        "the client does not send the payload that it announced",
    )
}
