//! One connection with many requests in flight.
//!
//! # Concurrency
//! A sender holds `sending`. A thread of the link receives all replies and passes each to the caller that
//! waits for it. So replies may come out of order, and a server that stops reading until its replies are read
//! cannot stall the client.
//!
//! Lock order: `sending`, then `state`.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use super::handshake::Facts;
use super::pending::{Answer, CHUNK_BYTES_MAX, Reply, Want, data_length};
use super::stream::Stream;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::nbd::proto::Mode;
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::flag::{ChunkFlags, CommandFlags};
use crate::nbd::proto::reply::{ChunkType, Header, Recipient};
use crate::types::sync::{Condvar, Mutex};
use crate::types::width::usize_from_u64;

/// LIMIT: requests in flight on one connection; nbdkit and QEMU process 16 at a time.
const IN_FLIGHT_MAX: usize = 16;

/// LIMIT: time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// LIMIT: time to wait for the server to close the connection after the goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(30);

type Sender = SyncSender<Result<Answer>>;

/// A pending reply.
pub(super) struct Ticket(Receiver<Result<Answer>>);

struct Waiting {
    /// Offset of the request; extended replies repeat it.
    offset: u64,
    reply: Reply,
    sender: Sender,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    /// Requests in flight, including the one whose reply is being received.
    in_flight: usize,
    dead: Option<(ErrorKind, String)>,
}

struct Shared {
    stream: Stream,
    state: Mutex<State>,
    freed: Condvar,
    mode: Mode,
}

/// A connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    sending: Mutex<()>,
    cookie: AtomicU64,
    receiver: Option<JoinHandle<()>>,
    ended: Mutex<Receiver<()>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Ends the connection; all pending and later requests fail with the error.
    fn die(&self, error: &Error) {
        self.stream.shutdown(Shutdown::Both);
        let mut state = self.state();
        let dead = (error.kind(), error.report());
        for (_, waiting) in state.waiting.drain() {
            // A caller that has given up does not need the error.
            let _ = waiting
                .sender
                .try_send(Err(Error::new(dead.0, dead.1.clone())));
        }
        state.in_flight = 0;
        state.dead.get_or_insert(dead);
        drop(state);
        self.freed.notify_all();
    }

    fn receive_all(&self) {
        loop {
            if let Err(error) = self.receive_one() {
                self.die(&error);
                return;
            }
        }
    }

    fn take(&self, cookie: u64) -> Result<Waiting> {
        self.state()
            .waiting
            .remove(&cookie)
            .ok_or_else(|| violation("the server answered a request that was not sent"))
    }

    fn answer(&self, waiting: Waiting) -> Result<()> {
        let (answer, broken) = match waiting.reply.finish() {
            Ok(answer) => (answer, None),
            Err(e) => (Err(Error::new(e.kind(), e.report())), Some(e)),
        };
        let _ = waiting.sender.try_send(answer);
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        drop(state);
        self.freed.notify_one();
        broken.map_or(Ok(()), Err)
    }

    fn receive_header(&self) -> Result<Header> {
        if self.mode == Mode::Extended {
            let header: [u8; Header::EXTENDED_BYTES] = self.stream.receive_array()?;
            return Header::parse(&header);
        }
        let first: [u8; Header::SIMPLE_BYTES] = self.stream.receive_array()?;
        if Header::is_chunk(&first)? {
            let more: [u8; Header::CHUNK_MORE_BYTES] = self.stream.receive_array()?;
            Header::parse(&[&first[..], &more[..]].concat())
        } else {
            Header::parse(&first)
        }
    }

    fn receive_one(&self) -> Result<()> {
        match self.receive_header()? {
            Header::Simple { error, cookie } => {
                let waiting = self.take(cookie)?;
                self.guarded(waiting, |reply| self.receive_simple(reply, error))
                    .and_then(|waiting| self.answer(waiting))
            }
            Header::Chunk {
                flags,
                kind,
                to: Recipient { cookie, offset },
                length_bytes,
            } => {
                let waiting = self.take(cookie)?;
                if offset.is_some_and(|offset| offset != waiting.offset) {
                    return Err(violation("the server answered for another offset"));
                }
                let waiting = self.guarded(waiting, |reply| {
                    self.receive_chunk(reply, kind, length_bytes)
                })?;
                if flags.contains(ChunkFlags::DONE) {
                    return self.answer(waiting);
                }
                if kind == ChunkType::None {
                    return Err(violation(
                        "the server sent an empty chunk that is not the last",
                    ));
                }
                self.state().waiting.insert(cookie, waiting);
                Ok(())
            }
        }
    }

    /// Receives into a request that is out of the table meanwhile; a failure is passed to it.
    fn guarded(
        &self,
        mut waiting: Waiting,
        receive: impl FnOnce(&mut Reply) -> Result<()>,
    ) -> Result<Waiting> {
        match receive(&mut waiting.reply) {
            Ok(()) => Ok(waiting),
            Err(e) => {
                let _ = waiting
                    .sender
                    .try_send(Err(Error::new(e.kind(), e.report())));
                Err(e)
            }
        }
    }

    fn receive_simple(&self, reply: &mut Reply, error: u32) -> Result<()> {
        if error != 0 {
            reply.fail(error);
            return Ok(());
        }
        match reply.whole() {
            Some(_) if self.mode.has_chunks() => Err(violation(
                "the server sent a simple reply where a structured one was agreed on",
            )),
            Some(buffer) => self.stream.receive(buffer),
            None => Ok(()),
        }
    }

    fn receive_chunk(&self, reply: &mut Reply, kind: ChunkType, length_bytes: u64) -> Result<()> {
        if !self.mode.has_chunks() {
            return Err(violation(
                "the server sent a structured reply that was not agreed on",
            ));
        }
        if kind == ChunkType::OffsetData {
            let length = data_length(length_bytes)?;
            let offset = u64::from_be_bytes(self.stream.receive_array()?);
            return self.stream.receive(reply.part(offset, length)?);
        }
        if (kind == ChunkType::BlockStatusExtended) != (self.mode == Mode::Extended)
            && matches!(
                kind,
                ChunkType::BlockStatus | ChunkType::BlockStatusExtended
            )
        {
            return Err(violation(
                "the server sent extents in a form that was not agreed on",
            ));
        }
        if length_bytes > u64::from(CHUNK_BYTES_MAX) {
            return Err(violation(format!(
                "the server sent a chunk of {length_bytes} bytes"
            )));
        }
        let mut payload = vec![0; usize_from_u64(length_bytes)];
        self.stream.receive(&mut payload)?;
        reply.chunk(kind, &payload)
    }
}

