//! Lines that come in on the control socket, with descriptors.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::LINE_BYTES_MAX;
use crate::sys::pass;

/// Bytes that are received at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// LIMIT: descriptors that came and were not used.
const WAITING_MAX: usize = 4;

/// What has been received of a connection and not been used.
pub(super) struct Lines {
    received: Vec<u8>,
    /// Up to here there is no end of a line.
    searched: usize,
    descriptors: Vec<OwnedFd>,
    takes_descriptors: bool,
}

impl Lines {
    /// Lines of one who may send descriptors, or may not: then they are left to the kernel.
    ///
    /// Closing a descriptor can wait for the other end of a filesystem, for as long as its owner likes, and no signal ends that.
    pub(super) const fn new(takes_descriptors: bool) -> Self {
        Self {
            received: Vec::new(),
            searched: 0,
            descriptors: Vec::new(),
            takes_descriptors,
        }
    }

    /// The next line without its end, and the descriptors that came until then; `None` when the other side has ended.
    ///
    /// # Errors
    /// `InvalidData` for lines that are too long, or too many descriptors; what receiving answers.
    pub(super) async fn next(
        &mut self,
        stream: &UnixStream,
    ) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        loop {
            let rest = self.received.get(self.searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.received.drain(..=self.searched + at).collect();
                line.pop();
                self.searched = 0;
                return Ok(Some((line, std::mem::take(&mut self.descriptors))));
            }
            self.searched = self.received.len();
            if self.searched >= LINE_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "the line is too long"));
            }
            let mut chunk = [0; CHUNK_BYTES];
            let (length, descriptors) = self.receive(stream, &mut chunk).await?;
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

    async fn receive(
        &self,
        stream: &UnixStream,
        chunk: &mut [u8],
    ) -> Result<(usize, Vec<OwnedFd>)> {
        loop {
            stream.readable().await?;
            let received = if self.takes_descriptors {
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
