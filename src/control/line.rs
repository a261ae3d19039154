//! Receives lines and descriptors on the control socket.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::REQUEST_BYTES_MAX;
use super::limits::ConnectionPermit;
use crate::sys::pass;

/// Bytes of one receive call.
const CHUNK_BYTES: usize = 16 << 10;
/// LIMIT: bytes of a short line; a longer one needs a place, of which there are few.
const SHORT_BYTES: usize = 64 << 10;
/// LIMIT: how long a line may take from its first bytes to its end; also the limit for sending an
/// answer.
const LINE_TIME: Duration = Duration::from_secs(60);
/// LIMIT: descriptors that were received and not used.
const WAITING_MAX: usize = 4;

/// The bytes and descriptors of a connection that were received and not used yet.
pub(super) struct Lines {
    received: Vec<u8>,
    /// The end of the part that is known to contain no line end.
    searched: usize,
    descriptors: Vec<OwnedFd>,
    place: ConnectionPermit,
    line_time: Duration,
    /// The place of a long line: held from its reception until the next line is requested.
    long: Option<OwnedSemaphorePermit>,
}

impl Lines {
    /// Creates the lines of a connection. Descriptors are received only from a peer that may send
    /// them; the kernel drops others.
    ///
    /// # Why
    /// Closing a descriptor can wait for the server of its filesystem, for as long as that server
    /// likes, and no signal ends the wait.
    pub(super) const fn new(place: ConnectionPermit) -> Self {
        Self {
            received: Vec::new(),
            searched: 0,
            descriptors: Vec::new(),
            place,
            line_time: LINE_TIME,
            long: None,
        }
    }