impl Link {
    /// Starts receiving on a connection after its handshake.
    pub(super) fn new(stream: Stream, facts: &Facts) -> Result<Self> {
        let shared = Arc::new(Shared {
            stream,
            state: Mutex::default(),
            freed: Condvar::new(),
            mode: facts.mode,
        });
        let (end, ended) = sync_channel(1);
        let receiving = Arc::clone(&shared);
        let receiver = std::thread::Builder::new()
            .name("nbd-receive".to_owned())
            .spawn(move || {
                receiving.receive_all();
                let _ = end.try_send(());
            })
            .or_io("cannot start a thread for the NBD connection")?;
        Ok(Self {
            shared,
            sending: Mutex::new(()),
            cookie: AtomicU64::new(1),
            receiver: Some(receiver),
            ended: Mutex::new(ended),
        })
    }

    /// Requests in flight; `None` for a dead connection.
    pub(super) fn load(&self) -> Option<usize> {
        let state = self.shared.state();
        state.dead.is_none().then_some(state.in_flight)
    }

    /// The error that ended the connection.
    pub(super) fn death(&self) -> Option<Error> {
        let state = self.shared.state();
        let (kind, text) = state.dead.as_ref()?;
        Some(Error::new(*kind, text.clone()))
    }

    /// Sends a request; waits while too many are in flight.
    pub(super) fn send(
        &self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length_bytes: u64,
        payload: &[u8],
        want: Want,
    ) -> Result<Ticket> {
        let cookie = self.cookie.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        {
            let mut state = self.shared.state();
            while state.dead.is_none() && state.in_flight >= IN_FLIGHT_MAX {
                state = self.shared.freed.wait(state);
            }
            if let Some((kind, text)) = &state.dead {
                return Err(Error::new(*kind, text.clone()));
            }
            state.in_flight += 1;
            let reply = Reply::new(want);
            let waiting = Waiting {
                offset,
                reply,
                sender,
            };
            state.waiting.insert(cookie, waiting);
        }
        let mode = self.shared.mode;
        let flags = if mode == Mode::Extended && command == Command::Write {
            flags | CommandFlags::PAYLOAD_LEN
        } else {
            flags
        };
        let request = Request {
            flags,
            command,
            cookie,
            offset,
            length_bytes,
        };
        let _turn = self.sending.lock();
        if let Err(error) = self.shared.stream.send(&request.encode(mode), payload) {
            // The server may have sent a reason before it closed the connection: the receiver's error, if
            // any, stays.
            self.shared.die(&error);
            return Err(error);
        }
        Ok(Ticket(receiver))
    }

    /// Waits for a reply.
    pub(super) fn wait(&self, ticket: &Ticket) -> Result<Answer> {
        match ticket.0.recv_timeout(REQUEST_TIMEOUT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(self.death().unwrap_or_else(|| {
                Error::new(ErrorKind::Disconnected, "the NBD connection has ended")
            })),
            Err(RecvTimeoutError::Timeout) => {
                let error = Error::new(
                    ErrorKind::TimedOut,
                    format!(
                        "the NBD server did not answer within {} seconds",
                        REQUEST_TIMEOUT.as_secs()
                    ),
                );
                self.shared.die(&error);
                Err(error)
            }
        }
    }

    /// Says goodbye and waits until the server has closed the connection: then it has received the goodbye.
    pub(super) fn disconnect(&self) -> Result<()> {
        if let Some(error) = self.death() {
            return Err(error);
        }
        let goodbye = Request {
            flags: CommandFlags::empty(),
            command: Command::Disconnect,
            cookie: 0,
            offset: 0,
            length_bytes: 0,
        };
        {
            let _turn = self.sending.lock();
            self.shared
                .stream
                .send(&goodbye.encode(self.shared.mode), &[])?;
        }
        self.shared.stream.shutdown(Shutdown::Write);
        let ended = self.ended.lock();
        match ended.recv_timeout(GOODBYE_TIMEOUT) {
            Err(RecvTimeoutError::Timeout) => Err(Error::new(
                ErrorKind::TimedOut,
                "the NBD server does not hang up",
            )),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stream.shutdown(Shutdown::Both);
        if let Some(receiver) = self.receiver.take() {
            // A panic of the thread was printed where it happened.
            let _ = receiver.join();
        }
    }
}
