//! One name of a listing.

use super::attribute::Found;
use super::inode::Ino;
use crate::error::Result;
use crate::guest::fs::FileType;

/// Smaller cookies are the caller's own (`.` and `..`).
pub(super) const COOKIE_FIRST: u64 = 16;
/// One name of a directory, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: bytes, never empty, without `/` and NUL.
    pub name: &'a [u8],
    /// Inode number, even when its attributes are unavailable.
    pub ino: Ino,
    /// The node; `None` when it is damaged, and a lookup then returns the error.
    pub found: Option<Found>,
    /// Type, a guess when `found` is `None`.
    pub file_type: FileType,
    /// Cookie of the position after this entry.
    pub cookie: u64,
}

/// Takes entries one by one; returns `false` to end the listing.
pub(super) type Each<'a> = &'a mut dyn FnMut(&DirEntry<'_>) -> bool;

/// Passes an entry to `each`; returns `false` when `each` did not take it.
pub(super) fn offer(
    each: Each<'_>,
    name: &[u8],
    ino: Ino,
    found: Result<Found>,
    cookie: u64,
) -> bool {
    let found = match found {
        Ok(found) => Some(found),
        Err(error) => {
            tracing::debug!(%ino, error = %error.report(), "an entry is listed without attributes");
            None
        }
    };
    each(&DirEntry {
        name,
        ino: found.as_ref().map_or(ino, |found| found.attributes.ino),
        file_type: found
            .as_ref()
            .map_or(FileType::Regular, |found| found.attributes.file_type),
        found,
        cookie,
    })
}
