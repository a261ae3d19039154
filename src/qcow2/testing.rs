//! A disk in memory for the tests of this module.

use std::sync::{Arc, Mutex};

use crate::block::{ReadAt, WriteAt, check_range};
use crate::error::Result;

/// Bytes behind a mutex.
#[derive(Default)]
pub(super) struct Disk(pub(super) Mutex<Vec<u8>>);

impl Disk {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(bytes)))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl ReadAt for Disk {
    fn size_bytes(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.0.lock().unwrap();
        check_range(bytes.len() as u64, offset, buf.len() as u64)?;
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&bytes[at..at + buf.len()]);
        Ok(())
    }
}

impl WriteAt for Disk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        let mut bytes = self.0.lock().unwrap();
        if bytes.len() < at + buf.len() {
            bytes.resize(at + buf.len(), 0);
        }
        bytes[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_size(&self, size_bytes: u64) -> Result<()> {
        let size = usize::try_from(size_bytes).unwrap();
        self.0.lock().unwrap().resize(size, 0);
        Ok(())
    }
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        let end = at + usize::try_from(length_bytes).unwrap();
        self.0.lock().unwrap()[at..end].fill(0);
        Ok(())
    }
}
