//! Sharing extents between files of one filesystem (FICLONERANGE): XFS with reflink, btrfs, bcachefs.
#![expect(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::os::fd::{AsFd, AsRawFd};

use super::refuse::{self, Call};
use crate::error::{Error, ErrorKind, Result};

/// Makes `length_bytes` at `to_offset` of `to` share the extents at `from_offset` of `from`. Offsets are
/// multiples of the filesystem's block size; so is the length, unless the range ends at the end of `from`.
///
/// # Errors
/// `Unsupported` where the filesystem does not support it, or the files lie on different ones; `InvalidInput`
/// when not aligned; `NoSpace`, `Io`.
pub fn clone_range(
    from: impl AsFd,
    from_offset: u64,
    length_bytes: u64,
    to: impl AsFd,
    to_offset: u64,
) -> Result<()> {
    let what = "cannot share extents between the files";
    refuse::check(Call::Reflink).map_err(|e| Error::io(what, e))?;
    if length_bytes == 0 {
        // The kernel interprets 0 as "up to the end".
        return Err(Error::invalid("a range of no bytes was to be shared"));
    }
    let range = libc::file_clone_range {
        src_fd: i64::from(from.as_fd().as_raw_fd()),
        src_offset: from_offset,
        src_length: length_bytes,
        dest_offset: to_offset,
    };
    // SAFETY: both descriptors are open for the call (borrowed above), and `range` is the struct that FICLONERANGE
    // reads; the kernel writes nothing to it.
    let result = unsafe {
        libc::ioctl(
            to.as_fd().as_raw_fd(),
            libc::FICLONERANGE,
            std::ptr::from_ref(&range),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let unsupported = matches!(
        error.raw_os_error(),
        Some(libc::EXDEV | libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS)
    );
    let error = Error::io(what, error);
    Err(if unsupported {
        error.with_kind(ErrorKind::Unsupported)
    } else {
        error
    })
}

#[cfg(test)]
mod tests {
    use super::clone_range;
    use crate::error::ErrorKind;

    #[test]
    fn shares_or_says_that_it_cannot() {
        let from = tempfile::NamedTempFile::new().unwrap();
        let to = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(from.path(), vec![7; 8192]).unwrap();
        match clone_range(from.as_file(), 4096, 4096, to.as_file(), 0) {
            Ok(()) => assert_eq!(std::fs::read(to.path()).unwrap(), vec![7; 4096]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}"),
        }
        assert!(clone_range(from.as_file(), 0, 0, to.as_file(), 0).is_err());
    }
}
