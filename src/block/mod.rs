//! Bytes at offsets: the traits for reading and writing every disk, layer, partition and file.
//!
//! # Invariants
//! - Reads are exact: a read fills the whole buffer or fails. No error is ever answered with zeroes.
//! - All methods take `&self` and may be called from many threads at once.

pub mod buffer;
pub mod conformance;
pub mod extent;
pub mod file;
pub mod filter;
pub mod magic;
pub mod memory;
pub mod overlay;
pub mod page;
pub mod piece;
pub mod run;
pub mod weighted;

pub use buffer::{Buffer, BufferPool};
pub use extent::{Extent, ExtentKind};
pub use file::FileDisk;
pub use memory::MemoryDisk;
pub use overlay::Overlay;
pub use weighted::Weighted;

use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, Result};

/// An object that can be read at any byte offset.
pub trait ReadAt: Send + Sync {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `InvalidInput` when the range passes the end; `Corrupt`, `Io`, ... when the bytes cannot be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The extent that begins at `offset`, without reading it: at least 1 and at most `length_max` bytes. The
    /// default has no knowledge: it reports data.
    ///
    /// # Errors
    /// `InvalidInput` when `length_max` is 0 or the range passes the end; the errors of a read.
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.size_bytes(), offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        }
        Ok(Extent {
            kind: ExtentKind::Data,
            length_bytes: length_max,
        })
    }

    /// Optional capability: the open local file that has exactly these bytes, for operations of its filesystem
    /// (reflink, passthrough).
    fn local_file(&self) -> Option<&File> {
        None
    }
}

/// An object that can also be written.
pub trait WriteAt: ReadAt {
    /// Writes all of `buf` at `offset`; the object grows when the range passes its end.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, ...
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()>;

    /// Returns once all earlier writes are durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: data written since the last flush may then be lost.
    fn flush(&self) -> Result<()>;

    /// Sets the size; new bytes read as zero.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, ...
    fn set_size(&self, size_bytes: u64) -> Result<()>;

    /// Releases the space of a range, which then reads as zero. Writes zeroes where the space cannot be
    /// released. The size stays; the part of the range past the end is ignored.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, ...
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()>;

    /// Allocates space for the first `size_bytes` now; the object then has at least that size.
    ///
    /// # Errors
    /// `Unsupported` where space cannot be allocated without writing; `NoSpace`, `Io`, ...
    fn allocate(&self, size_bytes: u64) -> Result<()> {
        let _ = size_bytes;
        Err(Error::unsupported("room cannot be taken without writing"))
    }
}

/// Refuses a range that passes the end of an object of `size_bytes`.
///
/// # Errors
/// `InvalidInput` naming the range and the size.
pub fn check_range(size_bytes: u64, offset: u64, length_bytes: u64) -> Result<()> {
    match offset.checked_add(length_bytes) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(Error::invalid(format!(
            "{length_bytes} bytes pass the end, which is at {size_bytes}"
        ))
        .at_offset(offset)),
    }
}

impl<T: WriteAt + ?Sized> WriteAt for Arc<T> {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        (**self).write_at(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
    fn set_size(&self, size_bytes: u64) -> Result<()> {
        (**self).set_size(size_bytes)
    }
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<()> {
        (**self).punch(offset, length_bytes)
    }
    fn allocate(&self, size_bytes: u64) -> Result<()> {
        (**self).allocate(size_bytes)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        (**self).extent_at(offset, length_max)
    }
    fn local_file(&self) -> Option<&File> {
        (**self).local_file()
    }
}
