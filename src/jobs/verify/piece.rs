//! The data of a region of one layer in pieces, in the order in which they lie in the file.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::qcow2::{Image, Mapping};
use crate::repo::content::{CLUSTER_BYTES, LEAVES_PER_REGION, Region};
use crate::repo::sums::Touched;
use crate::types::width::u64_from_usize;
use crate::types::{Digest, HostOffset};

/// Clusters that are read at once.
pub(in crate::jobs) const RUN_CLUSTERS: usize = 16;
/// Clusters that a thread takes at once.
const PIECE_CLUSTERS: usize = 64;

/// Clusters that lie one after the other, in the disk and in the file.
#[derive(Clone, Copy)]
pub(in crate::jobs) struct Run {
    /// Position of the first one in its region.
    pub(in crate::jobs) first: usize,
    /// How many there are.
    pub(in crate::jobs) count: usize,
    /// Where the first one lies.
    pub(in crate::jobs) mapping: Mapping,
    /// Position of its leaf among those of the region.
    leaf: usize,
}

/// A piece of work for one thread.
pub(in crate::jobs) struct Piece {
    touched: Arc<Touched>,
    /// Its runs.
    pub(in crate::jobs) runs: Vec<Run>,
}

impl Piece {
    /// The region.
    #[must_use]
    pub(in crate::jobs) fn region(&self) -> Region {
        self.touched.region
    }

    /// The leaves of a run's clusters, as the sums have them.
    pub(in crate::jobs) fn leaves(&self, run: &Run) -> impl Iterator<Item = &[u8]> {
        let leaves = self.touched.leaves.chunks_exact(Digest::BYTES);
        leaves.skip(run.leaf)
    }

    /// Bytes of its clusters.
    #[must_use]
    pub(in crate::jobs) fn bytes(&self) -> u64 {
        let clusters: usize = self.runs.iter().map(|run| run.count).sum();
        u64_from_usize(clusters) * CLUSTER_BYTES
    }
}

/// The pieces of a region. A cluster whose place cannot be told goes to `fault`, with its position in the region; it is left out
/// unless `fault` returns an error.
///
/// # Errors
/// Those of `fault`.
pub(in crate::jobs) fn pieces(
    image: &Image,
    touched: &Arc<Touched>,
    fault: &mut dyn FnMut(usize, Error) -> Result<()>,
) -> Result<Vec<Piece>> {
    let table = image.load_l2(touched.region.0);
    let mapping = |index: usize| match &table {
        Ok(Some(table)) => table.mapping(u64_from_usize(index)),
        Ok(None) => Ok(Mapping::Unallocated),
        Err(e) => Err(Error::new(e.kind(), e.report())),
    };
    let mut runs: Vec<Run> = Vec::new();
    let held = (0..LEAVES_PER_REGION).filter(|index| touched.holds(*index));
    for (leaf, index) in held.enumerate() {
        let mapping = match mapping(index) {
            Ok(mapping) => mapping,
            Err(e) => {
                fault(index, e)?;
                continue;
            }
        };
        match runs.last_mut() {
            Some(last) if last.is_continued_by(index, mapping) => last.count += 1,
            _ => runs.push(Run {
                first: index,
                count: 1,
                mapping,
                leaf,
            }),
        }
    }
    runs.sort_by_key(Run::host);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut clusters = PIECE_CLUSTERS;
    for run in runs {
        if clusters + run.count > PIECE_CLUSTERS {
            clusters = 0;
            pieces.push(Piece {
                touched: Arc::clone(touched),
                runs: Vec::new(),
            });
        }
        clusters += run.count;
        if let Some(piece) = pieces.last_mut() {
            piece.runs.push(run);
        }
    }
    Ok(pieces)
}

impl Run {
    fn is_continued_by(&self, index: usize, next: Mapping) -> bool {
        self.count < RUN_CLUSTERS
            && self.first + self.count == index
            && match (self.mapping, next) {
                (Mapping::Data(_), Mapping::Data(next)) => {
                    self.single(self.count).host() == Some(next.get())
                }
                (Mapping::Zero { .. }, Mapping::Zero { .. }) => true,
                _ => false,
            }
    }

    /// Its `n`th cluster alone.
    #[must_use]
    pub(in crate::jobs) fn single(&self, n: usize) -> Self {
        let mapping = match self.mapping {
            Mapping::Data(host) => {
                Mapping::Data(HostOffset(host.get() + u64_from_usize(n) * CLUSTER_BYTES))
            }
            other => other,
        };
        Self {
            first: self.first + n,
            count: 1,
            mapping,
            leaf: self.leaf + n,
        }
    }

    /// Its offset in the file.
    #[must_use]
    pub(in crate::jobs) const fn host(&self) -> Option<u64> {
        match self.mapping {
            Mapping::Data(host) => Some(host.get()),
            Mapping::Compressed(place) => Some(place.host.get()),
            Mapping::Zero { .. } | Mapping::Unallocated | Mapping::Subclusters { .. } => None,
        }
    }
}
