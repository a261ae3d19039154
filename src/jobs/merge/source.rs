//! The layers that are merged, with their sums.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::Image;
use crate::repo::content::{CLUSTER, LEAVES_PER_REGION, Region};
use crate::repo::layer_file::LayerFile;
use crate::repo::sums::{LayerSums, Touched};
use crate::repo::{Repository, Slot};
use crate::types::width::{u64_from_usize, usize_from_u64};
use crate::types::{LayerId, VmName};

/// One layer of an interval.
pub(super) struct SourceLayer {
    pub(super) slot: Slot,
    pub(super) layer: LayerId,
    pub(super) below: Option<Slot>,
    pub(super) image: Image,
    pub(super) sums: LayerSums,
}

impl SourceLayer {
    /// Opens the layer in a slot, and proves its header.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`.
    pub(super) fn open(repository: &Repository, vm: &VmName, slot: &Slot) -> Result<Self> {
        let file = LayerFile::open(repository, vm, slot)?;
        let sums = file.prove_header(repository, vm, slot)?;
        Ok(Self {
            slot: slot.clone(),
            layer: file.layer,
            below: file.below,
            image: Image::open(Arc::clone(&file.file))?,
            sums,
        })
    }

    /// Clusters of a region that the layer's disk has.
    fn clusters_in(&self, region: Region) -> usize {
        let clusters = CLUSTER
            .clusters_for(self.image.size_bytes())
            .saturating_sub(region.first_cluster().0);
        usize_from_u64(clusters.min(u64_from_usize(LEAVES_PER_REGION)))
    }
}

/// What an interval holds of one region.
pub(super) struct RegionView {
    /// For each cluster, the position of the topmost layer that holds it.
    pub(super) holder: Vec<Option<usize>>,
    /// The leaves of held clusters, as the sums have them.
    touched: Vec<Option<Touched>>,
}

impl RegionView {
    /// Looks at a region of layers, top first; `None` when none of them holds anything of it.
    ///
    /// # Errors
    /// `Corrupt` (the sums), `Io`.
    pub(super) fn of(sources: &[SourceLayer], region: Region) -> Result<Option<Self>> {
        let mut holder = vec![None; LEAVES_PER_REGION];
        let mut touched = Vec::with_capacity(sources.len());
        // Where a layer ends, deeper layers cannot show through it.
        let mut end = LEAVES_PER_REGION;
        for (position, source) in sources.iter().enumerate() {
            end = end.min(source.clusters_in(region));
            let found = source.sums.load_region(region)?;
            if let Some(found) = &found {
                for (index, place) in holder.iter_mut().enumerate().take(end) {
                    if place.is_none() && found.holds(index) {
                        *place = Some(position);
                    }
                }
            }
            touched.push(found);
        }
        let is_held = holder.iter().any(Option::is_some);
        Ok(is_held.then_some(Self { holder, touched }))
    }

    /// Writes the leaves of held clusters into a page.
    pub(super) fn spread(&self, page: &mut [u8]) {
        for (position, touched) in self.touched.iter().enumerate() {
            if let Some(touched) = touched {
                touched.spread(page, |index| {
                    self.holder.get(index).copied().flatten() == Some(position)
                });
            }
        }
    }
}

/// For each of the first `starts` layers, the clusters of it and of the layers below it that stay when the part that begins
/// there becomes one layer: `kept[from][n]` is of layer `from + n`, whatever lies below that. A part has at most `window`
/// layers. Each bitmap is read once, and counted once for each start.
///
/// # Errors
/// `Io`.
pub(super) fn kept_clusters(
    sources: &[SourceLayer],
    starts: usize,
    window: usize,
) -> Result<Vec<Vec<u64>>> {
    let regions: BTreeSet<Region> = sources
        .iter()
        .flat_map(|source| source.sums.touched().map(|(region, _)| region))
        .collect();
    let mut kept: Vec<Vec<u64>> = (0..starts.min(sources.len()))
        .map(|from| vec![0; window.min(sources.len() - from)])
        .collect();
    for region in regions {
        let bitmaps = sources
            .iter()
            .map(|source| source.sums.load_bitmap(region))
            .collect::<Result<Vec<_>>>()?;
        for (from, kept) in kept.iter_mut().enumerate() {
            let mut above = vec![0_u8; LEAVES_PER_REGION / 8];
            for (bitmap, kept) in bitmaps.iter().skip(from).zip(kept) {
                for (byte, above) in bitmap.iter().flatten().zip(&mut above) {
                    *kept += u64::from((byte & !*above).count_ones());
                    *above |= byte;
                }
            }
        }
    }
    Ok(kept)
}

/// The number of runs of clusters that stay of the layer at `position` when these layers become one: the file of such a clone has about
/// as many extents, as what is superseded between them is punched.
///
/// # Errors
/// `Io`.
pub(super) fn kept_runs(sources: &[SourceLayer], position: usize) -> Result<u64> {
    let Some(source) = sources.get(position) else {
        return Ok(0);
    };
    let mut runs = 0;
    for (region, _) in source.sums.touched() {
        let mut above = vec![0_u8; LEAVES_PER_REGION / 8];
        for upper in sources.iter().take(position) {
            if let Some(bitmap) = upper.sums.load_bitmap(region)? {
                for (byte, above) in bitmap.iter().zip(&mut above) {
                    *above |= byte;
                }
            }
        }
        let bitmap = source.sums.load_bitmap(region)?.unwrap_or_default();
        runs += runs_of(&bitmap, &above);
    }
    Ok(runs)
}

/// The number of runs of bits that are set in `bitmap` and not in `above`.
fn runs_of(bitmap: &[u8], above: &[u8]) -> u64 {
    let mut runs = 0;
    let mut last = 0;
    for (byte, above) in bitmap.iter().zip(above) {
        let kept = byte & !above;
        // A run begins at a set bit whose neighbour below is not set.
        let begins = kept & !(kept << 1 | last);
        runs += u64::from(begins.count_ones());
        last = kept >> 7;
    }
    runs
}

/// Opens the layers of these slots, top first, and checks that each is the backing layer of the one above it.
///
/// # Errors
/// `NotFound`, `Corrupt`, `Io`; `InvalidInput` for no slots; `Stale` when they are not adjacent.
pub(super) fn open_all(
    repository: &Repository,
    vm: &VmName,
    slots: &[Slot],
) -> Result<Vec<SourceLayer>> {
    let mut sources: Vec<SourceLayer> = Vec::with_capacity(slots.len());
    for slot in slots {
        if let Some(above) = sources.last()
            && above.below.as_ref() != Some(slot)
        {
            return Err(Error::new(
                ErrorKind::Stale,
                format!(
                    "the chain of {vm} has changed: {slot} is not below {}",
                    above.slot
                ),
            ));
        }
        sources.push(SourceLayer::open(repository, vm, slot)?);
    }
    if sources.is_empty() {
        return Err(Error::invalid("no layers were to be merged"));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::runs_of;

    #[test]
    fn runs_are_counted_across_bytes() {
        assert_eq!(runs_of(&[0, 0], &[0, 0]), 0);
        assert_eq!(runs_of(&[0xff, 0xff], &[0, 0]), 1);
        assert_eq!(runs_of(&[0x80, 0x01], &[0, 0]), 1);
        assert_eq!(runs_of(&[0x55, 0x55], &[0, 0]), 8);
        assert_eq!(runs_of(&[0xff, 0xff], &[0x10, 0x81]), 3);
        assert_eq!(runs_of(&[0xff], &[0xff]), 0);
    }
}
