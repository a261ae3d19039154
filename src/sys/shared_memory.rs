//! Memory that two processes share, and that neither can shrink.
//!
//! # Invariants
//! Bytes are only copied in and out: no code holds a reference into memory that a hostile process may change
//! meanwhile. The underlying file is sealed against shrinking, so that reading it cannot raise SIGBUS.
#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, Result, ResultExt};
use crate::types::width::u64_from_usize;

/// A mapping of sealed memory; its size in bytes never changes.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    length: usize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to this object alone, and is only touched by copies through raw pointers.
unsafe impl Send for SharedMemory {}
// SAFETY: as above; concurrent copies yield mixed bytes, which the callers do not trust, because they share
// with another process anyway.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes memory of `length` bytes, all zero.
    ///
    /// # Errors
    /// `NoSpace`, `Unsupported`, `Io`.
    pub fn create(name: &str, length: usize) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags)
            .map_err(std::io::Error::from)
            .or_io("cannot make shared memory")?;
        rustix::fs::ftruncate(&file, u64_from_usize(length))
            .map_err(std::io::Error::from)
            .or_io("cannot size shared memory")?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)
            .map_err(std::io::Error::from)
            .or_io("cannot seal shared memory")?;
        Self::map(file, length)
    }

    /// Maps memory that another process has made.
    ///
    /// # Errors
    /// `InvalidInput` when it is smaller than `length`; `Io`.
    pub fn open(file: OwnedFd, length: usize) -> Result<Self> {
        let size = rustix::fs::fstat(&file)
            .map_err(std::io::Error::from)
            .or_io("cannot look at shared memory")?
            .st_size;
        if u64::try_from(size).is_ok_and(|size| size >= u64_from_usize(length)) {
            Self::map(file, length)
        } else {
            Err(Error::invalid(
                "the shared memory is smaller than announced",
            ))
        }
    }

    fn map(file: OwnedFd, length: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses, and that nothing else knows.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let base = base
            .map_err(std::io::Error::from)
            .or_io("cannot map shared memory")?;
        let base =
            NonNull::new(base.cast()).ok_or_else(|| Error::invalid("a mapping at address 0"))?;
        Ok(Self { base, length, file })
    }

    /// The underlying file, to pass to another process.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn at(&self, offset: usize, length: usize) -> Result<*mut u8> {
        let is_inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        if !is_inside {
            return Err(Error::invalid("beyond the shared memory"));
        }
        // SAFETY: `offset` lies within the mapping, as checked above.
        Ok(unsafe { self.base.as_ptr().add(offset) })
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// `InvalidInput` past the end.
    pub fn read(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        let from = self.at(offset, buf.len())?;
        // SAFETY: `from` is valid for as many bytes, and private memory does not overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// `InvalidInput` past the end.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: `to` is valid for as many bytes, and private memory does not overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this object and ends with it. If the call fails, it stays mapped,
        // which is harmless.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::SharedMemory;

    #[test]
    fn what_one_writes_the_other_reads_and_nobody_shrinks_it() {
        let ours = SharedMemory::create("test", 8192).unwrap();
        let theirs = SharedMemory::open(ours.file().try_clone_to_owned().unwrap(), 8192).unwrap();
        ours.write(5000, b"hello").unwrap();
        let mut buf = [0; 7];
        theirs.read(4999, &mut buf).unwrap();
        assert_eq!(&buf, b"\0hello\0");
        assert!(ours.write(8190, b"abc").is_err());
        assert!(ours.read(usize::MAX, &mut buf).is_err());
        assert!(rustix::fs::ftruncate(theirs.file(), 0).is_err());
        assert!(SharedMemory::open(ours.file().try_clone_to_owned().unwrap(), 8193).is_err());
    }
}
