//! Run maps: where the bytes of an object lie in the objects below it.
//!
//! A partition, an LV, an array and a guest's file are each a list of runs over the objects below them. Maps
//! compose: a file's bytes are located on the disk, and the disk's bytes in its layers, and are read there
//! directly.
//!
//! # Invariants
//! Runs are sorted, do not overlap, cover the object from 0 to its size without a gap, and none is empty.
//! Neighbouring runs that continue each other are merged.

use std::sync::Arc;

use super::{Extent, ExtentKind, ReadAt, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// The location of the bytes of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<S> {
    /// At `offset` of `source`, unchanged.
    Source {
        /// The object below.
        source: S,
        /// Byte offset in it.
        offset: u64,
    },
    /// Nowhere: the bytes are zero.
    Hole,
    /// In the map itself.
    Inline(Arc<[u8]>),
    /// Only the reader that made the map can produce the bytes (compressed, replayed from a journal,
    /// checksummed).
    Encoded,
}

impl<S: Copy> Target<S> {
    /// The target of the same run, `by` bytes further on.
    fn advanced(&self, by: u64) -> Self {
        match self {
            Self::Source { source, offset } => Self::Source {
                source: *source,
                offset: offset + by,
            },
            Self::Hole => Self::Hole,
            Self::Inline(bytes) => {
                Self::Inline(bytes.get(usize_from_u64(by)..).unwrap_or_default().into())
            }
            Self::Encoded => Self::Encoded,
        }
    }
}

/// `length_bytes` bytes of an object from `start` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run<S> {
    /// Byte offset in the object.
    pub start: u64,
    /// Length in bytes, at least 1.
    pub length_bytes: u64,
    /// Location of the bytes.
    pub target: Target<S>,
}

impl<S: Copy> Run<S> {
    /// First byte after the run.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.length_bytes
    }

    /// The part of the run within `[offset, offset + length_max)`; `None` when it is empty.
    #[must_use]
    pub fn clip(&self, offset: u64, length_max: u64) -> Option<Self> {
        let start = self.start.max(offset);
        let end = self.end().min(offset.saturating_add(length_max));
        (start < end).then(|| {
            let mut target = self.target.advanced(start - self.start);
            if let Target::Inline(bytes) = &mut target {
                *bytes = bytes
                    .get(..usize_from_u64(end - start))
                    .unwrap_or(bytes)
                    .into();
            }
            Self {
                start,
                length_bytes: end - start,
                target,
            }
        })
    }
}

/// The runs of a whole object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMap<S> {
    size_bytes: u64,
    runs: Vec<Run<S>>,
}

impl<S: Copy + PartialEq> RunMap<S> {
    /// Makes a map of `size_bytes` from runs in order. Gaps become holes; runs are cut at the size.
    ///
    /// # Errors
    /// `Corrupt` when runs overlap or are out of order, or an offset passes 2^63.
    pub fn new(size_bytes: u64, runs: impl IntoIterator<Item = Run<S>>) -> Result<Self> {
        let mut map = Self {
            size_bytes,
            runs: Vec::new(),
        };
        let mut end = 0;
        for run in runs {
            if run.length_bytes == 0 || run.start >= size_bytes {
                continue;
            }
            if run.start < end {
                return Err(Error::corrupt(
                    "runs overlap",
                    format!("a start of at least {end}"),
                    run.start,
                ));
            }
            let source_end = match run.target {
                Target::Source { offset, .. } => offset.checked_add(run.length_bytes),
                _ => Some(0),
            };
            let last = run.start.checked_add(run.length_bytes);
            if last.is_none() || source_end.is_none_or(|e| e > 1 << 63) {
                return Err(Error::corrupt(
                    "a run is out of range",
                    "an end below 2^63",
                    run.start,
                ));
            }
            if run.start > end {
                map.push(Run {
                    start: end,
                    length_bytes: run.start - end,
                    target: Target::Hole,
                });
            }
            if let Some(run) = run.clip(0, size_bytes) {
                end = run.end();
                map.push(run);
            }
        }
        if end < size_bytes {
            map.push(Run {
                start: end,
                length_bytes: size_bytes - end,
                target: Target::Hole,
            });
        }
        Ok(map)
    }

