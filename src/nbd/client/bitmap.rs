//! A dirty bitmap that a server exports beside a disk (`qemu:dirty-bitmap:NAME`, `docs/interop/nbd.rst` of QEMU), on the connection of the
//! disk: many servers allow only one.
//!
//! # Invariants
//! - Nothing is guessed: a range whose state the server does not report is an error, never unchanged.

use super::Client;
use crate::block::{ReadAt, check_range};
use crate::error::{Error, Result, ResultExt};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::flag::StatusFlags;
use crate::nbd::proto::uri::Uri;

/// The prefix of the contexts of dirty bitmaps.
const CONTEXT: &str = "qemu:dirty-bitmap:";

/// The flag of an extent that has changed (NBD_STATE_DIRTY of QEMU).
const DIRTY: StatusFlags = StatusFlags::HOLE;

/// A known range of a bitmap.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Where it begins.
    start: u64,
    /// Ends of its extents, with whether they have changed.
    ends: Vec<(u64, bool)>,
}

impl Known {
    /// Whether the bytes from `offset` on have changed, and for how many bytes that is known.
    fn at(&self, offset: u64) -> Option<(bool, u64)> {
        if offset < self.start {
            return None;
        }
        let at = self.ends.partition_point(|(end, _)| *end <= offset);
        let (end, is_dirty) = self.ends.get(at)?;
        Some((*is_dirty, end - offset))
    }
}

impl Client {
    /// Connects to an export and negotiates a dirty bitmap of this name, too.
    ///
    /// # Errors
    /// `NotFound` for an export without this bitmap; as [`Client::connect`].
    pub fn connect_with_bitmap(uri: &Uri, name: &str) -> Result<Self> {
        let client = Self::connect_in(uri, Some(format!("{CONTEXT}{name}")))?;
        match client.facts.bitmap {
            Some(_) => Ok(client),
            None => Err(Error::not_found(format!(
                "the export has no bitmap \"{}\"",
                name.escape_debug()
            ))
            .at_path(uri.shown())
            .advise("see what it has: nbdinfo URI")),
        }
    }

    /// Whether the bytes from `offset` on have changed, and for how many bytes that holds: at least 1 and at most `length_max`.
    ///
    /// # Errors
    /// `NotFound` where no bitmap was negotiated; `InvalidInput` for a range that passes the end; `Disconnected`, `TimedOut`, and what the
    /// server answers.
    pub fn dirty_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        check_range(self.size_bytes(), offset, length_max.max(1))?;
        let none = || Error::not_found("the export was opened without a bitmap");
        let bitmap = self.facts.bitmap.ok_or_else(none)?;
        let mut known = self.changed.lock();
        if let Some((is_dirty, length)) = known.at(offset) {
            return Ok((is_dirty, length.min(length_max)));
        }
        let (start, extents) = self
            .load_extents(offset, (bitmap, self.facts.context))
            .at_path(self.uri.shown())?;
        let mut at = start;
        let mut ends = Vec::with_capacity(extents.len());
        for (length, flags) in extents {
            at = at.saturating_add(length).min(self.size_bytes());
            ends.push((at, flags.contains(DIRTY)));
        }
        *known = Known { start, ends };
        let (is_dirty, length) = known.at(offset).ok_or_else(|| {
            violation("the server reports no extent of the bitmap").at_path(self.uri.shown())
        })?;
        Ok((is_dirty, length.min(length_max)))
    }
}

#[cfg(test)]
mod tests {
    use super::Known;

    #[test]
    fn known_ranges_are_found_and_nothing_else() {
        let known = Known {
            start: 100,
            ends: vec![(200, true), (300, false)],
        };
        assert_eq!(known.at(99), None);
        assert_eq!(known.at(100), Some((true, 100)));
        assert_eq!(known.at(250), Some((false, 50)));
        assert_eq!(known.at(300), None);
    }
}
