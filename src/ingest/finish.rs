//! Finishing a disk of a session: what doors and callers report of it, which its [`super::completion::Completion`] judges.

use super::completion::{Door, WriteGuard};
use super::disk::DiskWriter;
use crate::error::{Error, ErrorKind, Result};

impl DiskWriter {
    /// Whether it may be committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.completion.is_finished()
    }

    /// Declares it finished, or not; whatever could not be written before does not matter any more.
    pub fn set_finished(&self, finished: bool) {
        self.completion.declare(finished);
    }

    /// Makes what was written through the tree durable, and that it is all: whoever writes a file and syncs it has come to an end, for
    /// all that can be known after a crash.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn sync_file(&self) -> Result<()> {
        self.completion.state_if_finished();
        self.flush()
            .inspect_err(|_| self.completion.state_unfinished())
    }

    /// What became of bytes that were handed in as into a file: taken, the disk is finished; not taken, it is not until they were handed in
    /// again, cut off, or it is declared so.
    ///
    /// # Errors
    /// The one that is handed in.
    pub fn note_handed_in(&self, offset: u64, length_bytes: u64, result: Result<()>) -> Result<()> {
        let end = offset.saturating_add(length_bytes);
        self.completion.note_handed_in(offset..end, &result);
        result
    }

    /// The file ends there now: nothing is missed behind it.
    pub fn note_cut(&self, size_bytes: u64) {
        self.completion.note_cut(size_bytes);
    }

    /// Refuses a disk that misses something.
    pub(super) fn check_missing(&self) -> Result<()> {
        let Some((from, end, kind)) = self.completion.first_missing() else {
            return Ok(());
        };
        let name = &self.meta.name;
        Err(Error::new(
            kind,
            format!("bytes {from} to {end} of disk {name} could not be written, and were not written again"),
        )
        .advise(format!(
            "write them again; if the disk is as it should be, say so: touch {name}.raw"
        )))
    }

    /// Takes the disk for a door, for as long as the session is open in this process.
    ///
    /// # Errors
    /// `Busy` when it belongs to another one.
    pub fn claim(&self, door: Door) -> Result<()> {
        self.completion.claim(door).map_err(|other| {
            Error::new(
                ErrorKind::Busy,
                format!(
                    "disk {} is being written by another door ({})",
                    self.meta.name,
                    other.name()
                ),
            )
            .advise("go on with that one, or abort the session")
        })
    }

    /// The door that it belongs to, once one has written it.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        self.completion.door()
    }

    /// Begins a write as into a file: takes back, durably, that the disk was finished, and until what is returned is dropped nobody says
    /// so for the time after a crash.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn begin_write(&self) -> Result<WriteGuard<'_>> {
        let writing = self.completion.enter();
        self.take_back_finished()?;
        Ok(writing)
    }

    /// Takes back, durably, that it was declared finished: somebody writes it again, and what he overwrites in place needs no record.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub(super) fn take_back_finished(&self) -> Result<()> {
        if self.completion.take_back() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Connections that are writing now.
    #[must_use]
    pub fn writers(&self) -> u64 {
        self.completion.writers()
    }
}
