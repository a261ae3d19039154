//! A slot with both sides in one process, one of them played by a test: to test how either side handles any
//! message of the other.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::message::MESSAGE_BYTES;
use super::slot::{DATA_BYTES, Slot};
use crate::error::{Result, ResultExt};
use crate::sys::shared_memory::SharedMemory;

/// A slot, as it is used between a daemon and a reader's process.
pub struct Line(pub(super) Slot);

/// The other side of a [`Line`], which may send anything.
pub struct Played {
    socket: UnixStream,
    memory: Arc<SharedMemory>,
}

/// A slot and its other side.
///
/// # Errors
/// `Io`.
pub fn line() -> Result<(Line, Played)> {
    let memory = Arc::new(SharedMemory::create("restorefs-line", DATA_BYTES)?);
    let (here, there) = UnixStream::pair().or_io("cannot make a socket")?;
    let slot = Slot::new(here, Arc::clone(&memory), 0);
    let played = Played {
        socket: there,
        memory,
    };
    Ok((Line(slot), played))
}

impl Played {
    /// The next message as bytes; `None` when the other side is gone.
    #[must_use]
    pub fn receive(&self) -> Option<[u8; MESSAGE_BYTES]> {
        let mut message = [0; MESSAGE_BYTES];
        (&self.socket).read_exact(&mut message).ok()?;
        Some(message)
    }

    /// Sends bytes, which need not be a valid message.
    ///
    /// # Errors
    /// `Disconnected`, `Io`.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        (&self.socket).write_all(bytes).or_io("the line is gone")
    }

    /// Writes bytes into the shared memory.
    ///
    /// # Errors
    /// `InvalidInput` when they exceed the shared memory.
    pub fn put(&self, bytes: &[u8]) -> Result<()> {
        self.memory.write(0, bytes)
    }

    /// Reads bytes from the shared memory.
    ///
    /// # Errors
    /// `InvalidInput` when they exceed the shared memory.
    pub fn take(&self, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(0, bytes)
    }
}
