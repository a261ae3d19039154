//! Attached files of a session: small, written whole or in parts, published with the point verbatim.

use std::sync::Arc;

use super::Session;
use crate::block::{ReadAt, WriteAt};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::layout::{self, VmKeys};
use crate::store::{Entry, Key, PutMode};
use crate::types::sync::RwLockReadGuard;
use crate::types::width::u64_from_usize;

/// LIMIT: attached files of one session.
const ATTACHED_MAX: usize = 1000;
/// LIMIT: bytes of an attached file. The file is read whole, to hash it and to show it.
const ATTACHED_BYTES_MAX: u64 = 16 << 20;

impl Session {
    fn attached_key(&self, name: &str) -> Result<Key> {
        VmKeys::new(&self.vm())?
            .session(&self.name())?
            .join(layout::ATTACHED)?
            .join(name)
    }

    /// Admits a write to an attached file. The commit waits until the guard is dropped.
    fn enter_attached(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let guard = self.enter_write()?;
        self.touch();
        Ok(guard)
    }

    /// Attaches a small file, which is published verbatim with the point; replaces a file of that
    /// name.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is no plain file name; `TooLarge`, `LimitExceeded`,
    /// `NoSpace`, `Io`.
    pub fn attach(&self, name: &str, content: &[u8]) -> Result<()> {
        let _guard = self.enter_attached()?;
        check_attached_size(u64_from_usize(content.len()))?;
        self.check_room(name)?;
        let stage = self.engine.owner.repository().stage();
        stage.put(&self.attached_key(name)?, content, PutMode::Replace)?;
        self.note_change();
        Ok(())
    }

    /// Refuses a new file when the session already has the maximum number of them.
    fn check_room(&self, name: &str) -> Result<()> {
        let attached = self.attached()?;
        if attached.len() < ATTACHED_MAX || attached.iter().any(|entry| entry.name == name) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::LimitExceeded,
            format!("more than {ATTACHED_MAX} attached files"),
        ))
    }

    /// Creates an empty attached file.
    ///
    /// # Errors
    /// `AlreadyExists`, `LimitExceeded`; as [`Session::attach`].
    pub fn create_attached(&self, name: &str) -> Result<()> {
        let _guard = self.enter_attached()?;
        self.check_room(name)?;
        let stage = self.engine.owner.repository().stage();
        stage.create(&self.attached_key(name)?)?;
        self.note_change();
        Ok(())
    }

    /// Names and sizes of the attached files.
    ///
    /// # Errors
    /// `Io`.
    pub fn attached(&self) -> Result<Vec<Entry>> {
        let prefix = VmKeys::new(&self.vm())?
            .session(&self.name())?
            .join(layout::ATTACHED)?;
        match self.engine.owner.repository().stage().list(&prefix) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// Opens the content of an attached file.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn read_attached(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        let stage = self.engine.owner.repository().stage();
        Ok(stage.open(&self.attached_key(name)?)?)
    }

    fn change_attached(
        &self,
        name: &str,
        change: impl FnOnce(&dyn WriteAt) -> Result<()>,
    ) -> Result<()> {
        let _guard = self.enter_attached()?;
        let stage = self.engine.owner.repository().stage();
        change(stage.open(&self.attached_key(name)?)?.as_ref())
    }

    /// Writes into an attached file, which grows as needed.
    ///
    /// # Errors
    /// `NotFound`; `TooLarge`; `Busy`, `ReadOnly`, `Stale` (the session); `NoSpace`, `Io`.
    pub fn write_attached(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        check_attached_size(offset.saturating_add(u64_from_usize(bytes.len())))?;
        self.change_attached(name, |file| file.write_at(offset, bytes))
    }

    /// Sets the size of an attached file; new bytes are zero.
    ///
    /// # Errors
    /// As [`Session::write_attached`].
    pub fn resize_attached(&self, name: &str, size_bytes: u64) -> Result<()> {
        check_attached_size(size_bytes)?;
        self.change_attached(name, |file| file.set_size(size_bytes))
    }

    /// Zeroes a part of an attached file; its size does not change.
    ///
    /// # Errors
    /// As [`Session::write_attached`].
    pub fn zero_attached(&self, name: &str, offset: u64, length_bytes: u64) -> Result<()> {
        self.change_attached(name, |file| file.punch(offset, length_bytes))
    }

    /// Makes an attached file and its name durable.
    ///
    /// # Errors
    /// As [`Session::write_attached`].
    pub fn flush_attached(&self, name: &str) -> Result<()> {
        self.change_attached(name, |file| file.flush())?;
        self.flush_attached_names()
    }

    /// Makes the names of the attached files durable.
    ///
    /// # Errors
    /// `Busy`, `ReadOnly`, `Stale` (the session); `Io`.
    pub fn flush_attached_names(&self) -> Result<()> {
        let _guard = self.enter_attached()?;
        let prefix = VmKeys::new(&self.vm())?
            .session(&self.name())?
            .join(layout::ATTACHED)?;
        self.engine.owner.repository().stage().sync_prefix(&prefix)
    }

    /// Renames an attached file; replaces the file that has the name `to`.
    ///
    /// # Errors
    /// As [`Session::write_attached`].
    pub fn rename_attached(&self, from: &str, to: &str) -> Result<()> {
        // The lock is exclusive: a write to the old file after the read below would be lost.
        let _guard = self.writing.write();
        self.check_open()?;
        self.touch();
        let stage = self.engine.owner.repository().stage();
        let (from, to) = (self.attached_key(from)?, self.attached_key(to)?);
        // The files are small: the new one is complete before the old one is removed.
        let bytes = stage.get(&from, ATTACHED_BYTES_MAX)?;
        stage.put(&to, &bytes, PutMode::Replace)?;
        stage.delete(&from)?;
        self.note_change();
        Ok(())
    }

    /// Removes an attached file.
    ///
    /// # Errors
    /// `NotFound`; `Busy`, `ReadOnly`, `Stale` (the session); `Io`.
    pub fn remove_attached(&self, name: &str) -> Result<()> {
        let _guard = self.enter_attached()?;
        let stage = self.engine.owner.repository().stage();
        stage.delete(&self.attached_key(name)?)?;
        self.note_change();
        Ok(())
    }
}

/// Refuses a size that no attached file may have.
///
/// # Errors
/// `TooLarge`.
pub fn check_attached_size(size_bytes: u64) -> Result<()> {
    if size_bytes <= ATTACHED_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!(
            "an attached file has at most {} MiB, and this one has {size_bytes} bytes",
            ATTACHED_BYTES_MAX >> 20
        ),
    ))
}