    /// A map of one run: `length_bytes` at `offset` of `source`. A partition is one.
    #[must_use]
    pub fn linear(source: S, offset: u64, length_bytes: u64) -> Self {
        let runs = if length_bytes == 0 {
            Vec::new()
        } else {
            vec![Run {
                start: 0,
                length_bytes,
                target: Target::Source { source, offset },
            }]
        };
        Self {
            size_bytes: length_bytes,
            runs,
        }
    }

    fn push(&mut self, run: Run<S>) {
        if let Some(last) = self.runs.last_mut() {
            let continues = match (&last.target, &run.target) {
                (
                    Target::Source {
                        source: a,
                        offset: at,
                    },
                    Target::Source {
                        source: b,
                        offset: next,
                    },
                ) => a == b && at + last.length_bytes == *next,
                (Target::Hole, Target::Hole) | (Target::Encoded, Target::Encoded) => true,
                _ => false,
            };
            if continues && last.end() == run.start {
                last.length_bytes += run.length_bytes;
                return;
            }
        }
        self.runs.push(run);
    }

    /// Size of the object in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// All runs in order.
    #[must_use]
    pub fn runs(&self) -> &[Run<S>] {
        &self.runs
    }

    /// The rest of the run at `offset`, at most `length_max` bytes of it; `None` at or past the end.
    #[must_use]
    pub fn run_at(&self, offset: u64, length_max: u64) -> Option<Run<S>> {
        let ix = self.runs.partition_point(|r| r.end() <= offset);
        self.runs.get(ix)?.clip(offset, length_max)
    }

    /// Translates the map to the objects below its sources: each source run is replaced by the runs that
    /// `below` gives for that range of that source.
    ///
    /// # Errors
    /// `Corrupt` when a run passes the end of its source; errors of `below`.
    pub fn compose<T: Copy + PartialEq>(
        &self,
        mut below: impl FnMut(S, u64, u64) -> Result<Option<Run<T>>>,
    ) -> Result<RunMap<T>> {
        let mut out = RunMap {
            size_bytes: self.size_bytes,
            runs: Vec::new(),
        };
        for run in &self.runs {
            match &run.target {
                Target::Source { source, offset } => {
                    let mut done = 0;
                    while done < run.length_bytes {
                        let at = offset + done;
                        let Some(piece) = below(*source, at, run.length_bytes - done)? else {
                            return Err(Error::new(
                                ErrorKind::Corrupt,
                                "a run passes the end of what it lies on",
                            )
                            .at_offset(at));
                        };
                        out.push(Run {
                            start: run.start + done,
                            length_bytes: piece.length_bytes,
                            target: piece.target,
                        });
                        done += piece.length_bytes;
                    }
                }
                Target::Hole => out.push(Run {
                    start: run.start,
                    length_bytes: run.length_bytes,
                    target: Target::Hole,
                }),
                Target::Encoded => {
                    out.push(Run {
                        start: run.start,
                        length_bytes: run.length_bytes,
                        target: Target::Encoded,
                    });
                }
                Target::Inline(bytes) => out.push(Run {
                    start: run.start,
                    length_bytes: run.length_bytes,
                    target: Target::Inline(Arc::clone(bytes)),
                }),
            }
        }
        Ok(out)
    }
}

/// Reads an object through its run map. Sources are indices into `sources`.
pub struct RunReader {
    map: Arc<RunMap<usize>>,
    sources: Vec<Arc<dyn ReadAt>>,
    encoded: Option<Arc<dyn ReadAt>>,
}

impl RunReader {
    /// Joins a map with its sources. `encoded` provides the runs that only a reader can produce, at the
    /// object's own offsets.
    #[must_use]
    pub fn new(
        map: impl Into<Arc<RunMap<usize>>>,
        sources: Vec<Arc<dyn ReadAt>>,
        encoded: Option<Arc<dyn ReadAt>>,
    ) -> Self {
        Self {
            map: map.into(),
            sources,
            encoded,
        }
    }

