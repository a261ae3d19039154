//! Locks of a local store: flocks of open files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::{HeldFile, Key, Lock};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::Dir;
use crate::sys::beneath::{Access, Stat};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: bytes of a lock's note that are read (our limit; a note is below 1 KiB).
pub(super) const NOTE_BYTES_MAX: u64 = 65_536;

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// `LimitExceeded` when it is larger; `Io`.
pub(super) fn read_whole(file: &File, bytes_max: u64) -> Result<Vec<u8>> {
    let too_large = |size: u64| {
        Error::new(
            ErrorKind::LimitExceeded,
            format!("it has {size} bytes, at most {bytes_max} are read"),
        )
    };
    let size = file.metadata().or_io("cannot stat the file")?.len();
    if size > bytes_max {
        return Err(too_large(size));
    }
    let mut bytes = Vec::with_capacity(usize_from_u64(size) + 1);
    // Reads one byte more than the limit, so that a file that grows meanwhile is not truncated silently.
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .or_io("cannot read the file")?;
    let size = u64_from_usize(bytes.len());
    if size > bytes_max {
        return Err(too_large(size));
    }
    Ok(bytes)
}

/// A held file; its flock ends when the file is closed.
pub(super) struct LocalHold(#[expect(dead_code, reason = "held for its flock")] pub(super) File);

impl HeldFile for LocalHold {}

/// The held lock; its flock ends when the file is closed.
pub(super) struct LocalLock {
    pub(super) root: Dir,
    pub(super) key: Key,
    pub(super) file: File,
    /// The note that this process wrote last.
    pub(super) note: Mutex<Vec<u8>>,
}

impl LocalLock {
    fn path(&self) -> std::path::PathBuf {
        self.root.path().join(self.key.as_str())
    }

    pub(super) fn is_in_place(&self) -> Result<bool> {
        let ours = Stat::of(&self.file)?;
        Ok(self
            .root
            .stat(self.key.as_str())?
            .is_some_and(|stat| stat.same_file(&ours)))
    }

    pub(super) fn write(&self, note: &[u8]) -> Result<()> {
        self.file
            .write_all_at(note, 0)
            .and_then(|()| {
                let length = u64_from_usize(note.len());
                self.file.set_len(length)
            })
            .and_then(|()| self.file.sync_data())
            .or_io("cannot write the note of the lock")
            .at_path(self.path())?;
        *self.last() = note.to_vec();
        Ok(())
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.note.lock()
    }
}

impl Lock for LocalLock {
    fn renew(&self, note: &[u8]) -> Result<()> {
        self.verify()?;
        self.write(note)
    }

    fn verify(&self) -> Result<()> {
        let lost = |why: &str| {
            Err(Error::new(
                ErrorKind::Stale,
                format!("the lock is no longer ours: {why}"),
            )
            .at_path(self.path()))
        };
        if !self.is_in_place()? {
            return lost("its file has been replaced or deleted");
        }
        // The file is opened anew, so that a network filesystem asks its server instead of its cache.
        let file = match self.root.open_file(self.key.as_str(), Access::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return lost("its file has been deleted");
            }
            other => other?,
        };
        if read_whole(&file, NOTE_BYTES_MAX).at_path(self.path())? == *self.last() {
            Ok(())
        } else {
            lost("another process wrote its holder file")
        }
    }
}

impl Drop for LocalLock {
    fn drop(&mut self) {
        // The empty file stays: unlinking it would let two processes each lock a file of that name.
        if self.verify().is_ok() {
            let _ = self.file.set_len(0);
        }
    }
}
