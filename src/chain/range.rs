//! A resolved range: the extents of the clusters that one L2 table covers.

use super::extent::{Extent, ExtentLocation, LayerIndex};
use crate::error::{Error, Result};
use crate::qcow2::Mapping;
use crate::types::width::{u64_from_usize, usize_from_u32};
use crate::types::{ClusterBits, HostOffset};

/// Clusters in a range: entries of one L2 table at 64 KiB.
pub(super) const RANGE_CLUSTERS: u32 = 8192;
/// Guest bytes in a range (512 MiB).
pub(super) const RANGE_BYTES: u64 = ClusterBits::LAYER.size_bytes() * RANGE_CLUSTERS as u64;

/// Extents that cover `RANGE_CLUSTERS` clusters without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    extents: Vec<Extent>,
}

impl Range {
    /// Joins places of single clusters, in order, into extents.
    pub(super) fn join(places: impl IntoIterator<Item = ExtentLocation>) -> Self {
        let mut extents: Vec<Extent> = Vec::new();
        for (first, place) in (0..).zip(places) {
            if let Some(last) = extents.last_mut()
                && continues(last, &place)
            {
                last.count += 1;
                continue;
            }
            extents.push(Extent {
                first,
                count: 1,
                place,
            });
        }
        extents.shrink_to_fit();
        Self { extents }
    }

    /// Makes a range from the records of the flat map; `Corrupt` when they do not cover the range in order.
    pub(super) fn from_extents(extents: Vec<Extent>) -> Result<Self> {
        let mut next = 0;
        for extent in &extents {
            if extent.first != next || extent.count == 0 || extent.count > RANGE_CLUSTERS - next {
                return Err(Error::corrupt(
                    "extents of a range do not follow each other",
                    next,
                    extent.first,
                ));
            }
            next = extent.end();
        }
        if next != RANGE_CLUSTERS {
            return Err(Error::corrupt(
                "extents of a range do not cover it",
                RANGE_CLUSTERS,
                next,
            ));
        }
        Ok(Self { extents })
    }

    pub(super) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        u64_from_usize(self.extents.len() * size_of::<Extent>() + 128)
    }

    /// The extents from the one that holds `cluster` on.
    pub(super) fn starting_at(&self, cluster: u32) -> &[Extent] {
        let ix = self
            .extents
            .partition_point(|extent| extent.end() <= cluster);
        self.extents.get(ix..).unwrap_or_default()
    }
}

fn continues(last: &Extent, next: &ExtentLocation) -> bool {
    match (&last.place, next) {
        (ExtentLocation::Zero { layer: a }, ExtentLocation::Zero { layer: b }) => a == b,
        (ExtentLocation::Hole, ExtentLocation::Hole) => true,
        (ExtentLocation::Data { layer: a, host }, ExtentLocation::Data { layer: b, host: at }) => {
            a == b && host.0 + u64::from(last.count) * ClusterBits::LAYER.size_bytes() == at.0
        }
        _ => false,
    }
}

/// Resolves one range. The caller offers layers top first, until no cluster is open.
pub(super) struct Resolver {
    places: Vec<Option<ExtentLocation>>,
    /// Clusters below this number that are still unknown may lie in deeper layers.
    cap: u32,
    unknown: usize,
}

impl Resolver {
    pub(super) fn new() -> Self {
        Self {
            places: vec![None; usize_from_u32(RANGE_CLUSTERS)],
            cap: RANGE_CLUSTERS,
            unknown: usize_from_u32(RANGE_CLUSTERS),
        }
    }

    /// Limits the range to the clusters within a disk of `size_bytes`: where a layer ends, deeper layers
    /// cannot show through it.
    pub(super) fn limit(&mut self, size_bytes: u64, range: u64) {
        let clusters = ClusterBits::LAYER
            .clusters_for(size_bytes.saturating_sub(range.saturating_mul(RANGE_BYTES)));
        let cap = u32::try_from(clusters).unwrap_or(u32::MAX);
        if cap < self.cap {
            self.cap = cap;
            self.unknown = self
                .places
                .iter()
                .take(usize_from_u32(cap))
                .filter(|place| place.is_none())
                .count();
        }
    }

