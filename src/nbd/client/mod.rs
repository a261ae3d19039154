//! An NBD client without tokio: an export of any server as a disk.
//!
//! # Invariants
//! - The client verifies everything from the server: each length, cookie, offset and count is compared with
//!   the request. A mismatch ends the connection with `Disconnected`.
//! - A read returns bytes that the server sent for exactly this range, each of them once, or fails.
//!
//! # Concurrency
//! Any number of threads. Requests use up to `LINKS_MAX` connections where the server states that they share
//! one cache (CAN_MULTI_CONN), else one; each connection has many requests in flight. One `read_at` of many
//! MiB is several concurrent requests.

mod bitmap;
mod disk;
mod handshake;
mod link;
mod pending;
mod socket;
mod stream;
mod tls;
mod window;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

pub use handshake::NO_EXPORT;
use handshake::{Facts, Secret};
use link::{Link, Ticket};
use pending::{Answer, Extents, Want};
use stream::Stream;
use window::Window;

use crate::block::{BufferPool, check_range};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::nbd::proto::Mode;
use crate::nbd::proto::command::Command;
use crate::nbd::proto::field::violation;
use crate::nbd::proto::flag::{CommandFlags, TransmissionFlags};
use crate::nbd::proto::option::{BlockSize, ExportInfo};
use crate::nbd::proto::uri::Uri;
use crate::tls::{ClientTls, default_directory};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: connections to one export.
const LINKS_MAX: usize = 4;

/// LIMIT: bytes of one READ or WRITE; fewer where the server requires it.
const PIECE_BYTES: u64 = 2 << 20;

/// LIMIT: requests that one call keeps in flight.
const DEPTH: usize = 4;

/// LIMIT: bytes of free buffers for replies: the amount that one link has in flight.
const FREE_BYTES_MAX: usize = 16 << 20;

/// LIMIT: bytes that one BLOCK_STATUS, TRIM or WRITE_ZEROES covers.
const STRETCH_BYTES: u64 = 1 << 30;

/// LIMIT: bytes that one BLOCK_STATUS covers where lengths have 64 bits.
const LONG_STRETCH_BYTES: u64 = 1 << 40;

/// An export of a server. Dropping it without [`Client::disconnect`] closes the connections without a
/// goodbye.
pub struct Client {
    uri: Uri,
    tls: Option<Secret>,
    /// The context of a dirty bitmap that is negotiated, too.
    bitmap: Option<String>,
    facts: Facts,
    links: Mutex<Vec<Arc<Link>>>,
    /// Held while another connection is made.
    opening: Mutex<()>,
    window: Mutex<Window>,
    /// The known part of the dirty bitmap.
    changed: Mutex<bitmap::Known>,
    buffers: Arc<BufferPool>,
    /// Counts writes, so that no window is used after a later write.
    generation: AtomicU64,
    /// Set when the server failed to report allocation: the client does not ask again.
    is_blind: AtomicBool,
    /// Held during a read-modify-write of blocks.
    merging: Mutex<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("uri", &self.uri.shown())
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// A request in flight, with its link.
struct Flight {
    link: Arc<Link>,
    ticket: Ticket,
}

impl Flight {
    fn wait(&self) -> Result<Answer> {
        self.link.wait(&self.ticket)
    }