    /// Receives the next line, without its end, and the descriptors that arrived until then; `None`
    /// when the peer has closed the connection.
    ///
    /// # Errors
    /// `InvalidData` for lines that are too long, or too many descriptors; `TimedOut` for a line
    /// whose end does not arrive; what receiving returns.
    pub(super) async fn next(
        &mut self,
        stream: &UnixStream,
    ) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.long = None;
        let mut until = None;
        loop {
            let rest = self.received.get(self.searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.received.drain(..=self.searched + at).collect();
                line.pop();
                self.searched = 0;
                return Ok(Some((line, std::mem::take(&mut self.descriptors))));
            }
            self.searched = self.received.len();
            if self.searched >= REQUEST_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "the line is too long"));
            }
            if until.is_none() && !self.received.is_empty() {
                until = Some(Instant::now() + self.line_time);
            }
            if self.long.is_none() && self.searched >= SHORT_BYTES {
                self.long = in_time(until, self.place.long_line()).await?;
            }
            let mut chunk = [0; CHUNK_BYTES];
            let (length, descriptors) = in_time(until, self.receive(stream, &mut chunk)).await??;
            self.descriptors.extend(descriptors);
            if self.descriptors.len() > WAITING_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "too many descriptors"));
            }
            if length == 0 {
                return Ok(None);
            }
            self.received
                .extend_from_slice(chunk.get(..length).unwrap_or_default());
        }
    }

    /// Receives exactly `length` bytes, which follow a line.
    ///
    /// # Errors
    /// `InvalidData` when descriptors arrive with them; `UnexpectedEof` when the peer closes the
    /// connection first; `TimedOut` when they do not arrive in time; what receiving returns.
    pub(super) async fn bytes(&mut self, stream: &UnixStream, length: usize) -> Result<Vec<u8>> {
        let until = Some(Instant::now() + self.line_time);
        if self.long.is_none() && length >= SHORT_BYTES {
            self.long = in_time(until, self.place.long_line()).await?;
        }
        while self.received.len() < length {
            let mut chunk = [0; CHUNK_BYTES];
            let (count, descriptors) = in_time(until, self.receive(stream, &mut chunk)).await??;
            if !descriptors.is_empty() {
                return Err(Error::new(ErrorKind::InvalidData, "descriptors in a file"));
            }
            if count == 0 {
                return Err(Error::new(
                    ErrorKind::UnexpectedEof,
                    "the file is cut short",
                ));
            }
            let received = chunk.get(..count).unwrap_or_default();
            self.received.extend_from_slice(received);
        }
        let rest = self.received.split_off(length);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// `TimedOut` when the peer does not receive it: until then it blocks the place of a long line;
    /// what sending returns.
    pub(super) async fn answer(&self, stream: &mut UnixStream, answer: &[u8]) -> Result<()> {
        let until = Instant::now() + self.line_time;
        let sent = timeout_at(until, stream.write_all(answer)).await;
        sent.map_err(|_| Error::new(ErrorKind::TimedOut, "an answer is not taken"))?
    }

    async fn receive(
        &self,
        stream: &UnixStream,
        chunk: &mut [u8],
    ) -> Result<(usize, Vec<OwnedFd>)> {
        loop {
            stream.readable().await?;
            let received = if self.place.is_own() {
                stream.try_io(Interest::READABLE, || {
                    pass::try_receive(stream.as_fd(), chunk)
                })
            } else {
                stream.try_read(chunk).map(|length| (length, Vec::new()))
            };
            match received {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

/// Waits for `what` until the deadline. There is no deadline before the first bytes of a line.
async fn in_time<T>(until: Option<Instant>, what: impl Future<Output = T>) -> Result<T> {
    match until {
        None => Ok(what.await),
        Some(until) => timeout_at(until, what).await.map_err(|_| {
            Error::new(
                ErrorKind::TimedOut,
                "a line was begun and has not come to its end",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::Lines;
    use crate::control::limits::ConnectionLimits;

    const MEMBER: u32 = 4_000_000_000;
    const MOMENT: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn nobody_waits_for_a_line_for_ever_and_for_the_next_one_as_long_as_it_takes() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(ConnectionLimits::new().enter(MEMBER).unwrap());
        lines.line_time = MOMENT;
        assert!(timeout(2 * MOMENT, lines.next(&there)).await.is_err());
        here.write_all(b"one\ntw").await.unwrap();
        let (line, _) = lines.next(&there).await.unwrap().unwrap();
        assert_eq!(line, b"one");
        let error = lines.next(&there).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    /// Regression: a client that sent four long lines and received no answers kept all others from
    /// sending any.
    #[tokio::test]
    async fn nobody_takes_the_place_of_a_long_line_for_ever() {
        let limits = ConnectionLimits::new();
        let answer = vec![b'x'; 8 << 20];
        let (_here, mut there) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(limits.enter(MEMBER).unwrap());
        lines.line_time = MOMENT;
        let sent = timeout(5 * MOMENT, lines.answer(&mut there, &answer)).await;
        assert_eq!(sent.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        let (_here, mut there) = UnixStream::pair().unwrap();
        lines.answer(&mut there, b"short\n").await.unwrap();
    }

    #[tokio::test]
    async fn few_long_lines_are_received_at_a_time_and_short_ones_beside_them() {
        let limits = ConnectionLimits::new();
        let mut pairs = Vec::new();
        for _ in 0..5 {
            let (mut here, there) = UnixStream::pair().unwrap();
            let sending = tokio::spawn(async move {
                here.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
                here
            });
            let lines = Lines::new(limits.enter(MEMBER).unwrap());
            pairs.push((sending, there, lines));
        }
        for (_, there, lines) in &mut pairs {
            assert!(timeout(MOMENT, lines.next(there)).await.is_err());
        }
        // Four connections have received everything; the fifth has only what needs no place.
        let received: Vec<usize> = pairs.iter().map(|(_, _, l)| l.received.len()).collect();
        assert_eq!(received[..4], [1 << 20; 4]);
        assert!(received[4] < 100_000, "{received:?}");
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"short\n").await.unwrap();
        let mut short = Lines::new(limits.enter(MEMBER).unwrap());
        assert!(short.next(&there).await.unwrap().is_some());
        // One of the four lines ends; when the connection waits for the next line, its place is
        // free.
        let (sending, there, mut lines) = pairs.remove(0);
        let mut here = sending.await.unwrap();
        here.write_all(b"\n").await.unwrap();
        assert_eq!(lines.next(&there).await.unwrap().unwrap().0.len(), 1 << 20);
        assert!(timeout(MOMENT, lines.next(&there)).await.is_err());
        let (_, there, last) = pairs.last_mut().unwrap();
        assert!(timeout(MOMENT, last.next(there)).await.is_err());
        assert_eq!(last.received.len(), 1 << 20);
    }
}
