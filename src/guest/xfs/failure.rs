//! Failures of the XFS crate: its errors in this program's terms, and its panics.

use crate::error::{Error, ErrorKind, Result};
use crate::guest::device::{self, device_error};

/// Runs a call into the crate; a panic yields `Corrupt`.
pub(super) fn guard<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    device::guard("XFS", call)
}

/// Translates the crate's error: damage, unsupported features and read errors stay distinct.
pub(super) fn translate(error: fs_xfs::Error) -> Error {
    use fs_xfs::Error as Xfs;
    match error {
        Xfs::Io(text) => device_error(&text),
        Xfs::UnsupportedFeature(what) if what.starts_with("the log ") => Error::unsupported(
            format!("XFS: {what}"),
        )
        .advise("map the disks with `restorefs map --scratch` and mount the filesystem there"),
        Xfs::UnsupportedFeature(what) => Error::unsupported(format!("XFS: {what}")),
        Xfs::RealtimeDeviceAbsent { .. } => {
            Error::unsupported("XFS: the file lies on a realtime device")
        }
        Xfs::DirtyLog => Error::unsupported(
            "XFS: files that were deleted while open, and a log that does not know them",
        ),
        Xfs::ChecksumMismatch { what, block } => Error::corrupt(
            format!("XFS: the {what} at {block}"),
            "its checksum",
            "another",
        ),
        Xfs::BlockIdentityMismatch {
            what,
            expected,
            found,
        } => Error::corrupt(format!("XFS: the {what}"), expected, found),
        Xfs::NotFound => Error::not_found("no such file or directory in the guest"),
        Xfs::NotADirectory => Error::new(ErrorKind::NotADirectory, "not a directory"),
        Xfs::NotAFile => Error::invalid("not a file of this type"),
        // The crate reports "malformed superblock" for any malformed structure; the text behind it names the
        // structure.
        Xfs::BadSuperblock(what) | Xfs::CorruptLog(what) => {
            Error::new(ErrorKind::Corrupt, format!("XFS: {what}"))
        }
        other => Error::new(ErrorKind::Corrupt, format!("XFS: {other}")),
    }
}