    fn done(&self) -> Result<()> {
        self.wait().map(|_| ())
    }
}

/// The exports that the server at `uri` lists; the export in `uri` is ignored.
///
/// # Errors
/// `NotFound`, `Disconnected`, `TimedOut`; `Unsupported` when the server does not list them.
pub fn list(uri: &Uri) -> Result<Vec<ExportInfo>> {
    let tls = secret(uri)?;
    let stream = Stream::connect(uri.address())?;
    handshake::list(&stream, tls.as_ref()).at_path(uri.address().place())
}

/// The TLS settings of the URI.
fn secret(uri: &Uri) -> Result<Option<Secret>> {
    let Some(wanted) = uri.tls() else {
        return Ok(None);
    };
    let directory = match &wanted.certificates {
        Some(directory) => directory.clone(),
        None => default_directory(),
    };
    if !wanted.is_verified {
        tracing::warn!(uri = %uri.shown(), "the NBD server's certificate is not verified (tls-verify-peer=0)");
    }
    let tls = ClientTls::load(&directory, wanted.is_verified)?;
    Ok(Some((tls, uri.tls_host())))
}

fn open(uri: &Uri, bitmap: Option<&str>, tls: Option<&Secret>) -> Result<(Stream, Facts)> {
    let stream = Stream::connect(uri.address())?;
    let facts = handshake::negotiate(&stream, (uri.export(), bitmap), tls)?;
    Ok((stream, facts))
}

impl Client {
    /// Connects and opens the export.
    ///
    /// # Errors
    /// `NotFound` (socket, host, export), `PermissionDenied`, `Disconnected` (also when the peer is not an
    /// NBD server, or TLS failed), `TimedOut`, `Unsupported` (oldstyle, no TLS); `InvalidInput` for unusable
    /// certificates.
    pub fn connect(uri: &Uri) -> Result<Self> {
        Self::connect_in(uri, None)
    }

    /// Connects, and negotiates the context of a dirty bitmap, too.
    fn connect_in(uri: &Uri, bitmap: Option<String>) -> Result<Self> {
        let tls = secret(uri)?;
        let opened = open(uri, bitmap.as_deref(), tls.as_ref());
        let (stream, facts) = opened.at_path(uri.shown())?;
        let link = Arc::new(Link::new(stream, &facts)?);
        Ok(Self {
            uri: uri.clone(),
            tls,
            bitmap,
            changed: Mutex::default(),
            facts,
            links: Mutex::new(vec![link]),
            opening: Mutex::new(()),
            window: Mutex::default(),
            buffers: BufferPool::new(FREE_BYTES_MAX),
            generation: AtomicU64::new(0),
            is_blind: AtomicBool::new(facts.context.is_none()),
            merging: Mutex::new(()),
        })
    }

    /// Flags of the export.
    #[must_use]
    pub const fn flags(&self) -> TransmissionFlags {
        self.facts.flags
    }

    /// Framing of requests and replies.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.facts.mode
    }

    /// Request sizes that the server accepts.
    #[must_use]
    pub const fn block_size(&self) -> BlockSize {
        self.facts.sizes
    }

