//! Executes requests on blocking threads.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::context::Context;
use super::export::Content;
use super::reply::{Frame, Outcome, last_chunk, recipient};
use crate::block::{BufferPool, Extent, ReadAt};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::Reservation;
use crate::nbd::proto::Mode;
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::flag::{ChunkFlags, CommandFlags};
use crate::nbd::proto::reply::Header;
use crate::types::width::usize_from_u64;

/// LIMIT: extents of one BLOCK_STATUS reply; the client continues where it ends.
const EXTENTS_MAX: usize = 4096;

/// LIMIT: bytes of an export that one step of BLOCK_STATUS examines.
const STATUS_STEP_BYTES: u64 = 1 << 30;

/// LIMIT: time for one context of a BLOCK_STATUS, beside its first step.
const STATUS_TIME_MAX: Duration = Duration::from_secs(1);

/// LIMIT: chunks of one READ reply; the rest is sent as data.
const CHUNKS_MAX: usize = 128;

/// LIMIT: bytes that CACHE reads at a time.
const CACHE_BYTES: u64 = 1 << 20;

/// The terms of a connection and the objects that it uses.
pub(super) struct ConnectionState {
    pub(super) content: Content,
    pub(super) mode: Mode,
    /// Set when the connection has ended: long commands stop.
    pub(super) is_over: AtomicBool,
    pub(super) contexts: Vec<Context>,
    pub(super) pool: Arc<BufferPool>,
}

/// The range of a request, checked to lie within the export.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    end: u64,
}

impl Span {
    const fn of(request: &Request) -> Self {
        Self {
            from: request.offset,
            end: request.offset.saturating_add(request.length_bytes),
        }
    }

    const fn length(self) -> u64 {
        self.end.saturating_sub(self.from)
    }
}

/// Converts to 32 bits, saturating; no payload is longer.
fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Extents of a span, one after the other.
struct Extents<'a> {
    disk: &'a dyn ReadAt,
    rest: Span,
}

impl Extents<'_> {
    fn next(&mut self) -> Result<Option<Extent>> {
        let length_max = self.rest.length();
        if length_max == 0 {
            return Ok(None);
        }
        let extent = self.disk.extent_at(self.rest.from, length_max)?;
        let length_bytes = extent.length_bytes.clamp(1, length_max);
        self.rest.from = self.rest.from.saturating_add(length_bytes);
        Ok(Some(Extent {
            length_bytes,
            ..extent
        }))
    }
}

