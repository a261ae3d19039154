//! Missing: bytes of a disk that were handed in, could not be taken, and were not handed in again.
//!
//! # Why
//! A disk that is written through the tree is finished once it is touched. When the kernel writes back a shared mapping, or a tool does
//! not look at its errors, a write fails and nobody hears of it: the disk would be committed without it.

use std::ops::Range;
use std::sync::MutexGuard;

use super::disk::DiskWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::types::sync::Mutex;

/// LIMIT: ranges that are told apart; beyond it they count as one from the first to the last.
const RANGES_MAX: usize = 1024;

/// Ranges of bytes, and how the last write failed.
type Ranges = (Vec<(u64, u64)>, Option<ErrorKind>);

/// Ranges of bytes that a disk was given and does not have.
#[derive(Debug, Default)]
pub(super) struct Missing(Mutex<Ranges>);

impl Missing {
    fn inner(&self) -> MutexGuard<'_, Ranges> {
        self.0.lock()
    }

    fn add(&self, from: u64, end: u64, kind: ErrorKind) {
        let mut inner = self.inner();
        inner.0.push((from, end));
        inner.1 = Some(kind);
        if inner.0.len() > RANGES_MAX {
            let first = inner.0.iter().map(|r| r.0).min().unwrap_or(from);
            let last = inner.0.iter().map(|r| r.1).max().unwrap_or(end);
            inner.0 = vec![(first, last)];
        }
    }

    /// These are there now, or mean nothing any more.
    fn remove(&self, from: u64, end: u64) {
        let mut inner = self.inner();
        if inner.0.is_empty() {
            return;
        }
        let rest = inner.0.iter().flat_map(|&(a, b)| {
            let before = (a, b.min(from));
            let after = (a.max(end), b);
            [before, after].into_iter().filter(|(a, b)| a < b)
        });
        inner.0 = rest.collect();
    }

    pub(super) fn clear(&self) {
        self.inner().0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner().0.is_empty()
    }

    /// Takes over what another misses, whose disk goes on as this one.
    pub(super) fn adopt(&self, other: &Self) {
        let (ranges, kind) = &*other.inner();
        *self.inner() = (ranges.clone(), *kind);
    }
}

impl DiskWriter {
    /// What became of bytes that were handed in as into a file: taken, the disk is finished; not taken, it is not until they were handed in
    /// again, cut off, or it is declared so.
    ///
    /// # Errors
    /// The one that is handed in.
    pub fn note_handed_in(&self, offset: u64, length_bytes: u64, result: Result<()>) -> Result<()> {
        let end = offset.saturating_add(length_bytes);
        self.note_range(offset..end, &result);
        match &result {
            Ok(()) => self.finish_touched(),
            Err(e) if is_rule(e.kind()) => {}
            Err(_) => {
                self.finish.set(false);
                self.word.say(false);
            }
        }
        result
    }

    /// A range was written, or could not be. QEMU's programs say a proper goodbye also after ENOSPC.
    pub(super) fn note_range(&self, range: Range<u64>, result: &Result<()>) {
        match result {
            Ok(()) => self.missing.remove(range.start, range.end),
            // Refused by a rule that who writes is told of: nothing was begun.
            Err(e) if is_rule(e.kind()) => {}
            Err(e) => self.missing.add(range.start, range.end, e.kind()),
        }
    }

    /// The file ends there now: nothing is missed behind it.
    pub fn note_cut(&self, size_bytes: u64) {
        self.missing.remove(size_bytes, u64::MAX);
        self.finish_touched();
    }

    fn finish_touched(&self) {
        // Not in the log: only who syncs, or says so, has come to an end for all that can be known after a crash.
        if self.missing.is_empty() && !self.finish.is_finished() {
            self.finish.set(true);
        }
    }

    /// Refuses a disk that misses something.
    pub(super) fn check_missing(&self) -> Result<()> {
        let inner = self.missing.inner();
        let (Some((from, end)), Some(kind)) = (inner.0.first(), inner.1) else {
            return Ok(());
        };
        let name = &self.meta.name;
        Err(Error::new(
            kind,
            format!("bytes {from} to {end} of disk {name} could not be written, and were not written again"),
        )
        .advise(format!(
            "write them again; if the disk is as it should be, say so: touch {name}.raw"
        )))
    }
}

const fn is_rule(kind: ErrorKind) -> bool {
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
        let missing = Missing::default();
        missing.add(100, 200, ErrorKind::NoSpace);
        missing.add(300, 400, ErrorKind::NoSpace);
        missing.remove(120, 130);
        assert_eq!(missing.inner().0, [(100, 120), (130, 200), (300, 400)]);
        missing.remove(110, 350);
        missing.remove(400, u64::MAX);
        assert_eq!(missing.inner().0, [(100, 110), (350, 400)]);
        missing.remove(0, 400);
        assert!(missing.is_empty());
        for n in 0..=RANGES_MAX as u64 {
            missing.add(n * 10, n * 10 + 1, ErrorKind::Io);
        }
        assert_eq!(missing.inner().0, [(0, RANGES_MAX as u64 * 10 + 1)]);
    }
}
