//! One connection, from the greeting to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::check::Terms;
use super::export::Content;
use super::handshake::{Agreement, blocking, greet, negotiate, receive_or_end, skip};
use super::in_flight::InFlight;
use super::inline::Inline;
use super::limit::ServerLimits;
use super::redacted::Redacted;
use super::reply::{PendingReply, Reply, send_all};
use super::secure::Secured;
use super::service::Service;
use super::step::{self, is_long};
use super::stream::{Receiving, Stream};
use super::thread::on_own_thread;
use super::work::ConnectionState;
use crate::access::{Caller, Origin};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::{Connection, Reservation, SessionState};
use crate::metrics::nbd::Open;
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::{Mode, PAYLOAD_BYTES_MAX};

/// Interval at which an idle connection checks that its session still exists.
const SESSION_INTERVAL: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// NBD_CMD_DISC, or an end before an export was chosen.
    Goodbye,
    /// The client disconnected between two requests.
    Vanished,
    /// The server is shutting down.
    Shutdown,
}

/// State in which a client's connection is taken over.
pub(super) enum Entrance {
    /// Not greeted yet.
    Plain(Stream, Caller),
    /// Already secured by TLS.
    Secured(Secured),
}

/// Serves a client until its connection ends.
pub(super) async fn serve(
    service: &Arc<Service>,
    entrance: Entrance,
    origin: Origin,
    mut shutdown: watch::Receiver<bool>,
) -> Result<End> {
    let _open = Open::begin();
    let handshake = tokio::time::timeout(
        service.limits().handshake_timeout,
        shake_hands(service, entrance, origin),
    );
    let agreed = tokio::select! {
        agreed = handshake => agreed
            .map_err(|_| Error::new(ErrorKind::TimedOut, "the client did not end its handshake in time"))??,
        () = shutdown_requested(&mut shutdown) => return Ok(End::Shutdown),
    };
    let Some((stream, agreement)) = agreed else {
        return Ok(End::Goodbye);
    };
    let workers = Handle::current();
    if matches!(agreement.content, Content::Read(_)) {
        return transmit(service, stream, agreement, workers, shutdown).await;
    }
    let service = Arc::clone(service);
    on_own_thread(move || async move {
        let stream = stream
            .moved_here()
            .or_io("cannot move a connection to its thread")?;
        transmit(&service, stream, agreement, workers, shutdown).await
    })
    .await
}

/// The handshake, from the greeting to an export; `None` when the client leaves properly.
async fn shake_hands(
    service: &Service,
    entrance: Entrance,
    origin: Origin,
) -> Result<Option<(Stream, Agreement)>> {
    let (mut stream, caller, answer) = match entrance {
        Entrance::Secured(secured) => secured,
        Entrance::Plain(mut stream, caller) => match greet(&mut stream).await? {
            Some(answer) => (stream, caller, answer),
            None => return Ok(None),
        },
    };
    let agreement = negotiate(&mut stream, service, (&caller, origin), answer).await?;
    Ok(agreement.map(|agreement| (stream, agreement)))
}

/// Returns when the server shuts down.
pub(super) async fn shutdown_requested(shutdown: &mut watch::Receiver<bool>) {
    // A dropped sender means shutdown as well.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// The transmission phase of one connection.
struct Transmission<'a> {
    service: &'a Service,
    limits: ServerLimits,
    state: Arc<ConnectionState>,
    connection: Option<Connection>,
    terms: Terms,
    in_flight: InFlight,
    replies: UnboundedSender<Reply>,
    /// The runtime whose blocking threads execute requests.
    workers: Handle,
    inline: Inline,
}

