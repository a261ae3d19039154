//! A disk that is a local file or a block device.
//!
//! # Invariants
//! - The size is fixed when the file is opened and changes only through this object. When another process
//!   shortens the file, reads return `Corrupt`, never zeroes.
//! - `flush` is fdatasync: it makes durable the data, and the size and extents that reading them needs.
//!
//! # Concurrency
//! Only pread and pwrite. The descriptor's own position is used only by SEEK_DATA and SEEK_HOLE, which do not
//! depend on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Extent, ExtentKind, ReadAt, WriteAt, check_range};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::beneath::Access;
use crate::sys::{device, hole};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// The zeroes of one write, where space cannot be released.
static ZEROES: [u8; 65_536] = [0; 65_536];

/// A local file or block device as a disk.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    path: PathBuf,
    access: Access,
    is_device: bool,
    size_bytes: AtomicU64,
    tells_holes: AtomicBool,
    punches: AtomicBool,
}

impl FileDisk {
    /// Wraps an open file or block device; `path` appears in messages.
    ///
    /// # Errors
    /// `InvalidInput` when it is neither; `Io`.
    pub fn new(file: File, path: impl Into<PathBuf>, access: Access) -> Result<Self> {
        let path = path.into();
        let metadata = file
            .metadata()
            .or_io("cannot stat the file")
            .at_path(&path)?;
        let is_device = device::is_block(&file)?;
        let size_bytes = if is_device {
            device::size_bytes(&file).at_path(&path)?
        } else if metadata.is_file() {
            metadata.len()
        } else {
            return Err(Error::invalid("neither a file nor a block device").at_path(path));
        };
        Ok(Self {
            file,
            path,
            access,
            is_device,
            size_bytes: AtomicU64::new(size_bytes),
            tells_holes: AtomicBool::new(!is_device),
            punches: AtomicBool::new(true),
        })
    }

    /// Opens a file or block device that the caller names (files inside a repository are opened by its store
    /// instead).
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `InvalidInput` when it is neither; `Io`.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self> {
        let path = path.as_ref();
        // A FIFO would block an open without O_NONBLOCK. The flag has no effect on regular files and devices.
        let metadata = std::fs::metadata(path)
            .or_io("cannot open the file")
            .at_path(path)?;
        if metadata.is_dir() {
            return Err(
                Error::new(ErrorKind::IsADirectory, "a directory is no disk").at_path(path),
            );
        }
        if !metadata.is_file()
            && !std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
        {
            return Err(Error::invalid("neither a file nor a block device").at_path(path));
        }
        let file = File::options()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(path)
            .or_io("cannot open the file")
            .at_path(path)?;
        Self::new(file, path, access)
    }

    /// Whether it is a block device, whose size cannot change.
    #[must_use]
    pub const fn is_device(&self) -> bool {
        self.is_device
    }

    /// The open file, for operations that only local files support.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    fn failed(&self, what: &'static str, offset: u64, error: io::Error) -> Error {
        let error = if error.kind() == io::ErrorKind::UnexpectedEof {
            Error::corrupt(
                "the file has become shorter",
                format!("{} bytes", self.size_bytes()),
                "fewer",
            )
        } else {
            Error::io(what, error)
        };
        error.at_path(&self.path).at_offset(offset)
    }

    fn writable(&self) -> Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(Error::new(
                ErrorKind::ReadOnly,
                "the file is open for reading only",
            )
            .at_path(&self.path)),
        }
    }

    fn write_zeroes(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < length_bytes {
            let part = (length_bytes - done).min(u64_from_usize(ZEROES.len()));
            self.write_at(
                offset + done,
                ZEROES.get(..usize_from_u64(part)).unwrap_or(&ZEROES),
            )?;
            done += part;
        }
        Ok(())
    }

    fn hole_extent(&self, offset: u64, length_max: u64) -> Result<Extent> {
        let data = match hole::next_data(&self.file, offset)? {
            Some(data) => data,
            None => offset.saturating_add(length_max),
        };
        if data > offset {
            return Ok(Extent {
                kind: ExtentKind::Hole,
                length_bytes: (data - offset).min(length_max),
            });
        }
        // Another writer may have punched a hole meanwhile, but an extent has at least one byte.
        let end = hole::next_hole(&self.file, offset)?.unwrap_or(offset + 1);
        Ok(Extent {
            kind: ExtentKind::Data,
            length_bytes: end.saturating_sub(offset).clamp(1, length_max),
        })
    }
}

