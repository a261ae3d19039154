//! A QCOW2 file as the target of a restore: without a backing file, and only with clusters that are not zero.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::page::PageBudget;
use crate::block::{FileDisk, ReadAt, WriteAt};
use crate::error::{Error, Result};
use crate::qcow2::Mapping;
use crate::qcow2::writer::CLUSTER_BYTES;
use crate::qcow2::{Compression, LayerOptions, LayerWriter};
use crate::sys::beneath::Access;
use crate::sys::scratch;
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{GuestCluster, HostOffset, LayerId};

/// LIMIT: bytes of tables in memory; more go to a scratch file beside the target.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// A QCOW2 file that is being written. Unwritten ranges read as zero.
pub struct ImageTarget {
    writer: LayerWriter,
    size_bytes: u64,
}

impl ImageTarget {
    /// Begins an image of a disk of `size_bytes` in an empty file of the directory `dir`.
    ///
    /// # Errors
    /// `InvalidInput` for a size that QCOW2 does not allow; `NoSpace`, `Io`.
    pub fn create(file: FileDisk, dir: &Path, size_bytes: u64) -> Result<Self> {
        let padded = size_bytes
            .checked_next_multiple_of(512)
            .ok_or_else(|| Error::invalid("the disk is too large for QCOW2"))?;
        let options = LayerOptions {
            size_bytes: padded,
            backing: None,
            layer_id: LayerId::random(),
            compression: Compression::None,
        };
        let budget = PageBudget::new(TABLE_BYTES_MAX);
        let dir: PathBuf = dir.to_path_buf();
        let spill = move || -> Result<Arc<dyn WriteAt>> {
            let file = scratch::file(&dir)?;
            Ok(Arc::new(FileDisk::new(file, &dir, Access::ReadWrite)?))
        };
        Ok(Self {
            writer: LayerWriter::create(Arc::new(file), options, &budget, spill)?,
            size_bytes: padded,
        })
    }
}

impl ReadAt for ImageTarget {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, _: &mut [u8]) -> Result<()> {
        Err(Error::unsupported("an image that is being written is not read").at_offset(offset))
    }
}

impl WriteAt for ImageTarget {
    /// Writes whole clusters, except for the disk's last one: the restore makes no other writes.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if !offset.is_multiple_of(CLUSTER_BYTES) {
            return Err(Error::invalid("an image is written in whole clusters").at_offset(offset));
        }
        let clusters = u64_from_usize(buf.len()).div_ceil(CLUSTER_BYTES);
        if clusters == 0 {
            return Ok(());
        }
        let host = self.writer.allocate(clusters)?;
        self.writer.write_data(host, buf)?;
        let rest = usize_from_u64(clusters * CLUSTER_BYTES) - buf.len();
        if rest > 0 {
            let end = HostOffset(host.get() + u64_from_usize(buf.len()));
            self.writer.write_data(end, &vec![0; rest])?;
        }
        for n in 0..clusters {
            let place = Mapping::Data(HostOffset(host.get() + n * CLUSTER_BYTES));
            self.writer
                .set(GuestCluster(offset / CLUSTER_BYTES + n), place)?;
        }
        Ok(())
    }

    /// Writes the tables and the header, and makes the file durable. The image is then whole and accepts no
    /// more writes.
    fn flush(&self) -> Result<()> {
        self.writer.seal().map(|_| ())
    }

    fn set_size(&self, _: u64) -> Result<()> {
        Err(Error::unsupported(
            "the size of an image is given when it is begun",
        ))
    }

    fn punch(&self, _: u64, _: u64) -> Result<()> {
        // The target is new, so unwritten ranges already read as zero.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ImageTarget;
    use crate::block::{FileDisk, ReadAt, WriteAt};
    use crate::qcow2::source::{DenyAll, OpenedFile, Source};
    use crate::sys::beneath::Access;

    #[test]
    fn what_is_written_is_read_back_and_the_rest_is_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let file = FileDisk::new(file, &path, Access::ReadWrite).unwrap();
        let image = ImageTarget::create(file, dir.path(), 3 * 65_536 + 100).unwrap();
        image.write_at(65_536, &[7; 65_536]).unwrap();
        image.write_at(3 * 65_536, &[9; 100]).unwrap();
        assert!(image.write_at(5, &[1; 10]).is_err());
        image.flush().unwrap();
        let read = Source::open(OpenedFile::open(&path).unwrap(), &DenyAll).unwrap();
        assert_eq!(read.size_bytes(), 3 * 65_536 + 512);
        let mut bytes = vec![1; 3 * 65_536 + 512];
        read.read_at(0, &mut bytes).unwrap();
        let mut want = vec![0; 3 * 65_536 + 512];
        want[65_536..2 * 65_536].fill(7);
        want[3 * 65_536..3 * 65_536 + 100].fill(9);
        assert!(bytes == want);
    }
}
