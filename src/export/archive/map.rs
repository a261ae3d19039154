//! The data of a file: the segments that an archive contains.
//!
//! # Invariants
//! - Segments are in order, do not touch, begin at multiples of 512 bytes and end at one or at the file's end.
//! - The gaps between them are known to read as zero; everything else is data.

use crate::block::ReadAt;
use crate::error::{Error, Result};

/// Segments begin and end at multiples of this, to which a tar pads each.
const GRAIN_BYTES: u64 = 512;
/// LIMIT: segments of one file; everything behind the last is data.
const SEGMENTS_MAX: usize = 1 << 16;
/// LIMIT: extents to query; everything behind the last is data.
const EXTENTS_MAX: usize = 1 << 20;

/// The data segments of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) size_bytes: u64,
    /// Offset and length, in bytes.
    pub(super) segments: Vec<(u64, u64)>,
}

impl Map {
    /// Queries the data extents of a file. `go_on` is called between the extents.
    ///
    /// # Errors
    /// Errors of querying an extent, and of `go_on`.
    pub(super) fn load(content: &dyn ReadAt, go_on: &dyn Fn() -> Result<()>) -> Result<Self> {
        let size_bytes = content.size_bytes();
        let mut map = Self {
            size_bytes,
            segments: Vec::new(),
        };
        let mut at = 0;
        let mut extents = 0;
        while at < size_bytes {
            go_on()?;
            let left = size_bytes - at;
            if extents == EXTENTS_MAX || map.segments.len() >= SEGMENTS_MAX {
                map.add(at, size_bytes);
                break;
            }
            let extent = content.extent_at(at, left)?;
            if extent.length_bytes == 0 || extent.length_bytes > left {
                return Err(Error::corrupt(
                    "the length of an extent",
                    format!("1 to {left}"),
                    extent.length_bytes,
                )
                .at_offset(at));
            }
            let end = at + extent.length_bytes;
            if !extent.kind.reads_zero() {
                map.add(at, end);
            }
            at = end;
            extents += 1;
        }
        Ok(map)
    }

    /// Adds a range of data behind the present ones.
    fn add(&mut self, start: u64, end: u64) {
        let start = start - start % GRAIN_BYTES;
        let end = end
            .checked_next_multiple_of(GRAIN_BYTES)
            .unwrap_or(self.size_bytes)
            .min(self.size_bytes);
        match self.segments.last_mut() {
            Some((at, length)) if *at + *length >= start => *length = (end - *at).max(*length),
            _ => self.segments.push((start, end - start)),
        }
    }

    /// Whether no range is known to be zero.
    pub(super) fn is_dense(&self) -> bool {
        self.data_bytes() == self.size_bytes
    }

    /// Bytes in all segments.
    pub(super) fn data_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Map;
    use crate::block::extent::{Extent, ExtentKind};
    use crate::block::{ReadAt, check_range};
    use crate::error::Result;

    /// A file with given extents: (is data, length).
    struct Given(Vec<(bool, u64)>);

    impl ReadAt for Given {
        fn size_bytes(&self) -> u64 {
            self.0.iter().map(|(_, length)| length).sum()
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
            check_range(self.size_bytes(), offset, length_max)?;
            let mut end = 0;
            for (data, length) in &self.0 {
                end += length;
                if offset < end {
                    let kind = if *data {
                        ExtentKind::Data
                    } else {
                        ExtentKind::Hole
                    };
                    return Ok(Extent {
                        kind,
                        length_bytes: (end - offset).min(length_max),
                    });
                }
            }
            Ok(Extent {
                kind: ExtentKind::Data,
                length_bytes: 0,
            })
        }
    }

    fn map(extents: &[(bool, u64)]) -> Map {
        Map::load(&Given(extents.to_vec()), &|| Ok(())).unwrap()
    }

    #[test]
    fn segments_are_whole_blocks() {
        assert_eq!(map(&[]).segments, []);
        assert_eq!(map(&[(false, 10_000)]).segments, []);
        assert_eq!(map(&[(true, 700)]).segments, [(0, 700)]);
        assert!(map(&[(true, 700)]).is_dense());
        let sparse = map(&[(true, 100), (false, 5000), (true, 1), (false, 10_000)]);
        assert_eq!(sparse.segments, [(0, 512), (4608, 512)]);
        assert!(!sparse.is_dense());
        // A hole that contains no whole block is ignored.
        let close = map(&[(true, 500), (false, 100), (true, 500)]);
        assert_eq!(close.segments, [(0, 1100)]);
        assert!(close.is_dense());
        assert_eq!(map(&[(false, 512), (true, 3)]).segments, [(512, 3)]);
    }

    #[test]
    fn a_file_in_crumbs_has_a_bounded_map() {
        struct Crumbs(u64);
        impl ReadAt for Crumbs {
            fn size_bytes(&self) -> u64 {
                self.0
            }
            fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
                Ok(())
            }
            fn extent_at(&self, offset: u64, _: u64) -> Result<Extent> {
                let kind = if (offset / 512).is_multiple_of(2) {
                    ExtentKind::Data
                } else {
                    ExtentKind::Hole
                };
                Ok(Extent {
                    kind,
                    length_bytes: 512,
                })
            }
        }
        let size = 200_000 * 512;
        let map = Map::load(&Crumbs(size), &|| Ok(())).unwrap();
        assert_eq!(map.segments.len(), super::SEGMENTS_MAX);
        let (at, length) = map.segments[map.segments.len() - 1];
        assert_eq!(at + length, size);
    }
}