async fn transmit(
    service: &Service,
    stream: Stream,
    agreement: Agreement,
    workers: Handle,
    mut shutdown: watch::Receiver<bool>,
) -> Result<End> {
    let limits = service.limits();
    let _seat = agreement.seat;
    tracing::debug!(export = %Redacted(&agreement.name), "an export was opened");
    let (mut receiving, sending) = stream.split();
    let (replies, queue) = unbounded_channel();
    let mut sender = tokio::spawn(send_all(sending, queue, limits.stall_timeout));
    let mut transmission = Transmission {
        service,
        limits,
        terms: Terms {
            mode: agreement.mode,
            is_read_only: matches!(agreement.content, Content::Read(_)),
            size_bytes: agreement.content.bytes().size_bytes(),
            block_bytes: agreement.block_bytes,
        },
        state: Arc::new(ConnectionState {
            content: agreement.content,
            mode: agreement.mode,
            is_over: AtomicBool::new(false),
            contexts: agreement.contexts,
            pool: Arc::clone(&service.pool),
        }),
        connection: agreement.connection,
        in_flight: InFlight::new(&limits, &service.bytes),
        replies,
        workers,
        inline: Inline::new(),
    };
    let result = tokio::select! {
        result = transmission.receive_all(&mut receiving) => result,
        () = shutdown_requested(&mut shutdown) => Ok(End::Shutdown),
        // The sender ends by itself only when the client is unreachable.
        sent = &mut sender => Err(match sent {
            Ok(Err(e)) => e,
            _ => Error::new(ErrorKind::Disconnected, "the client cannot be reached"),
        }),
    };
    if !matches!(result, Ok(End::Goodbye)) {
        transmission.state.is_over.store(true, Ordering::Relaxed);
    }
    if !matches!(result, Ok(End::Goodbye | End::Shutdown)) {
        // Nothing takes the replies any more: queued ones give back their shares.
        sender.abort();
    }
    // Requests in flight end before the session learns how the connection ended.
    let drained = transmission.drain(&mut sender);
    let is_drained = match result {
        Ok(End::Shutdown) => tokio::time::timeout(limits.shutdown_timeout, drained)
            .await
            .is_ok(),
        _ => drained.await,
    };
    if !is_drained {
        tracing::warn!("requests were still in flight when the server shut down");
    }
    if let (Ok(End::Goodbye), Some(connection)) = (&result, transmission.connection.take()) {
        let state = Arc::clone(&transmission.state);
        let finishing = move || state.content.note(connection.finish());
        // The hook has logged a panic there.
        if let Ok(Err(e)) = tokio::task::spawn_blocking(finishing).await {
            tracing::warn!(error = %e.report(), "a disk could not be made durable when its client disconnected");
        }
    }
    drop(transmission);
    if !sender.is_finished() {
        // All replies have been sent or dropped, and no further ones can come.
        let _ = tokio::time::timeout(limits.shutdown_timeout, &mut sender).await;
        sender.abort();
    }
    result
}

