//! A range of the export with known extents, kept until the next write.

use crate::block::{Extent, ExtentKind};
use crate::nbd::proto::flag::StatusFlags;

/// A range with known extents.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Its start, in bytes.
    start: u64,
    /// Ends of its extents, in bytes of the export, in order, with their kinds; neighbours differ in kind.
    ends: Vec<(u64, ExtentKind)>,
}

impl Window {
    /// The extents of a reply from `start` on, cut at `end_max`.
    pub(super) fn new(start: u64, extents: &[(u64, StatusFlags)], end_max: u64) -> Self {
        let mut ends: Vec<(u64, ExtentKind)> = Vec::with_capacity(extents.len());
        let mut at = start;
        for (length, flags) in extents {
            at = at.saturating_add(*length).min(end_max);
            // A hole that does not read as zero must be read.
            let kind = match (
                flags.contains(StatusFlags::ZERO),
                flags.contains(StatusFlags::HOLE),
            ) {
                (true, true) => ExtentKind::Hole,
                (true, false) => ExtentKind::Zero,
                (false, _) => ExtentKind::Data,
            };
            match ends.last_mut() {
                Some(last) if last.1 == kind => last.0 = at,
                Some(last) if last.0 == at => break,
                _ => ends.push((at, kind)),
            }
        }
        Self { start, ends }
    }

    /// The known extent at `offset`, at most `length_max` bytes of it.
    pub(super) fn at(&self, offset: u64, length_max: u64) -> Option<Extent> {
        if offset < self.start {
            return None;
        }
        let ix = self.ends.partition_point(|(end, _)| *end <= offset);
        let (end, kind) = self.ends.get(ix)?;
        Some(Extent {
            kind: *kind,
            length_bytes: (end - offset).min(length_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Window;
    use crate::block::{Extent, ExtentKind};
    use crate::nbd::proto::flag::StatusFlags;

    #[test]
    fn extents_are_merged_and_cut() {
        let (hole, zero) = (StatusFlags::HOLE, StatusFlags::ZERO);
        let none = StatusFlags::empty();
        let offered = [
            (512, none),
            (512, hole),
            (1024, zero | hole),
            (u64::MAX, zero),
            (9, none),
        ];
        let window = Window::new(4096, &offered, 8192);
        let extent = |kind, length_bytes| Some(Extent { kind, length_bytes });
        assert_eq!(window.at(4095, 10), None);
        assert_eq!(window.at(4096, 4096), extent(ExtentKind::Data, 1024));
        assert_eq!(window.at(4608, 4), extent(ExtentKind::Data, 4));
        assert_eq!(window.at(5120, 4096), extent(ExtentKind::Hole, 1024));
        assert_eq!(window.at(7000, 4096), extent(ExtentKind::Zero, 1192));
        assert_eq!(window.at(8192, 1), None);
    }
}
