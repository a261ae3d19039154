//! Which interval of a VM's chains is worth merging.
//!
//! # The rule
//! An interval is a part of a chain whose layers but the topmost are hidden and have one child each. *Written* is the
//! whole file of the layer that it becomes, *freed* what its files take now, less the written. An interval is merged while
//! freed is at least half of written, the best ratio first: then a year of merging writes at most twice what was
//! ingested. A caller that wants the space back at any price takes every interval; so is taken what lies in a chain that is
//! deeper than the repository allows, and before all else.

use super::source::{kept_clusters, open_all};
use crate::error::Result;
use crate::repo::chains::Chains;
use crate::repo::{Repository, Slot};
use crate::types::{VmId, VmName};

/// LIMIT: layers of an interval that are weighed against each other (our limit).
const WINDOW: usize = 32;

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The topmost layer takes over what the layers below it in the interval hold; these become superfluous.
    Merge,
    /// The topmost layer of a whole chain becomes full; the others stay for those that need them.
    Full,
}

/// An interval of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The VM.
    pub vm: VmName,
    /// Its id.
    pub vm_id: VmId,
    /// The slots, top first.
    pub layers: Vec<Slot>,
    /// What is built.
    pub reach: Reach,
}

/// What merging an interval costs and gains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gain {
    /// Bytes of the layer that it becomes.
    pub written_bytes: u64,
    /// Bytes that its files take less than before.
    pub freed_bytes: u64,
}

impl Gain {
    const fn is_worth_it(&self) -> bool {
        self.freed_bytes >= self.written_bytes / 2
    }

    /// Whether this gain has a better ratio of freed to written than another one.
    fn is_better_than(&self, other: &Self) -> bool {
        let cross = |a: u64, b: u64| u128::from(a) * u128::from(b);
        cross(self.freed_bytes, other.written_bytes) > cross(other.freed_bytes, self.written_bytes)
    }
}

/// The runs of chains that could be merged whole: a layer that is needed by itself, and the hidden layers with one
/// child below it; top first.
fn runs(chains: &Chains) -> Vec<Vec<Slot>> {
    let mut runs = Vec::new();
    for (slot, layer) in chains.layers() {
        if chains.is_mergeable(slot) || layer.layer.is_none() {
            continue;
        }
        let mut run = vec![slot.clone()];
        let mut next = layer.below.clone();
        while let Some(below) = next.filter(|below| chains.is_mergeable(below)) {
            next = chains.get(&below).and_then(|layer| layer.below.clone());
            run.push(below);
        }
        if run.len() > 1 {
            runs.push(run);
        }
    }
    // The walk gives no order; the same repository gives the same plan.
    runs.sort();
    runs
}

/// The interval of a VM that is merged next, with what it gains; `None` when nothing is worth it. With `compact`, every
/// run of hidden layers is merged whole; without it, those of chains that are too deep are.
///
/// # Errors
/// `NotFound`, `Corrupt`, `Io` of the layers' sums.
pub fn best(
    repository: &Repository,
    vm: &VmName,
    vm_id: VmId,
    chains: &Chains,
    compact: bool,
) -> Result<Option<(Interval, Gain)>> {
    let mut found: Option<(Vec<Slot>, Gain)> = None;
    let runs = runs(chains);
    let (deepest, max_depth) = (chains.deepest(), repository.format().max_depth());
    let is_too_deep = |run: &Vec<Slot>| {
        let depth = run.first().and_then(|top| deepest.get(top));
        depth.is_some_and(|depth| *depth > max_depth)
    };
    let (deep, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(is_too_deep);
    let (runs, compact) = match deep.is_empty() {
        true => (others, compact),
        false => (deep, true),
    };
    for run in runs {
        let sources = open_all(repository, vm, &run)?;
        // To compact, the whole run becomes one layer.
        let (starts, window) = match compact {
            true => (1, run.len()),
            false => (run.len(), WINDOW),
        };
        let kept = kept_clusters(&sources, starts, window)?;
        for (from, kept) in kept.iter().enumerate() {
            let below = run.get(from..).unwrap_or_default();
            let shortest = if compact { kept.len() } else { 2 };
            let lengths = shortest..=kept.len();
            for length in lengths {
                let (Some(part), Some(kept)) = (below.get(..length), kept.get(..length)) else {
                    continue;
                };
                let gain = gain(chains, part, kept);
                let is_best = found
                    .as_ref()
                    .is_none_or(|(_, best)| gain.is_better_than(best));
                if (compact || gain.is_worth_it()) && is_best {
                    found = Some((part.to_vec(), gain));
                }
            }
        }
    }
    Ok(found.map(|(layers, gain)| {
        let interval = Interval {
            vm: vm.clone(),
            vm_id,
            layers,
            reach: Reach::Merge,
        };
        (interval, gain)
    }))
}

/// Bytes that merging every run of hidden layers frees, whatever that costs.
///
/// # Errors
/// As [`best`].
pub fn mergeable_bytes(repository: &Repository, vm: &VmName, chains: &Chains) -> Result<u64> {
    let mut freed: u64 = 0;
    for run in runs(chains) {
        let sources = open_all(repository, vm, &run)?;
        if let Some(kept) = kept_clusters(&sources, 1, run.len())?.first() {
            freed = freed.saturating_add(gain(chains, &run, kept).freed_bytes);
        }
    }
    Ok(freed)
}

/// What merging these layers gains, when so many clusters of each stay. A cluster is taken to be as large as those of its
/// layer are on average.
fn gain(chains: &Chains, slots: &[Slot], kept: &[u64]) -> Gain {
    let (mut present, mut written) = (0_u64, 0_u64);
    for (slot, kept) in slots.iter().zip(kept) {
        let Some(layer) = chains.get(slot) else {
            continue;
        };
        present = present.saturating_add(layer.file_bytes);
        let held = layer.held_clusters.max(1);
        let share = u128::from(layer.file_bytes) * u128::from(*kept) / u128::from(held);
        written = written.saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
    }
    Gain {
        written_bytes: written,
        freed_bytes: present.saturating_sub(written),
    }
}
