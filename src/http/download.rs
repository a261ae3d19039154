//! Downloads: bodies that a thread reads while the client takes them.
//!
//! # Invariants
//! - At most eight at a time, two of one caller: who comes then is told to come again.
//! - A client that takes less than 1 MiB in 60 s is ended.
//! - An error in the middle ends the body as broken: the connection is closed before its end.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::call::Call;
use super::fault::Fault;
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::u64_from_usize;

/// LIMIT: bytes that a client must take within the window (DESIGN).
const TAKEN_BYTES_MIN: u64 = 1 << 20;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// LIMIT: pieces between the thread and the connection, of at most 1 MiB each.
const PIECES: usize = 2;
/// How long a thread waits for the client before it looks at the clock.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes that an archive's writer gathers into a piece.
const PIECE_BYTES: usize = 256 << 10;

/// The thread's end of a download.
pub(super) struct Sink {
    to: Sender<Bytes>,
    /// Bytes that the client has taken since the window began.
    taken: u64,
    /// Time that was spent waiting for the client since then.
    waited: Duration,
}

impl Sink {
    const fn new(to: Sender<Bytes>) -> Self {
        Self {
            to,
            taken: 0,
            waited: Duration::ZERO,
        }
    }

    /// Hands a piece to the client.
    ///
    /// # Errors
    /// `Disconnected` when the client is gone; `TimedOut` when it takes too little.
    pub(super) fn put(&mut self, piece: impl Into<Bytes>) -> Result<()> {
        let mut piece = piece.into();
        let length = u64_from_usize(piece.len());
        loop {
            match self.to.try_send(piece) {
                Ok(()) => break,
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    return Err(Error::new(ErrorKind::Disconnected, "the client is gone"));
                }
                Err(mpsc::error::TrySendError::Full(back)) => {
                    piece = back;
                    self.wait()?;
                }
            }
        }
        self.taken += length;
        if self.taken >= TAKEN_BYTES_MIN {
            self.taken = 0;
            self.waited = Duration::ZERO;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        let to = self.to.clone();
        let ready = tokio::runtime::Handle::current().block_on(async {
            tokio::time::timeout(LOOK, to.reserve())
                .await
                .map(|place| place.is_ok())
        });
        self.waited += begun.elapsed();
        if ready == Ok(false) {
            return Err(Error::new(ErrorKind::Disconnected, "the client is gone"));
        }
        if self.waited >= WINDOW {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!("the client took less than 1 MiB in {} s", WINDOW.as_secs()),
            ));
        }
        Ok(())
    }
}

/// What an archive writes to.
pub(super) struct ArchiveSink<'a> {
    sink: &'a mut Sink,
    gathered: Vec<u8>,
}

impl<'a> ArchiveSink<'a> {
    pub(super) const fn new(sink: &'a mut Sink) -> Self {
        Self {
            sink,
            gathered: Vec::new(),
        }
    }

    fn pass(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.gathered);
        self.sink.put(piece).map_err(|e| match e.kind() {
            ErrorKind::Disconnected => io::Error::from(io::ErrorKind::BrokenPipe),
            _ => io::Error::other(e.report()),
        })
    }
}

impl Write for ArchiveSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.pass()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.gathered.is_empty() {
            true => Ok(()),
            false => self.pass(),
        }
    }
}

/// The connection's end of a download.
struct Pieces {
    from: Receiver<Bytes>,
    /// Bytes that are still to come, where the length is known.
    left: Option<u64>,
    /// Set by the thread when it has written everything. Whatever else ends the thread leaves it unset.
    is_whole: Arc<AtomicBool>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.from.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(piece)) => {
                let length = u64_from_usize(piece.len());
                self.left = self.left.map(|left| left.saturating_sub(length));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(None) if self.is_whole.load(Ordering::Acquire) => Poll::Ready(None),
            Poll::Ready(None) => {
                Poll::Ready(Some(Err(io::Error::other("the download was broken off"))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

/// A body of `length` bytes, where that is known, which `write` fills on a thread of its own.
///
/// # Errors
/// `LimitExceeded` when there are too many downloads.
pub(super) fn body(
    call: &Call,
    what: String,
    length: Option<u64>,
    write: impl FnOnce(&mut Sink) -> Result<()> + Send + 'static,
) -> std::result::Result<Body, Fault> {
    let place = call.site.downloads.enter(&call.caller.to_string())?;
    let (to, from) = mpsc::channel(PIECES);
    let is_whole = Arc::<AtomicBool>::default();
    let mut sink = Sink::new(to);
    let (caller, wrote) = (call.caller.to_string(), Arc::clone(&is_whole));
    tokio::task::spawn_blocking(move || {
        let _place = place;
        match write(&mut sink) {
            Ok(()) => wrote.store(true, Ordering::Release),
            Err(e) if e.kind() == ErrorKind::Disconnected => {
                tracing::debug!(%caller, what, "a client ended its download");
            }
            Err(e) => {
                tracing::warn!(%caller, what, error = %e.report(), "a download was broken off");
            }
        }
    });
    Ok(Body::new(Pieces {
        from,
        left: length,
        is_whole,
    }))
}