impl ReadAt for FileDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn local_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes(), offset, u64_from_usize(buf.len())).at_path(&self.path)?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| self.failed("cannot read", offset, e))
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.size_bytes(), offset, length_max).at_path(&self.path)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        if self.tells_holes.load(Ordering::Relaxed) {
            match self.hole_extent(offset, length_max) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.tells_holes.store(false, Ordering::Relaxed);
                }
                other => return other.at_path(&self.path),
            }
        }
        Ok(Extent {
            kind: ExtentKind::Data,
            length_bytes: length_max,
        })
    }
}

impl WriteAt for FileDisk {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.writable()?;
        let Some(end) = offset.checked_add(u64_from_usize(buf.len())) else {
            return Err(Error::invalid("a write passes 2^64").at_offset(offset));
        };
        if self.is_device {
            check_range(self.size_bytes(), offset, u64_from_usize(buf.len()))
                .at_path(&self.path)?;
        }
        self.file
            .write_all_at(buf, offset)
            .map_err(|e| self.failed("cannot write", offset, e))?;
        if !buf.is_empty() {
            self.size_bytes.fetch_max(end, Ordering::AcqRel);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        // Nothing was written through a read-only descriptor, so there is nothing to make durable.
        if self.access == Access::Read {
            return Ok(());
        }
        self.file
            .sync_data()
            .or_io("cannot make the file durable")
            .at_path(&self.path)
    }

    fn set_size(&self, size_bytes: u64) -> Result<()> {
        self.writable()?;
        if self.is_device {
            return if size_bytes == self.size_bytes() {
                Ok(())
            } else {
                Err(Error::invalid("a block device cannot change its size").at_path(&self.path))
            };
        }
        self.file
            .set_len(size_bytes)
            .or_io("cannot set the file's size")
            .at_path(&self.path)?;
        self.size_bytes.store(size_bytes, Ordering::Release);
        Ok(())
    }

    fn allocate(&self, size_bytes: u64) -> Result<()> {
        self.writable()?;
        hole::allocate(&self.file, size_bytes).at_path(&self.path)?;
        self.size_bytes.fetch_max(size_bytes, Ordering::AcqRel);
        Ok(())
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.writable()?;
        let length_bytes = length_bytes.min(self.size_bytes().saturating_sub(offset));
        if length_bytes == 0 {
            return Ok(());
        }
        if self.punches.load(Ordering::Relaxed) {
            match hole::punch(&self.file, offset, length_bytes) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.punches.store(false, Ordering::Relaxed);
                }
                // A device refuses ranges that are not aligned to its sectors. Later aligned ranges are still
                // punched.
                Err(error) if self.is_device && error.kind() == ErrorKind::InvalidInput => {}
                Err(error) => return Err(error.at_path(&self.path)),
            }
        }
        self.write_zeroes(offset, length_bytes)
    }
}

impl AsFd for FileDisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::FileDisk;
    use crate::block::conformance::{check_read_at, check_write_at};
    use crate::block::{ExtentKind, ReadAt, WriteAt};
    use crate::error::ErrorKind;
    use crate::sys::beneath::Access;
    use std::sync::Arc;

    #[test]
    fn conforms() {
        check_write_at(&|| {
            let file = tempfile::tempfile().unwrap();
            Arc::new(FileDisk::new(file, "temporary", Access::ReadWrite).unwrap())
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[1]).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        check_read_at(&FileDisk::open(file.path(), Access::Read).unwrap(), &bytes);
    }

    #[test]
    fn a_file_that_shrinks_is_damage_and_not_zeroes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let disk = FileDisk::open(file.path(), Access::Read).unwrap();
        file.as_file().set_len(4096).unwrap();
        let error = disk.read_at(4000, &mut [1; 200]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn read_only_is_read_only_and_directories_are_no_disks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = FileDisk::open(file.path(), Access::Read).unwrap();
        assert_eq!(
            disk.write_at(0, b"x").unwrap_err().kind(),
            ErrorKind::ReadOnly
        );
        assert_eq!(disk.set_size(1).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(
            FileDisk::open("/", Access::Read).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
        assert_eq!(
            FileDisk::open("/dev/null", Access::Read)
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_sparse_file_tells_its_holes() {
        let file = tempfile::tempfile().unwrap();
        let disk = FileDisk::new(file, "temporary", Access::ReadWrite).unwrap();
        disk.set_size(1 << 20).unwrap();
        disk.write_at(512 << 10, &[1; 65_536]).unwrap();
        let extent = disk.extent_at(0, 1 << 20).unwrap();
        // Where the filesystem reports no holes, all is data.
        if extent.kind == ExtentKind::Hole {
            assert_eq!(extent.length_bytes, 512 << 10);
            let extent = disk.extent_at(512 << 10, 512 << 10).unwrap();
            assert_eq!(
                (extent.kind, extent.length_bytes),
                (ExtentKind::Data, 65_536)
            );
        }
    }
}
