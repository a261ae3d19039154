//! Holes in files: makes and finds them, and counts allocated bytes.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::beneath::Stat;
use super::refuse::{self, Call};
use crate::error::{Error, Result};

fn fallocate(
    file: &File,
    flags: FallocateFlags,
    offset: u64,
    length_bytes: u64,
    what: &'static str,
) -> Result<()> {
    refuse::check(Call::Punch)
        .and_then(|()| {
            rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, offset, length_bytes))
                .map_err(Into::into)
        })
        .map_err(|e| Error::io(what, e).at_offset(offset))
}

/// Releases the space of a range, which then reads as zero; the size stays.
///
/// # Errors
/// `Unsupported` where the filesystem does not support it; `InvalidInput` for an empty range, and on block
/// devices for a range that is not aligned to sectors; `Io`.
pub fn punch(file: &File, offset: u64, length_bytes: u64) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, offset, length_bytes, "cannot punch a hole")
}

/// Allocates space for the first `length_bytes`. Unwritten bytes read as zero; the file grows to that size.
///
/// # Errors
/// As [`punch`]; `NoSpace`.
pub fn allocate(file: &File, length_bytes: u64) -> Result<()> {
    let flags = FallocateFlags::empty();
    fallocate(
        file,
        flags,
        0,
        length_bytes,
        "cannot take room for the file",
    )
}

/// Allocates space for the first `length_bytes`; the size stays.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_beyond(file: &File, length_bytes: u64) -> Result<()> {
    let flags = FallocateFlags::KEEP_SIZE;
    fallocate(
        file,
        flags,
        0,
        length_bytes,
        "cannot take room for the file",
    )
}

fn seek(file: &File, from: SeekFrom, offset: u64) -> Result<Option<u64>> {
    refuse::check(Call::Punch).map_err(|e| Error::io("cannot look for holes", e))?;
    match rustix::fs::seek(file, from) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Err(Error::unsupported("this file does not report its holes")),
        Err(e) => Err(Error::io("cannot look for holes", e.into()).at_offset(offset)),
    }
}

/// Offset of the next data at or after `offset`; `None` when there is none up to the end. It moves the file's
/// position, which nothing in this program uses.
///
/// # Errors
/// `Unsupported` where the file does not support it, `Io`.
pub fn next_data(file: &File, offset: u64) -> Result<Option<u64>> {
    seek(file, SeekFrom::Data(offset), offset)
}

/// Offset of the next hole at or after `offset`; at the latest the end of the file.
///
/// # Errors
/// As [`next_data`].
pub fn next_hole(file: &File, offset: u64) -> Result<Option<u64>> {
    seek(file, SeekFrom::Hole(offset), offset)
}

/// Bytes that the file occupies on its filesystem.
///
/// # Errors
/// `Io`.
pub fn allocated_bytes(file: impl AsFd) -> Result<u64> {
    Ok(Stat::of(file)?.allocated_bytes)
}

#[cfg(test)]
mod tests {
    use super::{allocated_bytes, next_data, next_hole, punch};
    use crate::error::ErrorKind;
    use std::io::Write;

    #[test]
    fn punched_ranges_are_holes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        match punch(&file, 65_536, 65_536) {
            Ok(()) => {}
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported),
        }
        assert!(allocated_bytes(&file).unwrap() < 1 << 20);
        assert_eq!(next_hole(&file, 0).unwrap(), Some(65_536));
        assert_eq!(next_data(&file, 65_536).unwrap(), Some(131_072));
        assert_eq!(next_data(&file, 1 << 20).unwrap(), None);
        assert_eq!(
            punch(&file, 0, 0).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