    /// Whether the export refuses writes.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.facts.flags.contains(TransmissionFlags::READ_ONLY)
    }

    /// Whether the server distinguishes data from holes.
    #[must_use]
    pub fn knows_extents(&self) -> bool {
        !self.is_blind.load(Ordering::Relaxed)
    }

    /// Whether a connection was lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.links().iter().any(|link| link.death().is_some())
    }

    /// Says goodbye (NBD_CMD_DISC) on each connection, and returns when the server has received it. For a
    /// session this means that the disk is complete.
    ///
    /// # Errors
    /// `Disconnected`, `TimedOut`; also when a connection had failed before.
    pub fn disconnect(self) -> Result<()> {
        let links = std::mem::take(&mut *self.links());
        let mut result = Ok(());
        for link in links {
            result = result.and(link.disconnect());
        }
        result.at_path(self.uri.shown())
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock()
    }

    /// The connection with the fewest requests; makes another one when all are busy.
    fn link(&self) -> Result<Arc<Link>> {
        let (best, alone) = {
            let links = self.links();
            let best = links
                .iter()
                .filter_map(|link| Some((link.load()?, link)))
                .min_by_key(|(load, _)| *load)
                .map(|(load, link)| (load, Arc::clone(link)));
            let alone = links.len() >= LINKS_MAX;
            match best {
                Some(best) => (best, alone),
                None => {
                    let death = links.iter().find_map(|link| link.death());
                    return Err(death
                        .unwrap_or_else(|| {
                            Error::new(ErrorKind::Disconnected, "there is no connection left")
                        })
                        .at_path(self.uri.shown()));
                }
            }
        };
        let multi = self.facts.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        if best.0 == 0 || alone || !multi {
            return Ok(best.1);
        }
        let Some(_turn) = self.opening.try_lock() else {
            return Ok(best.1);
        };
        // Without another connection the existing ones suffice.
        match open(&self.uri, self.bitmap.as_deref(), self.tls.as_ref()) {
            Ok((stream, facts)) if facts == self.facts => {
                let link = Arc::new(Link::new(stream, &facts)?);
                self.links().push(Arc::clone(&link));
                Ok(link)
            }
            _ => Ok(best.1),
        }
    }

    fn send(
        &self,
        command: Command,
        offset: u64,
        length_bytes: u64,
        payload: &[u8],
        want: Want,
    ) -> Result<Flight> {
        let link = self.link()?;
        let ticket = link.send(
            command,
            CommandFlags::empty(),
            offset,
            length_bytes,
            payload,
            want,
        )?;
        Ok(Flight { link, ticket })
    }

    fn block_bytes(&self) -> u64 {
        u64::from(self.facts.sizes.minimum)
    }

    fn piece_bytes(&self) -> u64 {
        let most = PIECE_BYTES.min(u64::from(self.facts.sizes.maximum));
        (most - most % self.block_bytes()).max(self.block_bytes())
    }

    /// Rounds up to whole blocks, but not beyond the end of the export.
    fn round_up(&self, offset: u64) -> u64 {
        offset
            .next_multiple_of(self.block_bytes())
            .min(self.facts.size_bytes)
    }

    fn round_down(&self, offset: u64) -> u64 {
        offset - offset % self.block_bytes()
    }

    fn read_pieces(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset + u64_from_usize(buf.len());
        let mut next = self.round_down(offset);
        let mut flights: VecDeque<(u64, Flight)> = VecDeque::with_capacity(DEPTH);
        loop {
            while next < end && flights.len() < DEPTH {
                let stop = self.round_up((next + self.piece_bytes()).min(end));
                let want = Want::Bytes {
                    offset: next,
                    buffer: self.buffers.take(usize_from_u64(stop - next)),
                    filled: Vec::new(),
                };
                let flight = self.send(Command::Read, next, stop - next, &[], want)?;
                flights.push_back((next, flight));
                next = stop;
            }
            let Some((at, flight)) = flights.pop_front() else {
                return Ok(());
            };
            let Answer::Bytes(bytes) = flight.wait().at_offset(at)? else {
                return Err(violation("a read was answered without bytes"));
            };
            let (from, stop) = (at.max(offset), (at + u64_from_usize(bytes.len())).min(end));
            let source = bytes.get(usize_from_u64(from - at)..usize_from_u64(stop - at));
            let target = buf.get_mut(usize_from_u64(from - offset)..usize_from_u64(stop - offset));
            if let (Some(source), Some(target)) = (source, target) {
                target.copy_from_slice(source);
            }
        }
    }

    fn check_write(&self, offset: u64, length_bytes: u64) -> Result<()> {
        if self.is_read_only() {
            return Err(
                Error::new(ErrorKind::ReadOnly, "the export cannot be written")
                    .at_path(self.uri.shown()),
            );
        }
        check_range(self.facts.size_bytes, offset, length_bytes)
    }

    /// Splits a range into a head within a block, whole blocks, and a tail within a block.
    fn split(&self, offset: u64, end: u64) -> (u64, u64) {
        let whole = self.round_up(offset).min(end);
        let stop = if end == self.facts.size_bytes {
            end
        } else {
            self.round_down(end).max(whole)
        };
        (whole, stop)
    }

    /// Changes bytes that cover no whole block: reads the blocks, changes them and writes them back.
    fn merge(&self, offset: u64, end: u64, change: impl FnOnce(&mut [u8])) -> Result<()> {
        if offset >= end {
            return Ok(());
        }
        let _turn = self.merging.lock();
        let (from, stop) = (self.round_down(offset), self.round_up(end));
        let mut blocks = vec![0; usize_from_u64(stop - from)];
        self.read_pieces(from, &mut blocks)?;
        if let Some(part) =
            blocks.get_mut(usize_from_u64(offset - from)..usize_from_u64(end - from))
        {
            change(part);
        }
        self.write_pieces(from, &blocks)
    }

    fn write_pieces(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut flights: VecDeque<Flight> = VecDeque::with_capacity(DEPTH);
        let mut at = offset;
        for piece in bytes.chunks(usize_from_u64(self.piece_bytes())) {
            if flights.len() >= DEPTH
                && let Some(flight) = flights.pop_front()
            {
                flight.done()?;
            }
            let length = u64_from_usize(piece.len());
            flights.push_back(self.send(Command::Write, at, length, piece, Want::Nothing)?);
            at += length;
        }
        flights.iter().try_for_each(Flight::done)
    }

    /// Sends one command over whole blocks, in stretches.
    fn stretch(&self, command: Command, offset: u64, end: u64) -> Result<()> {
        let mut at = offset;
        while at < end {
            let stop = self.round_up((at + STRETCH_BYTES).min(end));
            self.send(command, at, stop - at, &[], Want::Nothing)?
                .done()
                .at_offset(at)?;
            at = stop;
        }
        Ok(())
    }

    fn zero_blocks(&self, offset: u64, end: u64) -> Result<()> {
        if self
            .facts
            .flags
            .contains(TransmissionFlags::SEND_WRITE_ZEROES)
        {
            match self.stretch(Command::WriteZeroes, offset, end) {
                Err(e) if e.kind() == ErrorKind::Unsupported => {}
                done => return done,
            }
        }
        let zeroes = vec![0; usize_from_u64(self.piece_bytes().min(end - offset))];
        let mut at = offset;
        while at < end {
            let length = (end - at).min(u64_from_usize(zeroes.len()));
            self.write_pieces(at, zeroes.get(..usize_from_u64(length)).unwrap_or(&zeroes))?;
            at += length;
        }
        Ok(())
    }

    /// Drops known extents, before and after a change.
    fn changing<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let forget = || {
            self.generation.fetch_add(1, Ordering::SeqCst);
            *self.window.lock() = Window::default();
        };
        forget();
        let result = change();
        forget();
        result.at_path(self.uri.shown())
    }

    fn load_window(&self, offset: u64) -> Result<Window> {
        let contexts = (self.facts.context.unwrap_or_default(), self.facts.bitmap);
        let (from, extents) = self.load_extents(offset, contexts)?;
        Ok(Window::new(from, &extents, self.facts.size_bytes))
    }

    /// Extents of a metadata context, and where the first one begins: at the start of the block of `offset`. `other` is the other context
    /// that was negotiated.
    fn load_extents(
        &self,
        offset: u64,
        (context, other): (u32, Option<u32>),
    ) -> Result<(u64, Extents)> {
        let from = self.round_down(offset);
        let stretch = match self.facts.mode {
            Mode::Extended => LONG_STRETCH_BYTES,
            Mode::Simple | Mode::Structured => STRETCH_BYTES,
        };
        let end = self.round_up((from + stretch).min(self.facts.size_bytes));
        let want = Want::Extents {
            context,
            other,
            found: None,
        };
        let flight = self.send(Command::BlockStatus, from, end - from, &[], want)?;
        match flight.wait().at_offset(offset)? {
            Answer::Extents(extents) => Ok((from, extents)),
            Answer::Done | Answer::Bytes(_) => {
                Err(violation("the server answered without extents"))
            }
        }
    }
}
