//! A disk in memory for the tests of this module.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::block::{ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// Bytes behind a mutex, with a limit on the number of successful changes.
pub(super) struct Disk {
    bytes: Mutex<Vec<u8>>,
    changes_left: AtomicI64,
}

impl Disk {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            changes_left: AtomicI64::new(i64::MAX),
        })
    }

    /// Lets `changes` more writes, flushes, ... succeed; all later ones fail with `NoSpace`.
    pub(super) fn fail_after(&self, changes: i64) {
        self.changes_left.store(changes, Ordering::Relaxed);
    }

    fn change(&self) -> Result<()> {
        if self.changes_left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, "the disk is full"))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }
}

impl ReadAt for Disk {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.lock();
        check_range(bytes.len() as u64, offset, buf.len() as u64)?;
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&bytes[at..at + buf.len()]);
        Ok(())
    }
}

impl WriteAt for Disk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.change()?;
        let at = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes.lock();
        if bytes.len() < at + buf.len() {
            bytes.resize(at + buf.len(), 0);
        }
        bytes[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.change()
    }
    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.change()?;
        let size = usize::try_from(size_bytes).unwrap();
        self.bytes.lock().resize(size, 0);
        Ok(())
    }
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.change()?;
        let at = usize::try_from(offset).unwrap();
        let end = at + usize::try_from(length_bytes).unwrap();
        self.bytes.lock()[at..end].fill(0);
        Ok(())
    }
}
