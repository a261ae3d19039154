//! Caches: whether they have what is sought, and what they take of their budgets.

use std::sync::atomic::{AtomicI64, Ordering};

use prometheus::{IntCounter, IntGauge, Registry};

use super::Family;
use super::family::Registered;
use super::label::labelled;

static HITS: Family = Family::counter(
    "restorefs_cache_hits_total",
    &["cache"],
    "Look-ups that the cache has answered.",
);
static MISSES: Family = Family::counter(
    "restorefs_cache_misses_total",
    &["cache"],
    "Look-ups that the cache has not answered.",
);
static USED: Family = Family::gauge(
    "restorefs_cache_used_bytes",
    &["cache"],
    "Bytes that the entries of the cache take; of caches that are bounded by bytes.",
);
static BUDGET: Family = Family::gauge(
    "restorefs_cache_budget_bytes",
    &["cache"],
    "Bytes that the entries of the cache may take; of caches that are bounded by bytes.",
);

pub(super) const FAMILIES: &[&Family] = &[&HITS, &MISSES, &USED, &BUDGET];

labelled! {
    /// A cache of the process; of several of one kind the sums are counted. The first ones are bounded by bytes.
    pub enum Cache {
        /// Resolved ranges of chains.
        ChainRanges = "chain_ranges",
        /// Decompressed clusters.
        ChainClusters = "chain_clusters",
        /// Records and directories that readers have answered.
        GuestAnswers = "guest_answers",
        /// Blocks of a guest's volume, in the process that reads it.
        GuestPages = "guest_pages",
        /// Documents and attached files.
        TreeDocuments = "tree_documents",
        /// Open layer files.
        ChainLayers = "chain_layers",
        /// Pages of leaves in `cache/leaves`.
        Leaves = "leaves",
        /// Open disks of points.
        TreeDisks = "tree_disks",
        /// Sidecars of points.
        TreePoints = "tree_points",
        /// What the states of points have of their volumes.
        TreeVolumes = "tree_volumes",
        /// What was found on the disks of points.
        TreeScans = "tree_scans",
        /// Open guest filesystems.
        TreeFilesystems = "tree_filesystems",
        /// Where the bytes of guests' files are.
        TreeContents = "tree_contents",
    }
}

/// The number of caches that are bounded by bytes.
const BY_BYTES: usize = 5;

pub(super) struct Series {
    hits: Vec<IntCounter>,
    misses: Vec<IntCounter>,
    used: Vec<IntGauge>,
    budget: Vec<IntGauge>,
}

impl Series {
    pub(super) fn register(registry: &Registry) -> Registered<Self> {
        let by_bytes = Cache::LABELS.split_at(BY_BYTES).0;
        Ok(Self {
            hits: HITS.counters(registry, Cache::LABELS)?,
            misses: MISSES.counters(registry, Cache::LABELS)?,
            used: USED.gauges(registry, by_bytes)?,
            budget: BUDGET.gauges(registry, by_bytes)?,
        })
    }
}

/// What one cache counts. Dropped with the cache, whose bytes are then used no more.
#[derive(Debug)]
pub struct Meter {
    hits: Option<IntCounter>,
    misses: Option<IntCounter>,
    used: Option<IntGauge>,
    budget: Option<IntGauge>,
    used_bytes: AtomicI64,
    budget_bytes: i64,
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Meter {
    /// A meter for a cache of at most `budget_bytes`; of a cache that is not bounded by bytes they do not count.
    #[must_use]
    pub fn new(cache: Cache, budget_bytes: usize) -> Self {
        Self::of(
            super::series().map(|series| &series.cache),
            cache,
            budget_bytes,
        )
    }

    fn of(series: Option<&Series>, cache: Cache, budget_bytes: usize) -> Self {
        let at = cache as usize;
        let budget = series.and_then(|s| s.budget.get(at)).cloned();
        let budget_bytes = signed(budget_bytes);
        if let Some(budget) = &budget {
            budget.add(budget_bytes);
        }
        Self {
            hits: series.and_then(|s| s.hits.get(at)).cloned(),
            misses: series.and_then(|s| s.misses.get(at)).cloned(),
            used: series.and_then(|s| s.used.get(at)).cloned(),
            budget,
            used_bytes: AtomicI64::new(0),
            budget_bytes,
        }
    }

    /// Counts a look-up.
    pub fn note(&self, is_hit: bool) {
        let counter = if is_hit { &self.hits } else { &self.misses };
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    /// Records the bytes that the cache takes now; called by one thread at a time.
    pub fn set_used(&self, bytes: usize) {
        if let Some(used) = &self.used {
            let now = signed(bytes);
            let before = self.used_bytes.swap(now, Ordering::Relaxed);
            used.add(now.saturating_sub(before));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.sub(self.budget_bytes);
        }
        self.set_used(0);
    }
}

/// Counts a look-up in a cache that has no meter.
pub fn note(cache: Cache, is_hit: bool) {
    let Some(series) = super::series() else {
        return;
    };
    let counters = match is_hit {
        true => &series.cache.hits,
        false => &series.cache.misses,
    };
    if let Some(counter) = counters.get(cache as usize) {
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Meter, Series};
    use prometheus::Registry;

    #[test]
    fn what_a_meter_counts_is_gone_with_it_and_the_look_ups_stay() {
        let series = Series::register(&Registry::new()).unwrap();
        let at = Cache::ChainRanges as usize;
        let gauges = || (series.used[at].get(), series.budget[at].get());
        let meter = |bytes| Meter::of(Some(&series), Cache::ChainRanges, bytes);
        let (one, two) = (meter(100), meter(50));
        one.set_used(30);
        two.set_used(7);
        one.set_used(20);
        assert_eq!(gauges(), (27, 150));
        one.note(true);
        one.note(false);
        two.note(true);
        drop(one);
        assert_eq!(gauges(), (7, 50));
        drop(two);
        let look_ups = (series.hits[at].get(), series.misses[at].get());
        assert_eq!((gauges(), look_ups), ((0, 0), (2, 1)));
    }

    #[test]
    fn a_cache_without_bytes_has_no_gauge() {
        let series = Series::register(&Registry::new()).unwrap();
        let meter = Meter::of(Some(&series), Cache::ChainLayers, 100);
        meter.set_used(30);
        let sum = |gauges: &[prometheus::IntGauge]| gauges.iter().map(|g| g.get()).sum::<i64>();
        assert_eq!((sum(&series.used), sum(&series.budget)), (0, 0));
    }
}
