//! Replies to the client.

use std::io::IoSlice;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::stream::Sending;
use crate::block::Buffer;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::metrics::nbd as metrics;
use crate::nbd::proto::Mode;
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::flag::ChunkFlags;
use crate::nbd::proto::reply::{ChunkType, Header, Recipient};
use crate::nbd::proto::status::Status;

/// LIMIT: replies that one call sends.
const BATCH: usize = 16;

/// LIMIT: slices of one call (IOV_MAX is 1,024).
const SLICES_MAX: usize = 512;

/// A part of a reply: a header, and bytes of the reply's buffer.
pub(super) struct Frame {
    pub(super) head: Vec<u8>,
    pub(super) data: Range<usize>,
}

/// A share of the bytes and requests in flight; given back when the reply has been sent.
#[derive(Default)]
pub(super) struct Share(pub(super) Vec<OwnedSemaphorePermit>);

/// A whole reply.
pub(super) struct Reply {
    frames: Vec<Frame>,
    buffer: Option<Buffer>,
    #[expect(dead_code, reason = "held until the reply has been sent")]
    share: Share,
}

/// The result of a request, before it is encoded.
pub(super) enum Outcome {
    /// Success without data.
    Done,
    /// Encoded frames over a buffer: chunks or a simple reply.
    Frames(Vec<Frame>, Option<Buffer>),
}

/// The pending reply to a request, which is sent exactly once. When it is dropped unsent (a worker
/// panicked), it sends EIO.
pub(super) struct PendingReply {
    to: Recipient,
    mode: Mode,
    share: Share,
    sender: UnboundedSender<Reply>,
    is_done: bool,
    command: metrics::Command,
    began: Instant,
}

/// A command as the metrics count it.
const fn counted(command: Command) -> metrics::Command {
    match command {
        Command::Read => metrics::Command::Read,
        Command::Write => metrics::Command::Write,
        Command::Flush => metrics::Command::Flush,
        Command::Trim => metrics::Command::Trim,
        Command::Cache => metrics::Command::Cache,
        Command::WriteZeroes => metrics::Command::WriteZeroes,
        Command::BlockStatus => metrics::Command::BlockStatus,
        Command::Disconnect | Command::Unknown(_) => metrics::Command::Other,
    }
}

impl PendingReply {
    pub(super) fn new(
        request: &Request,
        mode: Mode,
        share: Share,
        sender: UnboundedSender<Reply>,
    ) -> Self {
        Self {
            to: recipient(request, mode),
            mode,
            share,
            sender,
            is_done: false,
            command: counted(request.command),
            began: Instant::now(),
        }
    }

    pub(super) fn answer(mut self, result: Result<Outcome>) {
        self.is_done = true;
        match result {
            Ok(Outcome::Done) => {
                let head = match self.mode {
                    Mode::Extended => last_chunk(self.to),
                    Mode::Simple | Mode::Structured => self.simple(0),
                };
                metrics::note_answer(self.command, self.began, false);
                self.send_head(head);
            }
            Ok(Outcome::Frames(frames, buffer)) => {
                metrics::note_answer(self.command, self.began, false);
                self.send(frames, buffer);
            }
            Err(e) => self.fail(Status::of_kind(e.kind()), &e.report()),
        }
    }

    pub(super) fn refuse(mut self, status: Status, why: &str) {
        self.is_done = true;
        self.fail(status, why);
    }

    fn fail(&mut self, status: Status, why: &str) {
        metrics::note_answer(self.command, self.began, true);
        let head = if self.mode.has_chunks() {
            self.to.encode_error(ChunkFlags::DONE, status.code(), why)
        } else {
            self.simple(status.code())
        };
        self.send_head(head);
    }

    fn simple(&self, error: u32) -> Vec<u8> {
        let cookie = self.to.cookie;
        Header::Simple { error, cookie }.encode()
    }

    fn send_head(&mut self, head: Vec<u8>) {
        self.send(vec![Frame { head, data: 0..0 }], None);
    }

    fn send(&mut self, frames: Vec<Frame>, buffer: Option<Buffer>) {
        let reply = Reply {
            frames,
            buffer,
            share: std::mem::take(&mut self.share),
        };
        // If nothing sends any more, the client is gone.
        let _ = self.sender.send(reply);
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if !self.is_done {
            self.fail(Status::Eio, "the server failed on this request");
        }
    }
}

/// The end of a read whose data were all reported as holes: an empty last chunk.
pub(super) fn last_chunk(to: Recipient) -> Vec<u8> {
    to.encode_chunk(ChunkFlags::DONE, ChunkType::None, &[])
}

/// Addressee of the chunks of a request's reply.
pub(super) fn recipient(request: &Request, mode: Mode) -> Recipient {
    Recipient {
        cookie: request.cookie,
        offset: (mode == Mode::Extended).then_some(request.offset),
    }
}

/// Sends replies until all their senders are dropped.
pub(super) async fn send_all(
    mut stream: Sending,
    mut replies: UnboundedReceiver<Reply>,
    stall_timeout: Duration,
) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while replies.recv_many(&mut batch, BATCH).await > 0 {
        let slices: Vec<&[u8]> = batch
            .iter()
            .flat_map(|reply: &Reply| {
                reply.frames.iter().flat_map(|frame| {
                    let data = reply
                        .buffer
                        .as_ref()
                        .and_then(|buffer| buffer.get(frame.data.clone()))
                        .unwrap_or_default();
                    [frame.head.as_slice(), data]
                })
            })
            .filter(|slice| !slice.is_empty())
            .collect();
        for group in slices.chunks(SLICES_MAX) {
            send(&mut stream, group, stall_timeout).await?;
        }
        drop(slices);
        batch.clear();
        if replies.is_empty() {
            flush(&mut stream, stall_timeout).await?;
        }
    }
    // It does not matter whether the client still receives the end.
    let _ = tokio::time::timeout(stall_timeout, stream.shutdown()).await;
    Ok(())
}

/// Flushes the buffer of TLS.
async fn flush(stream: &mut Sending, stall_timeout: Duration) -> Result<()> {
    tokio::time::timeout(stall_timeout, stream.flush())
        .await
        .map_err(|_| Error::new(ErrorKind::TimedOut, "the client does not take its replies"))?
        .or_io("cannot send a reply")
}

async fn send(stream: &mut Sending, slices: &[&[u8]], stall_timeout: Duration) -> Result<()> {
    let mut slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let sent = tokio::time::timeout(stall_timeout, stream.write_vectored(rest))
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "the client does not take its replies"))?
            .or_io("cannot send a reply")?;
        if sent == 0 {
            return Err(Error::new(
                ErrorKind::Disconnected,
                "the client takes no more bytes",
            ));
        }
        IoSlice::advance_slices(&mut rest, sent);
    }
    Ok(())
}
