//! Finishing a disk of a session: doors and callers report events here, and the disk's
//! [`crate::ingest::completion::Completion`] judges them.

use super::DiskWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::completion::{Door, WriteGuard};

impl DiskWriter {
    /// Whether the disk may be committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.completion.is_finished()
    }

    /// Declares the disk finished or unfinished; earlier failed writes no longer matter.
    pub fn set_finished(&self, finished: bool) {
        self.completion.declare(finished);
    }

    /// Makes what was written through the tree durable, together with the statement that the disk
    /// is finished: after a crash, a sync proves that a writer reached its end.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn sync_file(&self) -> Result<()> {
        self.completion.state_if_finished();
        self.flush()
            .inspect_err(|_| self.completion.state_unfinished())
    }

    /// Records the result of a write into the file. After a success the disk is finished. After a
    /// failure it is unfinished until the bytes are handed in again or cut off, or the disk is
    /// declared finished.
    ///
    /// # Errors
    /// Those of `result`.
    pub fn note_handed_in(&self, offset: u64, length_bytes: u64, result: Result<()>) -> Result<()> {
        let end = offset.saturating_add(length_bytes);
        self.completion.note_handed_in(offset..end, &result);
        result
    }

    /// Records that the file ends at `size_bytes` now: nothing beyond is missing.
    pub fn note_cut(&self, size_bytes: u64) {
        self.completion.note_cut(size_bytes);
    }

    /// Refuses a disk with missing bytes.
    pub(in crate::ingest) fn check_missing(&self) -> Result<()> {
        let Some((from, end, kind)) = self.completion.first_missing() else {
            return Ok(());
        };
        let name = &self.meta.name;
        Err(Error::new(
            kind,
            format!("bytes {from} to {end} of disk {name} could not be written, and were not written again"),
        )
        .advise(format!(
            "write them again; if the disk is complete, declare it: touch {name}.raw"
        )))
    }

    /// Takes the disk for a door, for as long as the session is open in this process.
    ///
    /// # Errors
    /// `Busy` when the disk belongs to another door.
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

    /// The door that the disk belongs to, once a door has written it.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        self.completion.door()
    }

    /// Begins a write into the file. Durably retracts the statement that the disk is finished;
    /// nobody can state it again for the time after a crash until the returned guard is dropped.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub fn begin_write(&self) -> Result<WriteGuard<'_>> {
        let writing = self.completion.enter();
        self.take_back_finished()?;
        Ok(writing)
    }

    /// Durably retracts the declaration that the disk is finished: a client writes it again, and
    /// bytes that it overwrites in place need no record.
    ///
    /// # Errors
    /// As [`DiskWriter::flush`].
    pub(in crate::ingest) fn take_back_finished(&self) -> Result<()> {
        if self.completion.take_back() {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// The number of connections that are writing now.
    #[must_use]
    pub fn writers(&self) -> u64 {
        self.completion.writers()
    }
}
