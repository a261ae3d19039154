//! Copies a source to an export of a session on several threads; holes are written as zeroes.
//!
//! # Invariants
//! - The copy goes on in laps, each of which ends with a FLUSH. After a lost connection the lap is copied again, because what an earlier
//!   FLUSH has not covered may be lost with the server.

use crate::block::piece::{CopySource, Piece, Pieces};
use crate::block::{ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::client::{Client, NO_EXPORT};
use crate::nbd::proto::uri::Uri;
use crate::task::{self, Monitor, Patience};
use crate::types::width::usize_from_u64;

/// LIMIT: threads, and so requests in flight.
const THREADS: usize = 4;

/// LIMIT: bytes with data of a lap.
const LAP_BYTES: u64 = 256 << 20;

/// LIMIT: pieces of a lap.
const LAP_PIECES: usize = 16_384;

/// LIMIT: lost connections of one lap: a server that ends at each would be asked for ever.
const LOSSES_MAX: u32 = 5;

/// A disk of a session, at an NBD server.
pub struct Export {
    uri: Uri,
    client: Client,
}

impl Export {
    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(uri: Uri) -> Result<Self> {
        let client = Client::connect(&uri)?;
        Ok(Self { uri, client })
    }

    /// Copies a source, and declares the disk finished (NBD_CMD_DISC). Without changes all earlier content of the disk is replaced.
    ///
    /// # Errors
    /// Errors of source and export; `Cancelled` when the monitor asks to stop.
    pub fn fill(mut self, source: CopySource<'_>, monitor: &Monitor) -> Result<()> {
        check_range(self.client.size_bytes(), 0, source.disk.size_bytes())?;
        let mut pieces = Pieces::of(source);
        let mut is_untouched = true;
        loop {
            let lap = next_lap(&mut pieces, monitor)?;
            if lap.is_empty() {
                break;
            }
            is_untouched = false;
            self.insist(monitor, |client| {
                copy_lap(source.disk, client, &lap, monitor)?;
                client.flush()
            })?;
            for piece in &lap {
                monitor.advance(piece.length_bytes());
            }
        }
        if is_untouched {
            // The goodbye of a connection that has neither written nor flushed finishes nothing.
            self.insist(monitor, Client::flush)?;
        }
        match self.client.disconnect() {
            // The goodbye is what finishes the disk.
            Err(e) if e.kind() == ErrorKind::Disconnected => {
                let again = reconnect(&self.uri, e, monitor)?;
                again.flush()?;
                again.disconnect()
            }
            done => done,
        }
    }

    /// Does something over the connection; after a lost one again over another.
    ///
    /// # Errors
    /// Those of the step; `Disconnected`; `Cancelled`.
    pub fn insist<T>(
        &mut self,
        monitor: &Monitor,
        mut step: impl FnMut(&Client) -> Result<T>,
    ) -> Result<T> {
        let mut losses = 0;
        loop {
            match step(&self.client) {
                Err(e) if is_lost(&self.client, &e) && losses < LOSSES_MAX => {
                    losses += 1;
                    self.client = reconnect(&self.uri, e, monitor)?;
                }
                done => return done,
            }
        }
    }
}

/// Whether it is this connection that was lost, and not one of the source.
fn is_lost(client: &Client, error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::TimedOut) && client.is_lost()
}

fn reconnect(uri: &Uri, mut lost: Error, monitor: &Monitor) -> Result<Client> {
    let mut patience = Patience::new(monitor);
    loop {
        patience.wait(lost)?;
        match Client::connect(uri) {
            Ok(client) => return Ok(client),
            // A server that has begun again has all exports of its sessions: the session has ended.
            Err(e) if e.what().contains(NO_EXPORT) => return Err(e),
            Err(e) => lost = e,
        }
    }
}

/// The pieces of the next lap; what has not changed is passed over.
fn next_lap(pieces: &mut Pieces<'_>, monitor: &Monitor) -> Result<Vec<Piece>> {
    let (mut lap, mut bytes) = (Vec::new(), 0);
    while bytes < LAP_BYTES && lap.len() < LAP_PIECES {
        match pieces.next_piece()? {
            Some(Piece::Unchanged { length_bytes, .. }) => monitor.advance(length_bytes),
            Some(piece) => {
                if let Piece::Data { length_bytes, .. } = piece {
                    bytes += length_bytes;
                }
                lap.push(piece);
            }
            None => break,
        }
    }
    Ok(lap)
}

fn copy_lap(
    source: &dyn ReadAt,
    target: &dyn WriteAt,
    lap: &[Piece],
    monitor: &Monitor,
) -> Result<()> {
    let mut left = lap.iter();
    task::on_threads(
        THREADS,
        monitor,
        || Ok(left.next()),
        Vec::new,
        |buf, piece| match *piece {
            Piece::Data {
                offset,
                length_bytes,
            } => {
                buf.resize(usize_from_u64(length_bytes), 0);
                source.read_at(offset, buf)?;
                target.write_at(offset, buf)
            }
            Piece::Zero {
                offset,
                length_bytes,
            } => target.punch(offset, length_bytes),
            Piece::Unchanged { .. } => Ok(()),
        },
    )
}
