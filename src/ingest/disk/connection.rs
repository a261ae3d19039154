//! A door's connection to a disk of a session. How the connection ends decides whether the disk is
//! finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::DiskWriter;
use crate::error::Result;
use crate::ingest::completion::Door;

/// A door's connection to one disk of a session. It counts as died if it is dropped without
/// [`Connection::finish`].
pub struct Connection {
    disk: Arc<DiskWriter>,
    number: u64,
    wrote: AtomicBool,
    clean: AtomicBool,
}

impl Connection {
    pub(in crate::ingest) fn new(disk: &Arc<DiskWriter>) -> Self {
        Self {
            number: disk.completion.open(),
            disk: Arc::clone(disk),
            wrote: false.into(),
            clean: false.into(),
        }
    }

    /// Records that the connection writes or flushes: from now on its end counts. Does not block.
    /// Returns whether the disk must be flushed before the write, because its log records that the
    /// disk is finished.
    ///
    /// # Errors
    /// `Busy` when the disk is written through the tree.
    pub fn begin_write(&self) -> Result<bool> {
        if !self.wrote.load(Ordering::SeqCst) {
            self.disk.claim(Door::Nbd)?;
            if !self.wrote.swap(true, Ordering::SeqCst) {
                self.disk.completion.begin_writing();
            }
        }
        // From here on only a client's declaration makes the disk finished.
        Ok(self.disk.completion.take_back())
    }

    /// Ends the connection after the peer's `NBD_CMD_DISC`. If that finishes the disk, makes the
    /// disk and the statement that it is finished durable. Blocks.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn finish(self) -> Result<()> {
        self.clean.store(true, Ordering::SeqCst);
        let (disk, wrote) = (Arc::clone(&self.disk), self.wrote.load(Ordering::SeqCst));
        drop(self);
        if wrote && disk.is_finished() {
            disk.sync_file()
        } else {
            Ok(())
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let wrote = self.wrote.load(Ordering::SeqCst);
        self.disk
            .completion
            .close(self.number, wrote, self.clean.load(Ordering::SeqCst));
    }
}
