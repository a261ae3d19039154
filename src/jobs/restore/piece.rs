//! Cuts a disk into pieces by its leaves: zeroes, which are never read, and data in steps that fit a processor's cache.

use crate::error::Result;
use crate::point::{LeafPage, ProvedDisk};
use crate::repo::content::{CLUSTER_BYTES, REGION_BYTES, Region};
use crate::types::GuestCluster;

/// Bytes of data in one piece at most; pieces of data end at multiples of it.
pub const STEP_BYTES: u64 = 256 << 10;

/// A piece of a disk: it begins a cluster, and lies within one region.
pub struct Piece {
    /// Where it begins, in bytes.
    pub at: u64,
    /// Its length in bytes: whole clusters, except at the end of the disk.
    pub length_bytes: u64,
    /// The leaves of its region where all of its clusters have data; `None` where all of them are zeroes.
    pub data: Option<LeafPage>,
}

/// The pieces of a disk, in order. The leaves of a region are loaded once, and shared by the region's pieces.
pub struct Pieces<'d> {
    disk: &'d ProvedDisk,
    at: u64,
    zero_bytes_max: u64,
    page: Option<(Region, Option<LeafPage>)>,
}

impl<'d> Pieces<'d> {
    /// The pieces of `disk`, whose pieces of zeroes have at most `zero_bytes_max`, a whole number of clusters.
    pub const fn new(disk: &'d ProvedDisk, zero_bytes_max: u64) -> Self {
        Self {
            disk,
            at: 0,
            zero_bytes_max,
            page: None,
        }
    }

    /// The next piece; `None` at the end of the disk.
    ///
    /// # Errors
    /// `Corrupt` when the sums do not give a region's hash; `Io`.
    pub fn take(&mut self) -> Result<Option<Piece>> {
        let (at, size_bytes) = (self.at, self.disk.size_bytes());
        if at >= size_bytes {
            return Ok(None);
        }
        let region = Region::at(at);
        let to_end = (REGION_BYTES - at % REGION_BYTES).min(size_bytes - at);
        let zero_max = to_end.min(self.zero_bytes_max);
        let data_max = to_end.min(STEP_BYTES - at % STEP_BYTES);
        let piece = match self.page(region)? {
            None => Piece {
                at,
                length_bytes: zero_max,
                data: None,
            },
            Some(page) => {
                let cluster = GuestCluster(at / CLUSTER_BYTES);
                let is_zero = page.is_zero(cluster)?;
                let most = if is_zero { zero_max } else { data_max };
                let clusters = page.run(cluster, most.div_ceil(CLUSTER_BYTES))?;
                Piece {
                    at,
                    length_bytes: most.min(clusters * CLUSTER_BYTES),
                    data: (!is_zero).then(|| page.clone()),
                }
            }
        };
        self.at += piece.length_bytes;
        Ok(Some(piece))
    }

    fn page(&mut self, region: Region) -> Result<Option<&LeafPage>> {
        if self.page.as_ref().is_none_or(|(of, _)| *of != region) {
            self.page = Some((region, self.disk.leaf_page(region)?));
        }
        Ok(self.page.as_ref().and_then(|(_, page)| page.as_ref()))
    }
}
