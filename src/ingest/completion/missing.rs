//! Missing ranges: bytes that were handed in for a disk, could not be taken, and were not handed in
//! again.
//!
//! # Why
//! A disk that is written through the tree is finished once it is touched. When the kernel writes
//! back a shared mapping, or a tool ignores errors, nobody learns of a failed write: the disk would
//! be committed without those bytes.

use std::ops::Range;

use crate::error::{ErrorKind, Result};

/// LIMIT: separate ranges; beyond it they count as one range from the first to the last.
const RANGES_MAX: usize = 1024;

/// Ranges of bytes that a disk was given and does not have.
#[derive(Debug, Default, Clone)]
pub(super) struct Missing {
    ranges: Vec<(u64, u64)>,
    /// How the last write failed.
    kind: Option<ErrorKind>,
}

impl Missing {
    fn add(&mut self, from: u64, end: u64, kind: ErrorKind) {
        self.ranges.push((from, end));
        self.kind = Some(kind);
        if self.ranges.len() > RANGES_MAX {
            let first = self.ranges.iter().map(|r| r.0).min().unwrap_or(from);
            let last = self.ranges.iter().map(|r| r.1).max().unwrap_or(end);
            self.ranges = vec![(first, last)];
        }
    }

    /// Removes a range that has been written, or that no longer matters.
    pub(super) fn remove(&mut self, from: u64, end: u64) {
        if self.ranges.is_empty() {
            return;
        }
        let rest = self.ranges.iter().flat_map(|&(a, b)| {
            let before = (a, b.min(from));
            let after = (a.max(end), b);
            [before, after].into_iter().filter(|(a, b)| a < b)
        });
        self.ranges = rest.collect();
    }

    /// Records the result of writing a range.
    pub(super) fn note(&mut self, range: Range<u64>, result: &Result<()>) {
        match result {
            Ok(()) => self.remove(range.start, range.end),
            // A rule refused the write, and the writer got the error: nothing was begun.
            Err(e) if is_rule(e.kind()) => {}
            Err(e) => self.add(range.start, range.end, e.kind()),
        }
    }

    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first missing range (start, end), and the error of the last failed write.
    pub(super) fn first(&self) -> Option<(u64, u64, ErrorKind)> {
        let (from, end) = *self.ranges.first()?;
        Some((from, end, self.kind?))
    }
}

/// Whether an error refuses a write before it begins.
pub(super) const fn is_rule(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ReadOnly
            | ErrorKind::Busy
            | ErrorKind::Stale
            | ErrorKind::TooLarge
            | ErrorKind::InvalidInput
    )
}

#[cfg(test)]
mod tests {
    use super::{Missing, RANGES_MAX};
    use crate::error::ErrorKind;

    #[test]
    fn what_is_written_again_is_not_missed() {
        let mut missing = Missing::default();
        missing.add(100, 200, ErrorKind::NoSpace);
        missing.add(300, 400, ErrorKind::NoSpace);
        missing.remove(120, 130);
        assert_eq!(missing.ranges, [(100, 120), (130, 200), (300, 400)]);
        missing.remove(110, 350);
        missing.remove(400, u64::MAX);
        assert_eq!(missing.ranges, [(100, 110), (350, 400)]);
        missing.remove(0, 400);
        assert!(missing.is_empty());
        for n in 0..=RANGES_MAX as u64 {
            missing.add(n * 10, n * 10 + 1, ErrorKind::Io);
        }
        assert_eq!(missing.ranges, [(0, RANGES_MAX as u64 * 10 + 1)]);
    }
}