impl ConnectionState {
    const fn extents(disk: &dyn ReadAt, span: Span) -> Extents<'_> {
        Extents { disk, rest: span }
    }

    /// Executes any request but WRITE, whose payload goes to [`ConnectionState::write`].
    pub(super) fn run(&self, request: &Request) -> Result<Outcome> {
        let span = Span::of(request);
        match request.command {
            Command::Read if !self.mode.has_chunks() => self.read_simple(request, span),
            Command::Read if request.flags.contains(CommandFlags::DF) => {
                self.read_data(request, span)
            }
            Command::Read => self.read(request, span),
            Command::Cache => self.cache(span),
            Command::BlockStatus => self.status(request, span),
            Command::Flush => self.flush(),
            Command::Trim | Command::WriteZeroes => self.zero(request, span),
            Command::Write | Command::Disconnect | Command::Unknown(_) => {
                Err(Error::invalid("the command is not known"))
            }
        }
    }

    /// Stores a payload that was received into the session's buffer.
    pub(super) fn write(&self, request: &Request, reservation: Reservation) -> Result<Outcome> {
        let written = reservation.submit().and_then(|()| self.force(request));
        self.content.note(written)?;
        Ok(Outcome::Done)
    }

    /// Makes the write durable if the request has FUA.
    fn force(&self, request: &Request) -> Result<()> {
        match &self.content {
            Content::Write { disk, .. } if request.flags.contains(CommandFlags::FUA) => {
                disk.flush()
            }
            _ => Ok(()),
        }
    }

    fn flush(&self) -> Result<Outcome> {
        if let Content::Write { session, disk, .. } = &self.content {
            session.touch();
            self.content.note(disk.flush())?;
        }
        Ok(Outcome::Done)
    }

    fn zero(&self, request: &Request, span: Span) -> Result<Outcome> {
        let Content::Write { session, disk, .. } = &self.content else {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "the export cannot be written",
            ));
        };
        if request.flags.contains(CommandFlags::FAST_ZERO) {
            self.check_free(request)?;
        }
        session.touch();
        let done = disk
            .zero(span.from, span.length())
            .and_then(|()| self.force(request));
        self.content.note(done)?;
        Ok(Outcome::Done)
    }

    /// Checks that the range reads as zero already, for FAST_ZERO.
    pub(super) fn check_free(&self, request: &Request) -> Result<()> {
        let mut extents = Self::extents(self.content.bytes(), Span::of(request));
        while let Some(extent) = extents.next()? {
            if !extent.kind.reads_zero() {
                return Err(Error::unsupported("there is data, zeroing it is not free"));
            }
        }
        Ok(())
    }

    fn read_simple(&self, request: &Request, span: Span) -> Result<Outcome> {
        let head = Header::Simple {
            error: 0,
            cookie: request.cookie,
        };
        self.read_whole(span, head.encode())
    }

    fn read_data(&self, request: &Request, span: Span) -> Result<Outcome> {
        let to = recipient(request, self.mode);
        let head = to.encode_data(ChunkFlags::DONE, span.from, narrow(span.length()));
        self.read_whole(span, head)
    }

    fn read_whole(&self, span: Span, head: Vec<u8>) -> Result<Outcome> {
        let mut buffer = self.pool.take(usize_from_u64(span.length()));
        self.content.bytes().read_at(span.from, &mut buffer)?;
        let frame = Frame {
            head,
            data: 0..buffer.len(),
        };
        Ok(Outcome::Frames(vec![frame], Some(buffer)))
    }

    /// Reads data as data, and ranges that are known to be zero as holes.
    fn read(&self, request: &Request, span: Span) -> Result<Outcome> {
        let disk = self.content.bytes();
        let mut pieces: Vec<(Span, bool)> = Vec::new();
        let mut extents = Self::extents(disk, span);
        loop {
            let from = extents.rest.from;
            if pieces.len() >= CHUNKS_MAX {
                if extents.rest.length() > 0 {
                    pieces.push((extents.rest, false));
                }
                break;
            }
            let Some(extent) = extents.next()? else { break };
            let zero = extent.kind.reads_zero();
            let end = extents.rest.from;
            match pieces.last_mut() {
                Some((last, kind)) if *kind == zero => last.end = end,
                _ => pieces.push((Span { from, end }, zero)),
            }
        }
        let data = pieces
            .iter()
            .filter(|(_, zero)| !zero)
            .fold(0, |sum: u64, (piece, _)| sum.saturating_add(piece.length()));
        let mut buffer = (data > 0).then(|| self.pool.take(usize_from_u64(data)));
        let mut frames = Vec::with_capacity(pieces.len().saturating_add(1));
        let mut filled = 0usize;
        let to = recipient(request, self.mode);
        for (piece, zero) in &pieces {
            let flags = if piece.end == span.end {
                ChunkFlags::DONE
            } else {
                ChunkFlags::empty()
            };
            let length = narrow(piece.length());
            if *zero {
                let head = to.encode_hole(flags, piece.from, length);
                frames.push(Frame { head, data: 0..0 });
                continue;
            }
            let end = filled.saturating_add(usize_from_u64(piece.length()));
            if let Some(part) = buffer.as_mut().and_then(|b| b.get_mut(filled..end)) {
                disk.read_at(piece.from, part)?;
            }
            let head = to.encode_data(flags, piece.from, length);
            frames.push(Frame {
                head,
                data: filled..end,
            });
            filled = end;
        }
        if frames.is_empty() {
            frames.push(Frame {
                head: last_chunk(to),
                data: 0..0,
            });
        }
        Ok(Outcome::Frames(frames, buffer))
    }

    /// Reads the range, so that the system caches it.
    fn cache(&self, mut span: Span) -> Result<Outcome> {
        let disk = self.content.bytes();
        let mut buffer = self
            .pool
            .take(usize_from_u64(span.length().min(CACHE_BYTES)));
        while span.length() > 0 {
            let extent = disk.extent_at(span.from, span.length())?;
            let step = if extent.kind.reads_zero() {
                extent.length_bytes
            } else {
                let step = extent.length_bytes.min(CACHE_BYTES);
                if let Some(part) = buffer.get_mut(..usize_from_u64(step)) {
                    disk.read_at(span.from, part)?;
                }
                step
            };
            span.from = span.from.saturating_add(step.max(1));
        }
        Ok(Outcome::Done)
    }

    /// Replies with one chunk for each context.
    fn status(&self, request: &Request, span: Span) -> Result<Outcome> {
        let Some(last) = self.contexts.last() else {
            return Err(Error::invalid("no meta context was agreed on"));
        };
        let to = recipient(request, self.mode);
        let mut frames = Vec::with_capacity(self.contexts.len());
        for context in &self.contexts {
            let found = self.stretches(context, request, span)?;
            let flags = if context.id == last.id {
                ChunkFlags::DONE
            } else {
                ChunkFlags::empty()
            };
            let head = to.encode_status(flags, context.id, &found);
            frames.push(Frame { head, data: 0..0 });
        }
        Ok(Outcome::Frames(frames, None))
    }

    /// The status of a span in a context: as much as one reply holds, at least one extent.
    fn stretches(
        &self,
        context: &Context,
        request: &Request,
        span: Span,
    ) -> Result<Vec<(u64, u32)>> {
        let most = if request.flags.contains(CommandFlags::REQ_ONE) {
            1
        } else {
            EXTENTS_MAX
        };
        let begun = Instant::now();
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut from = span.from;
        while from < span.end {
            // The steps bound the time for a long extent.
            let length_max = span.end.saturating_sub(from).min(STATUS_STEP_BYTES);
            let extent = context.extent_at(self.content.bytes(), from, length_max)?;
            let (length, flags) = (extent.length_bytes, extent.flags);
            let is_full = found.len() >= most;
            match found.last_mut() {
                Some(last) if last.1 == flags => last.0 = last.0.saturating_add(length),
                _ if is_full => break,
                _ => found.push((length, flags)),
            }
            from = from.saturating_add(extent.length_bytes);
            if begun.elapsed() > STATUS_TIME_MAX {
                break;
            }
        }
        Ok(found)
    }
}
