//! A dirty bitmap that a server exports beside a disk (`qemu:dirty-bitmap:NAME`, `docs/interop/nbd.rst` of QEMU).
//!
//! # Invariants
//! - Nothing is guessed: a range whose state the server does not report is an error, never clean.

use super::Client;
use crate::block::{ReadAt, check_range};
use crate::error::{Error, Result, ResultExt};
use crate::nbd::proto::field::violation;
use crate::nbd::proto::flag::StatusFlags;
use crate::nbd::proto::uri::Uri;
use crate::types::sync::Mutex;

/// The prefix of the contexts of dirty bitmaps.
const CONTEXT: &str = "qemu:dirty-bitmap:";

/// The flag of an extent that has changed (NBD_STATE_DIRTY of QEMU).
const DIRTY: StatusFlags = StatusFlags::HOLE;

/// A dirty bitmap of an export, over connections of its own.
pub struct Bitmap {
    client: Client,
    /// Where the known range begins, and the ends of its extents with whether they have changed.
    known: Mutex<(u64, Vec<(u64, bool)>)>,
}

impl Bitmap {
    /// Connects to the export and negotiates the bitmap of this name.
    ///
    /// # Errors
    /// `NotFound` for an export without this bitmap; as [`Client::connect`].
    pub fn connect(uri: &Uri, name: &str) -> Result<Self> {
        let client = Client::connect_in(uri, &format!("{CONTEXT}{name}"))?;
        if client.facts.context.is_none() {
            return Err(Error::not_found(format!(
                "the export has no bitmap \"{}\"",
                name.escape_debug()
            ))
            .at_path(uri.shown())
            .advise("see what it has: nbdinfo URI"));
        }
        Ok(Self {
            client,
            known: Mutex::default(),
        })
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.client.size_bytes()
    }

    /// Whether the bytes from `offset` on have changed, and for how many bytes that holds: at least 1 and at most `length_max`.
    ///
    /// # Errors
    /// `InvalidInput` for a range that passes the end; `Disconnected`, `TimedOut`, and what the server answers.
    pub fn dirty_at(&self, offset: u64, length_max: u64) -> Result<(bool, u64)> {
        check_range(self.size_bytes(), offset, length_max.max(1))?;
        let mut known = self.known.lock();
        if let Some(found) = look(&known, offset) {
            return Ok((found.0, found.1.min(length_max)));
        }
        let (start, extents) = self
            .client
            .load_extents(offset)
            .at_path(self.client.uri.shown())?;
        let mut at = start;
        let mut ends = Vec::with_capacity(extents.len());
        for (length, flags) in extents {
            at = at.saturating_add(length).min(self.size_bytes());
            ends.push((at, flags.contains(DIRTY)));
        }
        *known = (start, ends);
        let found = look(&known, offset).ok_or_else(|| {
            violation("the server reports no extent of the bitmap").at_path(self.client.uri.shown())
        })?;
        Ok((found.0, found.1.min(length_max)))
    }
}

fn look((start, ends): &(u64, Vec<(u64, bool)>), offset: u64) -> Option<(bool, u64)> {
    if offset < *start {
        return None;
    }
    let at = ends.partition_point(|(end, _)| *end <= offset);
    let (end, is_dirty) = ends.get(at)?;
    Some((*is_dirty, end - offset))
}

#[cfg(test)]
mod tests {
    use super::look;

    #[test]
    fn known_ranges_are_found_and_nothing_else() {
        let known = (100, vec![(200, true), (300, false)]);
        assert_eq!(look(&known, 99), None);
        assert_eq!(look(&known, 100), Some((true, 100)));
        assert_eq!(look(&known, 250), Some((false, 50)));
        assert_eq!(look(&known, 300), None);
    }
}