impl Transmission<'_> {
    /// Waits until no request is in flight.
    ///
    /// # Why
    /// A reply that is queued at the moment when the receiving end is dropped stays in the queue (tokio), and
    /// its share with it, until the last sender is gone.
    async fn drain(&mut self, sender: &mut JoinHandle<Result<()>>) -> bool {
        let all = self.in_flight.all();
        tokio::pin!(all);
        if !sender.is_finished() {
            tokio::select! {
                all = &mut all => return all,
                _ = sender => {}
            }
        }
        self.replies = unbounded_channel().0;
        all.await
    }

    async fn receive_all(&mut self, stream: &mut Receiving) -> Result<End> {
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

    /// The next request; `None` when the client has disconnected.
    async fn receive_header(&self, stream: &mut Receiving) -> Result<Option<Request>> {
        if self.terms.mode == Mode::Extended {
            let mut header = [0; Request::EXTENDED_BYTES];
            let is_there = self.receive_patiently(stream, &mut header).await?;
            return is_there
                .then(|| Request::parse_extended(&header))
                .transpose();
        }
        let mut header = [0; Request::BYTES];
        let is_there = self.receive_patiently(stream, &mut header).await?;
        is_there.then(|| Request::parse(&header)).transpose()
    }

    /// Fills `header`; `false` when the client disconnected before its first byte. The first byte may take as
    /// long as the client may be idle, the following ones only as long as any message.
    async fn receive_patiently(&self, stream: &mut Receiving, header: &mut [u8]) -> Result<bool> {
        let limits = &self.limits;
        let (patience, is_reader) = match &self.state.content {
            Content::Read(_) => (limits.idle_timeout, true),
            Content::Write { .. } => (limits.idle_timeout.min(SESSION_INTERVAL), false),
        };
        let begun = loop {
            match tokio::time::timeout(patience, stream.read(header)).await {
                Ok(count) => break count.or_io("cannot receive from the client")?,
                Err(_) if is_reader => self.check_idle(patience)?,
                Err(_) => self.check_session()?,
            }
        };
        let rest = header.get_mut(begun..).unwrap_or_default();
        if begun == 0 || rest.is_empty() {
            return Ok(begun != 0);
        }
        let received = tokio::time::timeout(limits.stall_timeout, receive_or_end(stream, rest));
        if received.await.map_err(|_| stalled())?? {
            Ok(true)
        } else {
            Err(violation("the client left in the middle of a message"))
        }
    }

    /// Fails when the client is idle for too long. A client that waits for a reply is not idle.
    fn check_idle(&self, patience: Duration) -> Result<()> {
        if !self.in_flight.is_idle() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TimedOut,
            format!(
                "the client has asked for nothing for {} seconds",
                patience.as_secs()
            ),
        ))
    }

    /// Fails when the session is gone. A writing client may be idle as long as the session exists.
    fn check_session(&self) -> Result<()> {
        match &self.state.content {
            Content::Write { session, .. }
                if matches!(
                    session.state(),
                    SessionState::Aborted | SessionState::Committed(_)
                ) =>
            {
                Err(Error::new(ErrorKind::Stale, "the session is over"))
            }
            _ => Ok(()),
        }
    }

    async fn receive(&mut self, stream: &mut Receiving, request: Request) -> Result<()> {
        let has_payload = request.has_payload(self.terms.mode);
        // LIMIT: a payload up to twice the allowed length is skipped; a longer one ends the connection,
        // because the client is broken. With extended headers the specification allows no excess at all.
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
        let share = self.in_flight.share(&request, self.terms.mode).await?;
        let pending = PendingReply::new(&request, self.terms.mode, share, self.replies.clone());
        if let Err((status, why)) = self.terms.check(&request) {
            if has_payload {
                self.skip(stream, &request).await?;
            }
            pending.refuse(status, why);
            return Ok(());
        }
        if request.command == Command::Write {
            return self.receive_write(stream, request, pending).await;
        }
        if matches!(
            request.command,
            Command::Flush | Command::Trim | Command::WriteZeroes
        ) && let Err(e) = self.note_write().await
        {
            pending.answer(Err(e));
            return Ok(());
        }
        let state = Arc::clone(&self.state);
        if is_long(&request) {
            let workers = Arc::clone(&self.service.workers);
            tokio::spawn(step::run(state, workers, request, pending));
            return Ok(());
        }
        self.spawn(move || pending.answer(state.run(&request)))
            .await
    }

    /// Records that the connection writes; see [`Connection::begin_write`]. The blocking part runs on a
    /// blocking thread.
    async fn note_write(&self) -> Result<()> {
        match (&self.connection, &self.state.content) {
            (Some(connection), Content::Write { disk, .. }) if connection.begin_write()? => {
                let disk = Arc::clone(disk);
                blocking(move || disk.flush()).await?
            }
            _ => Ok(()),
        }
    }

    async fn receive_write(
        &mut self,
        stream: &mut Receiving,
        request: Request,
        pending: PendingReply,
    ) -> Result<()> {
        let reserved = match &self.state.content {
            Content::Write { session, disk, .. } => {
                session.reserve(disk, request.offset, request.length_bytes)
            }
            Content::Read(_) => Err(Error::new(
                ErrorKind::ReadOnly,
                "the export cannot be written",
            )),
        };
        let mut reservation: Reservation = match reserved {
            Ok(reservation) => reservation,
            Err(e) => {
                self.skip(stream, &request).await?;
                pending.answer(Err(e));
                return Ok(());
            }
        };
        // From here on the end of the connection counts: a client that dies within its first payload leaves
        // the disk unfinished.
        if let Err(e) = self.note_write().await {
            self.skip(stream, &request).await?;
            pending.answer(Err(e));
            return Ok(());
        }
        let received = tokio::time::timeout(
            self.limits.stall_timeout,
            receive_or_end(stream, reservation.bytes_mut()),
        );
        if !received.await.map_err(|_| stalled())?? {
            return Err(violation("the client left in the middle of a payload"));
        }
        if let Content::Write { disk, .. } = &self.state.content
            && self.inline.takes(&request, disk, &reservation)
        {
            let state = &self.state;
            let write = AssertUnwindSafe(|| state.write(&request, reservation));
            // What panics is answered with EIO, as on a blocking thread, and ends nothing else; the panic hook has logged it.
            match catch_unwind(write) {
                Ok(written) => pending.answer(written),
                Err(_) => drop(pending),
            }
            self.inline.executed(&request).await;
            return Ok(());
        }
        let state = Arc::clone(&self.state);
        self.spawn(move || pending.answer(state.write(&request, reservation)))
            .await
    }

    async fn skip(&self, stream: &mut Receiving, request: &Request) -> Result<()> {
        let skipped = skip(stream, request.length_bytes);
        tokio::time::timeout(self.limits.stall_timeout, skipped)
            .await
            .map_err(|_| stalled())?
    }

    async fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let turn = Arc::clone(&self.service.workers)
            .acquire_owned()
            .await
            .map_err(|_| Error::new(ErrorKind::Cancelled, "the server shuts down"))?;
        self.workers.spawn_blocking(move || {
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