    fn source(&self, index: usize) -> Result<&Arc<dyn ReadAt>> {
        self.sources
            .get(index)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "what this object lies on is missing"))
    }

    fn encoded(&self) -> Result<&Arc<dyn ReadAt>> {
        self.encoded.as_ref().ok_or_else(|| {
            Error::unsupported("these bytes are encoded and there is no reader for them")
        })
    }
}

impl ReadAt for RunReader {
    fn size_bytes(&self) -> u64 {
        self.map.size_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.map.size_bytes, offset, u64_from_usize(buf.len()))?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + u64_from_usize(done);
            let rest = u64_from_usize(buf.len() - done);
            let Some(run) = self.map.run_at(at, rest) else {
                return Err(Error::new(ErrorKind::Corrupt, "the run map has a gap").at_offset(at));
            };
            let length = usize_from_u64(run.length_bytes);
            let Some(part) = buf.get_mut(done..done + length) else {
                return Err(
                    Error::new(ErrorKind::Corrupt, "a run is longer than was asked for")
                        .at_offset(at),
                );
            };
            match run.target {
                Target::Source { source, offset } => self.source(source)?.read_at(offset, part)?,
                Target::Hole => part.fill(0),
                Target::Encoded => self.encoded()?.read_at(at, part)?,
                Target::Inline(bytes) => match bytes.get(..length) {
                    Some(bytes) => part.copy_from_slice(bytes),
                    None => {
                        return Err(Error::new(ErrorKind::Corrupt, "inline bytes are too short")
                            .at_offset(at));
                    }
                },
            }
            done += length;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, length_max: u64) -> Result<Extent> {
        check_range(self.map.size_bytes, offset, length_max)?;
        let Some(run) = self.map.run_at(offset, length_max) else {
            return Err(Error::invalid("an extent of no bytes was asked for").at_offset(offset));
        };
        let data = Extent {
            kind: ExtentKind::Data,
            length_bytes: run.length_bytes,
        };
        match run.target {
            Target::Source { source, offset } => {
                self.source(source)?.extent_at(offset, run.length_bytes)
            }
            Target::Hole => Ok(Extent {
                kind: ExtentKind::Hole,
                ..data
            }),
            Target::Encoded | Target::Inline(_) => Ok(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Run, RunMap, Target};
    use crate::error::ErrorKind;

    fn source(start: u64, length_bytes: u64, source: usize, offset: u64) -> Run<usize> {
        Run {
            start,
            length_bytes,
            target: Target::Source { source, offset },
        }
    }

    #[test]
    fn gaps_become_holes_and_neighbours_merge() {
        let map = RunMap::new(
            100,
            [
                source(10, 10, 0, 0),
                source(20, 5, 0, 10),
                source(90, 50, 1, 7),
            ],
        )
        .unwrap();
        assert_eq!(map.runs().len(), 4);
        assert_eq!(map.run_at(12, 100).unwrap(), source(12, 13, 0, 2));
        assert_eq!(map.run_at(99, 100).unwrap(), source(99, 1, 1, 16));
        assert!(map.run_at(100, 1).is_none());
    }

    #[test]
    fn overlap_is_corrupt() {
        let error = RunMap::new(100, [source(0, 10, 0, 0), source(9, 1, 0, 0)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(RunMap::new(100, [source(0, u64::MAX, 0, 2)]).is_err());
    }

    #[test]
    fn maps_compose_down_to_the_lowest_floor() {
        // The file lies on a partition that begins at 1000 of a disk whose first 1020 bytes lie in layer 7.
        let file = RunMap::new(40, [source(0, 30, 0, 10)]).unwrap();
        let disk = RunMap::new(2000, [source(0, 1020, 7, 5000)]).unwrap();
        let composed = file
            .compose(|_, offset, length| Ok(disk.run_at(1000 + offset, length)))
            .unwrap();
        assert_eq!(
            composed.runs(),
            [
                source(0, 10, 7, 6010),
                Run {
                    start: 10,
                    length_bytes: 30,
                    target: Target::Hole
                }
            ]
        );
    }
}
