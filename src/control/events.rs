//! The client side of following: the events of a daemon.

use std::io::{BufRead, BufReader, ErrorKind as IoErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ANSWER_BYTES_MAX, parse_answer};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::service::Event;

/// How long one wait for an event takes at most.
const WAIT: Duration = Duration::from_millis(200);

/// The events of a daemon, until the connection ends.
pub struct Events {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    /// The beginning of a line whose end has not arrived.
    received: Vec<u8>,
}

impl Events {
    /// The events that the daemon sends on a connection which has asked for them.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn new(stream: BufReader<UnixStream>, path: PathBuf) -> Result<Self> {
        let timed = stream.get_ref().set_read_timeout(Some(WAIT));
        timed.or_io("cannot limit a wait").at_path(&path)?;
        Ok(Self {
            stream,
            path,
            received: Vec::new(),
        })
    }

    /// Waits a moment for the next event; `None` when there was none.
    ///
    /// # Errors
    /// `Disconnected` when the daemon has gone away; `Io`.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut limited = (&mut self.stream).take(ANSWER_BYTES_MAX);
        match limited.read_until(b'\n', &mut self.received) {
            Err(e) if matches!(e.kind(), IoErrorKind::WouldBlock | IoErrorKind::Interrupted) => {
                return Ok(None);
            }
            other => other.or_io("cannot read events").at_path(&self.path)?,
        };
        if !self.received.ends_with(b"\n") {
            return Err(gone(&self.path));
        }
        let line = std::mem::take(&mut self.received);
        parse_answer(&line).map(Some)
    }
}

/// The error for a daemon that has closed the connection.
pub(super) fn gone(path: &Path) -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the daemon closed its control socket before it answered",
    )
    .at_path(path)
    .advise("see its log (journalctl -u restorefs); what was committed is kept")
}
