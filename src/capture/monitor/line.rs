//! Lines of a control socket, received within a time limit and of bounded length.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::socket;

/// LIMIT: bytes of a line. The schema of QEMU 10.0 has about 300 KiB.
const LINE_BYTES_MAX: usize = 16 << 20;

/// LIMIT: time for which a listener is waited for that takes no connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// LIMIT: time for sending a line.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected control socket.
pub(super) struct Lines {
    pub(super) stream: UnixStream,
    pub(super) path: PathBuf,
    unread: Vec<u8>,
    /// Bytes of `unread` that are known to have no end of a line.
    searched: usize,
}

impl Lines {
    /// Connects.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Io`; `TimedOut` for a listener that takes no connection.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let stream = socket::connect(path, CONNECT_TIMEOUT).map_err(|e| match e.kind() {
            // Others wait there already.
            IoKind::WouldBlock => Error::new(ErrorKind::TimedOut, "nobody is served there"),
            _ => Error::io("cannot connect to the socket", e),
        });
        let stream = stream.at_path(path)?;
        stream
            .set_write_timeout(Some(SEND_TIMEOUT))
            .or_io("cannot limit a wait")?;
        Ok(Self {
            stream,
            path: path.to_owned(),
            unread: Vec::new(),
            searched: 0,
        })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// `Disconnected`, `TimedOut`.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|e| match e.kind() {
            IoKind::WouldBlock | IoKind::TimedOut => {
                self.broken(ErrorKind::TimedOut, "it takes no request")
            }
            _ => self.broken(ErrorKind::Disconnected, "the connection has ended"),
        })
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; `Disconnected` at the end of the connection, and for a line that is too long.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Vec<u8>> {
        loop {
            let fresh = self.unread.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.unread, rest);
                self.searched = 0;
                line.pop();
                return Ok(line);
            }
            self.searched = self.unread.len();
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(self.broken(ErrorKind::Disconnected, "it sends a line without an end"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.broken(ErrorKind::TimedOut, "it does not answer"));
            }
            self.stream
                .set_read_timeout(Some(left))
                .or_io("cannot limit a wait")?;
            let mut buf = [0; 16 << 10];
            match self.stream.read(&mut buf) {
                Ok(0) => {
                    return Err(
                        self.broken(ErrorKind::Disconnected, "it has closed the connection")
                    );
                }
                Ok(length) => self
                    .unread
                    .extend_from_slice(buf.get(..length).unwrap_or_default()),
                Err(e) if matches!(e.kind(), IoKind::WouldBlock | IoKind::TimedOut) => {}
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(_) => {
                    return Err(self.broken(ErrorKind::Disconnected, "the connection has ended"));
                }
            }
        }
    }

    /// An error of this connection.
    pub(super) fn broken(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, what.to_owned()).at_path(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::Lines;
    use crate::error::ErrorKind;

    #[test]
    fn lines_come_whole_in_order_and_in_time() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut lines = Lines {
            stream: ours,
            path: "/s".into(),
            unread: Vec::new(),
            searched: 0,
        };
        let soon = || Instant::now() + Duration::from_millis(50);
        theirs.write_all(b"one\r\ntwo\nthr").unwrap();
        assert_eq!(lines.receive(soon()).unwrap(), b"one\r");
        assert_eq!(lines.receive(soon()).unwrap(), b"two");
        let late = lines.receive(soon()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        theirs.write_all(b"ee\n").unwrap();
        assert_eq!(lines.receive(soon()).unwrap(), b"three");
        drop(theirs);
        let gone = lines.receive(soon()).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Disconnected);
    }
}
