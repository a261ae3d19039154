//! Harm: ranges of points' disks whose bytes are not what was committed.
//!
//! # Why
//! A mount shows such bytes as they are. A tree that is told of the harm refuses to read them, so that everything which depends on
//! them can be named.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::types::PointId;

/// Harmed ranges of the disks of points.
#[derive(Debug, Default)]
pub struct Harm {
    /// By point and position of the disk: byte ranges, ascending, without overlaps.
    ranges: HashMap<(PointId, usize), Vec<Range<u64>>>,
    refused: AtomicU64,
}

impl Harm {
    /// Adds ranges of a disk, by the position of the disk in its point.
    pub fn add(
        &mut self,
        point: PointId,
        disk: usize,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) {
        let of_disk = self.ranges.entry((point, disk)).or_default();
        of_disk.extend(ranges);
        of_disk.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(of_disk.len());
        for range in of_disk.drain(..) {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        *of_disk = joined;
    }

    /// The first harmed byte in a range of a disk.
    #[must_use]
    pub fn first_in(
        &self,
        point: PointId,
        disk: usize,
        offset: u64,
        length_bytes: u64,
    ) -> Option<u64> {
        let ranges = self.ranges.get(&(point, disk))?;
        let end = offset.saturating_add(length_bytes);
        let at = ranges.partition_point(|range| range.end <= offset);
        let found = ranges.get(at).filter(|range| range.start < end)?;
        Some(found.start.max(offset))
    }

    /// Refuses a range with harmed bytes.
    ///
    /// # Errors
    /// `Corrupt` naming the first of them.
    pub(super) fn check(
        &self,
        point: PointId,
        disk: usize,
        offset: u64,
        length_bytes: u64,
    ) -> Result<()> {
        match self.first_in(point, disk, offset, length_bytes) {
            None => Ok(()),
            Some(at) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let expected = "the content of the backup";
                Err(
                    Error::corrupt("a damaged part of the disk is not read", expected, "damage")
                        .at_offset(at),
                )
            }
        }
    }

    /// Number of refused reads so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Harm;
    use crate::types::PointId;

    #[test]
    fn ranges_are_joined_and_found() {
        let point = PointId::random();
        let mut harm = Harm::default();
        harm.add(point, 1, [20..30, 0..5, 4..10, 40..50]);
        harm.add(point, 1, std::iter::once(30..35));
        let first = |offset, length| harm.first_in(point, 1, offset, length);
        assert_eq!(first(0, 1), Some(0));
        assert_eq!(first(9, 1), Some(9));
        assert_eq!(first(10, 10), None);
        assert_eq!(first(10, 11), Some(20));
        assert_eq!(first(34, 100), Some(34));
        assert_eq!(first(35, 5), None);
        assert_eq!(first(45, u64::MAX), Some(45));
        assert_eq!(first(50, u64::MAX), None);
        assert_eq!(harm.first_in(point, 0, 0, u64::MAX), None);
        harm.check(point, 1, 10, 10).unwrap();
        assert_eq!(harm.refused(), 0);
        let error = harm.check(point, 1, 10, 11).unwrap_err();
        assert!(error.report().contains("20"), "{}", error.report());
        assert_eq!(harm.refused(), 1);
    }
}
