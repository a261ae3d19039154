//! A file to read and write, without anything of the crate's own files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use restorefs::block::{ReadAt, WriteAt};
use restorefs::error::{Result, ResultExt};

/// A plain file.
pub(crate) struct Disk(File);

impl Disk {
    /// Makes a file, or opens the one that is there.
    pub(crate) fn open(path: &Path) -> Arc<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        Arc::new(Self(file))
    }
}

impl ReadAt for Disk {
    fn size_bytes(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buf, offset).or_io("cannot read")
    }
}

impl WriteAt for Disk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.0.write_all_at(buf, offset).or_io("cannot write")
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.0.set_len(size_bytes).or_io("cannot set the size")
    }
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        // What is a hole already is left one.
        let end = (offset + length_bytes).min(self.size_bytes());
        let mut at = offset;
        while at < end {
            let zeroes = vec![0; usize::try_from((end - at).min(1 << 20)).unwrap()];
            let mut bytes = zeroes.clone();
            self.read_at(at, &mut bytes)?;
            if bytes != zeroes {
                self.write_at(at, &zeroes)?;
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}
