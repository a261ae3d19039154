//! Listing a directory as the kernel wants it: with `.` and `..`, which the tree does not have.

use crate::error::Result;
use crate::guest::fs::FileType;
use crate::tree::{DirEntry, Ino, Tree};

/// Cookies of `.` and `..`.
const COOKIES_DOTS: u64 = 2;

/// Lists `.` and `..`, then the tree's own entries; `each` returns `false` when the reply is full.
///
/// # Errors
/// Those of [`Tree::entries`].
pub(super) fn list(
    tree: &Tree,
    directory: Ino,
    offset: u64,
    each: &mut dyn FnMut(&DirEntry<'_>) -> bool,
) -> Result<()> {
    let mut room = true;
    for (cookie, name) in [(1, &b"."[..]), (COOKIES_DOTS, b"..")] {
        if offset < cookie && room {
            let parent = if cookie == 1 {
                directory
            } else {
                tree.parent(directory).unwrap_or(directory)
            };
            room = each(&DirEntry {
                name,
                ino: parent,
                found: None,
                file_type: FileType::Directory,
                cookie,
            });
        }
    }
    if room {
        tree.entries(directory, offset, each)?;
    }
    Ok(())
}
