//! A slot: a socket and a part of the shared memory, for one question and answer at a time.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::message::{MESSAGE_BYTES, Message};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::shared_memory::SharedMemory;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes of a question, a block or an answer.
pub(super) const DATA_BYTES: usize = 1 << 20;

/// One side of a slot for one question and its answer. Both processes have one for each slot.
pub(super) struct Slot {
    socket: UnixStream,
    memory: Arc<SharedMemory>,
    base: usize,
}

fn gone(what: &'static str) -> Error {
    Error::new(ErrorKind::Disconnected, what)
}

impl Slot {
    /// The slot at position `index` of the shared memory.
    pub(super) const fn new(socket: UnixStream, memory: Arc<SharedMemory>, index: usize) -> Self {
        Self {
            socket,
            memory,
            base: index * DATA_BYTES,
        }
    }

    /// Sets how long [`Slot::receive`] waits before it returns `None`.
    pub(super) fn set_patience(&self, time: Duration) -> Result<()> {
        self.socket
            .set_read_timeout(Some(time))
            .or_io("cannot set a time limit")
    }

    /// Sends a message.
    pub(super) fn send(&self, message: Message) -> Result<()> {
        (&self.socket)
            .write_all(&message.encode())
            .map_err(|e| gone("the other side is gone").caused_by(e))
    }

    /// Receives a message; `None` when none comes in time.
    pub(super) fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = [0; MESSAGE_BYTES];
        match (&self.socket).read(&mut bytes) {
            Ok(MESSAGE_BYTES) => Message::parse(&bytes).map(Some),
            Ok(0) => Err(gone("the other side is gone")),
            // A socket transfers 24 bytes at once or not at all, unless the sender writes pieces on purpose.
            Ok(_) => Err(gone("a piece of a message")),
            Err(e) if matches!(e.kind(), IoKind::WouldBlock | IoKind::TimedOut) => Ok(None),
            Err(e) if e.kind() == IoKind::Interrupted => self.receive(),
            Err(e) => Err(gone("the other side is gone").caused_by(e)),
        }
    }

    /// Copies bytes into the shared memory, for the message that follows.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<u64> {
        if bytes.len() > DATA_BYTES {
            let what = format!(
                "a message has {} bytes, at most {DATA_BYTES} are possible",
                bytes.len()
            );
            return Err(Error::new(ErrorKind::LimitExceeded, what));
        }
        self.memory.write(self.base, bytes)?;
        Ok(u64_from_usize(bytes.len()))
    }

    /// Copies the bytes that a message announced.
    pub(super) fn take(&self, length: u64) -> Result<Vec<u8>> {
        if length > u64_from_usize(DATA_BYTES) {
            return Err(gone("a message that is too long"));
        }
        let mut bytes = vec![0; usize_from_u64(length)];
        self.memory.read(self.base, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies bytes out, without an allocation.
    pub(super) fn take_into(&self, buf: &mut [u8]) -> Result<()> {
        if buf.len() > DATA_BYTES {
            return Err(Error::invalid("more than a slot holds"));
        }
        self.memory.read(self.base, buf)
    }
}
