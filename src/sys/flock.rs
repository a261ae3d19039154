//! Advisory whole-file locks (flock(2)). They end with the last descriptor: a killed process leaves none
//! behind.

use std::os::fd::AsFd;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::refuse::{self, Call};
use crate::error::{Error, Result};

/// Kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No other holder.
    Exclusive,
    /// Shared with other readers.
    Shared,
}

/// Takes the lock if it is free; `false` when another process holds it.
///
/// # Errors
/// `Unsupported` where the filesystem has no locks, `Io`.
pub fn try_lock(file: impl AsFd, mode: Mode) -> Result<bool> {
    let operation = match mode {
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Mode::Shared => FlockOperation::NonBlockingLockShared,
    };
    refuse::check(Call::Flock).map_err(|e| Error::io("cannot lock the file", e))?;
    match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(Error::io("cannot lock the file", e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mode, try_lock};

    #[test]
    fn one_at_a_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = file.reopen().unwrap();
        assert!(try_lock(file.as_file(), Mode::Exclusive).unwrap());
        assert!(!try_lock(&other, Mode::Shared).unwrap());
        let third = file.reopen().unwrap();
        drop(file);
        assert!(try_lock(&other, Mode::Shared).unwrap());
        assert!(try_lock(&third, Mode::Shared).unwrap());
        assert!(!try_lock(&third, Mode::Exclusive).unwrap());
    }
}
