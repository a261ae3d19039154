//! Failures of the btrfs crate: its errors in this program's terms, and its panics.

use crate::error::{Error, ErrorKind, Result};
use crate::guest::device::{self, device_error};

/// Runs a call into the crate; a panic yields `Corrupt`.
pub(super) fn guard<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    device::guard("btrfs", call)
}

/// Translates the crate's error: damage, unsupported features and read errors stay distinct.
pub(super) fn translate(error: fs_btrfs::Error) -> Error {
    use fs_btrfs::Error as Btrfs;
    match error {
        Btrfs::Io(text) => device_error(&text),
        Btrfs::UnsupportedFeature(what) | Btrfs::UnsupportedProfile(what) => {
            Error::unsupported(format!("btrfs: {what}"))
        }
        Btrfs::UnsupportedChecksum(kind) => {
            Error::unsupported(format!("btrfs: checksums of type {kind}"))
        }
        Btrfs::ChecksumMismatch { what, offset } => {
            Error::corrupt(format!("btrfs: the {what}"), "its checksum", "another")
                .at_offset(offset)
        }
        Btrfs::BlockIdentityMismatch {
            what,
            expected,
            found,
        } => Error::corrupt(format!("btrfs: the {what}"), expected, found),
        // The crate reports "malformed superblock" for any malformed structure; the text behind it names the
        // structure.
        Btrfs::BadSuperblock(what) | Btrfs::BadChunkItem(what) => {
            Error::new(ErrorKind::Corrupt, format!("btrfs: {what}"))
        }
        other => Error::new(ErrorKind::Corrupt, format!("btrfs: {other}")),
    }
}