    /// Whether every cluster that a deeper layer could provide is known.
    pub(super) fn is_done(&self) -> bool {
        self.unknown == 0
    }

    /// Adds the mapping of cluster `index` in the table of one layer.
    pub(super) fn offer(&mut self, index: u32, layer: LayerIndex, mapping: Mapping) -> Result<()> {
        if index >= self.cap {
            return Ok(());
        }
        let Some(place @ None) = self.places.get_mut(usize_from_u32(index)) else {
            return Ok(());
        };
        let found = match mapping {
            Mapping::Unallocated => return Ok(()),
            Mapping::Zero { .. } => ExtentLocation::Zero { layer },
            Mapping::Data(host) => ExtentLocation::Data { layer, host },
            Mapping::Compressed(cluster) => ExtentLocation::Compressed {
                layer,
                host: HostOffset(cluster.host.0),
                length_bytes: cluster.length_bytes,
            },
            Mapping::Subclusters { .. } => {
                return Err(Error::corrupt(
                    "a layer has subclusters",
                    "whole clusters",
                    "an extended L2 entry",
                ));
            }
        };
        *place = Some(found);
        self.unknown -= 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Range {
        Range::join(
            self.places
                .into_iter()
                .map(|place| place.unwrap_or(ExtentLocation::Hole)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, ExtentLocation, LayerIndex, RANGE_BYTES, RANGE_CLUSTERS, Range, Resolver};
    use crate::qcow2::Mapping;
    use crate::types::HostOffset;

    #[test]
    fn the_top_layer_wins_and_contiguous_clusters_join() {
        let mut resolver = Resolver::new();
        resolver.limit(u64::MAX, 0);
        resolver
            .offer(1, LayerIndex(0), Mapping::Data(HostOffset(0x20000)))
            .unwrap();
        resolver
            .offer(1, LayerIndex(1), Mapping::Data(HostOffset(0x90000)))
            .unwrap();
        resolver
            .offer(2, LayerIndex(0), Mapping::Data(HostOffset(0x30000)))
            .unwrap();
        resolver
            .offer(3, LayerIndex(1), Mapping::Data(HostOffset(0x40000)))
            .unwrap();
        resolver
            .offer(5, LayerIndex(1), Mapping::Zero { host: None })
            .unwrap();
        let range = resolver.finish();
        let data = |first, count, layer, host| Extent {
            first,
            count,
            place: ExtentLocation::Data {
                layer: LayerIndex(layer),
                host: HostOffset(host),
            },
        };
        assert_eq!(
            range.extents(),
            [
                Extent {
                    first: 0,
                    count: 1,
                    place: ExtentLocation::Hole
                },
                data(1, 2, 0, 0x20000),
                data(3, 1, 1, 0x40000),
                Extent {
                    first: 4,
                    count: 1,
                    place: ExtentLocation::Hole
                },
                Extent {
                    first: 5,
                    count: 1,
                    place: ExtentLocation::Zero {
                        layer: LayerIndex(1)
                    }
                },
                Extent {
                    first: 6,
                    count: RANGE_CLUSTERS - 6,
                    place: ExtentLocation::Hole
                },
            ]
        );
        assert_eq!(range.starting_at(2).first().map(|e| e.first), Some(1));
        assert_eq!(
            Range::from_extents(range.extents().to_vec()).unwrap(),
            range
        );
        assert!(Range::from_extents(range.extents()[1..].to_vec()).is_err());
    }

    #[test]
    fn what_a_smaller_layer_does_not_cover_is_a_hole() {
        let mut resolver = Resolver::new();
        resolver.limit(RANGE_BYTES + 65_536 * 3, 1);
        resolver
            .offer(2, LayerIndex(1), Mapping::Data(HostOffset(0x20000)))
            .unwrap();
        resolver
            .offer(3, LayerIndex(1), Mapping::Data(HostOffset(0x30000)))
            .unwrap();
        let range = resolver.finish();
        assert_eq!(
            range.starting_at(3).first().map(|e| e.place),
            Some(ExtentLocation::Hole)
        );
    }
}
