//! Translates the protocol's change requests for the tree.

use fuser::{RenameFlags, TimeOrNow};
use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::tree::{Allocation, NewTime};

/// Permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// Whether a mode is that of a regular file.
pub(super) const fn is_regular(mode: u32) -> bool {
    let kind = mode & libc::S_IFMT;
    kind == libc::S_IFREG || kind == 0
}

/// The time that a request sets.
///
/// # Errors
/// `InvalidInput` for a time outside the calendar.
pub(super) fn new_time(time: TimeOrNow) -> Result<NewTime> {
    match time {
        TimeOrNow::Now => Ok(NewTime::Now),
        TimeOrNow::SpecificTime(time) => Timestamp::try_from(time)
            .map(NewTime::At)
            .map_err(|e| Error::invalid("the time is out of range").caused_by(e)),
    }
}

/// Whether a rename may replace; `None` for flags that are not supported (exchange, whiteout).
pub(super) fn may_replace(flags: RenameFlags) -> Option<bool> {
    if flags.is_empty() {
        Some(true)
    } else {
        (flags == RenameFlags::RENAME_NOREPLACE).then_some(false)
    }
}

/// The meaning of a `fallocate` mode; `None` for modes that are not supported (collapse, insert, unshare).
pub(super) const fn allocation(mode: i32) -> Option<Allocation> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Some(Allocation::Grow),
        KEEP => Some(Allocation::Keep),
        PUNCH => Some(Allocation::Punch),
        ZERO => Some(Allocation::Zero(true)),
        ZERO_KEEP => Some(Allocation::Zero(false)),
        _ => None,
    }
}

/// The meaning of the flags of setxattr(2): the attribute must exist, must not exist, or either.
pub(super) const fn must_exist(flags: i32) -> Option<bool> {
    match flags {
        libc::XATTR_REPLACE => Some(true),
        libc::XATTR_CREATE => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{allocation, is_regular, may_replace};
    use crate::tree::Allocation;
    use fuser::RenameFlags;

    #[test]
    fn flags_mean_what_the_manual_pages_say() {
        assert_eq!(allocation(3), Some(Allocation::Punch));
        assert_eq!(allocation(16), Some(Allocation::Zero(true)));
        assert_eq!(allocation(17), Some(Allocation::Zero(false)));
        assert_eq!(allocation(8), None);
        assert_eq!(may_replace(RenameFlags::empty()), Some(true));
        assert_eq!(may_replace(RenameFlags::RENAME_NOREPLACE), Some(false));
        assert_eq!(may_replace(RenameFlags::RENAME_EXCHANGE), None);
        assert!(is_regular(0o100_644) && is_regular(0o644));
        assert!(!is_regular(libc::S_IFIFO) && !is_regular(libc::S_IFCHR));
    }
}
