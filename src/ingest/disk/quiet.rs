//! Clusters whose leaf is unknown, by whether they were written lately.
//!
//! # Why
//! Two bits for each cluster of a region in which something was written, however often and in whatever order:
//! 2 KiB for 512 MiB of the disk.

use std::collections::BTreeMap;

use crate::repo::content::{LEAVES_PER_REGION, Region, leaf_index};
use crate::types::GuestCluster;
use crate::types::sync::Mutex;
use crate::types::width::u64_from_usize;

const WORDS: usize = LEAVES_PER_REGION / 64;

/// A bit for each cluster of a region.
#[derive(Debug)]
struct Bits(Box<[u64; WORDS]>);

impl Default for Bits {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl Bits {
    fn put(&mut self, index: usize, is_set: bool) {
        if let Some(word) = self.0.get_mut(index / 64) {
            let bit = 1 << (index % 64);
            *word = if is_set { *word | bit } else { *word & !bit };
        }
    }

    fn has(&self, index: usize) -> bool {
        self.0
            .get(index / 64)
            .is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// The unknown clusters of a region.
#[derive(Debug, Default)]
struct Ages {
    /// Written since the last round.
    young: Bits,
    /// Not written since the round before.
    old: Bits,
}

/// Clusters that are to be hashed when they are quiet.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Quiet(Mutex<BTreeMap<Region, Ages>>);

impl Quiet {
    /// A cluster was written, and its leaf is unknown.
    pub(super) fn note(&self, cluster: GuestCluster) {
        let mut regions = self.0.lock();
        let ages = regions.entry(Region::of(cluster)).or_default();
        ages.young.put(leaf_index(cluster), true);
        ages.old.put(leaf_index(cluster), false);
    }

    /// Clusters whose leaves are unknown, and that are quiet.
    pub(in crate::ingest) fn add(&self, clusters: impl IntoIterator<Item = GuestCluster>) {
        let mut regions = self.0.lock();
        for cluster in clusters {
            let ages = regions.entry(Region::of(cluster)).or_default();
            ages.old.put(leaf_index(cluster), true);
        }
    }

    /// Whether a cluster was written since the last round.
    pub(super) fn is_young(&self, cluster: GuestCluster) -> bool {
        let regions = self.0.lock();
        regions
            .get(&Region::of(cluster))
            .is_some_and(|ages| ages.young.has(leaf_index(cluster)))
    }

    /// Whether no cluster waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Takes at most `most` clusters that are quiet, ascending.
    pub(super) fn take(&self, most: usize) -> Vec<GuestCluster> {
        let mut taken = Vec::new();
        let mut regions = self.0.lock();
        for (region, ages) in regions.iter_mut() {
            let first = region.first_cluster().0;
            for (place, word) in ages.old.0.iter_mut().enumerate() {
                while *word != 0 && taken.len() < most {
                    let bit = word.trailing_zeros();
                    *word &= *word - 1;
                    taken.push(GuestCluster(
                        first + u64_from_usize(place) * 64 + u64::from(bit),
                    ));
                }
            }
        }
        taken
    }

    /// A round has passed: what was written before it is quiet in the next one, unless it is written again.
    pub(super) fn age(&self) {
        let mut regions = self.0.lock();
        for ages in regions.values_mut() {
            for (old, young) in ages.old.0.iter_mut().zip(ages.young.0.iter_mut()) {
                *old |= std::mem::take(young);
            }
        }
        regions.retain(|_, ages| !ages.old.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::Quiet;
    use crate::repo::content::{LEAVES_PER_REGION, Region};
    use crate::types::GuestCluster;

    #[test]
    fn a_cluster_is_quiet_when_a_round_has_passed_without_a_write() {
        let quiet = Quiet::default();
        let round = || {
            let taken = quiet.take(100);
            quiet.age();
            taken
        };
        quiet.note(GuestCluster(3));
        quiet.note(GuestCluster(9000));
        assert!(quiet.is_young(GuestCluster(3)));
        assert!(round().is_empty());
        quiet.note(GuestCluster(3));
        assert_eq!(round(), [GuestCluster(9000)]);
        assert!(!quiet.is_young(GuestCluster(3)));
        assert_eq!(round(), [GuestCluster(3)]);
        assert!(quiet.is_empty() && round().is_empty());
    }

    #[test]
    fn a_round_takes_no_more_than_asked_and_leaves_the_rest() {
        let quiet = Quiet::default();
        let first = Region(1).first_cluster();
        quiet.add((first.0..Region(2).first_cluster().0).map(GuestCluster));
        let taken = quiet.take(LEAVES_PER_REGION - 1);
        assert_eq!(taken.len(), LEAVES_PER_REGION - 1);
        assert_eq!(taken[0], first);
        let last = Region(2).first_cluster().0 - 1;
        assert_eq!(quiet.take(10), [GuestCluster(last)]);
        quiet.age();
        assert!(quiet.is_empty());
    }
}
