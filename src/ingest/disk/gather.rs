//! Writes smaller than a cluster, gathered until their cluster is whole or must be completed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::types::sync::Mutex;

/// LIMIT: gathered clusters of each disk (16 MiB); beyond it the oldest are completed from the
/// parent.
const GATHERED_MAX: usize = 256;
/// LIMIT: buffers of clusters that are kept for the next ones.
const SPARE_MAX: usize = 32;
/// Bytes of a cluster. Any byte range of it may be written, so the written parts are kept as byte
/// ranges.
const CLUSTER_BYTES: usize = 65_536;

/// A cluster of which a part has been written.
#[derive(Debug, Clone)]
pub(in crate::ingest) struct Partial {
    /// Only what lies within `written` counts: the rest are bytes of an earlier cluster.
    bytes: Box<[u8]>,
    /// Written byte ranges, sorted, disjoint, not touching.
    written: Vec<(usize, usize)>,
    age: u64,
}

impl Partial {
    fn write(&mut self, from: usize, bytes: &[u8]) {
        let end = from + bytes.len();
        if let Some(place) = self.bytes.get_mut(from..end) {
            place.copy_from_slice(bytes);
        }
        let (mut a, mut b) = (from, end);
        self.written.retain(|&(x, y)| {
            let apart = y < a || b < x;
            if !apart {
                a = a.min(x);
                b = b.max(y);
            }
            apart
        });
        let at = self.written.partition_point(|&(x, _)| x < a);
        self.written.insert(at, (a, b));
    }

    /// The first `length` bytes, if all of them are written.
    pub(in crate::ingest) fn whole(&self, length: usize) -> Option<&[u8]> {
        let &(a, b) = self.written.first()?;
        if a == 0 && b >= length {
            self.bytes.get(..length)
        } else {
            None
        }
    }

    /// Copies the written parts over `base`.
    pub(in crate::ingest) fn lay_over(&self, base: &mut [u8]) {
        self.lay_over_part(0, base);
    }

    /// Copies the written parts within `[from, from + out.len())` over `out`.
    pub(in crate::ingest) fn lay_over_part(&self, from: usize, out: &mut [u8]) {
        let end = from + out.len();
        for &(a, b) in &self.written {
            let (x, y) = (a.max(from), b.min(end));
            if x < y
                && let (Some(to), Some(bytes)) =
                    (out.get_mut(x - from..y - from), self.bytes.get(x..y))
            {
                to.copy_from_slice(bytes);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Gathered {
    partials: HashMap<u64, Arc<Partial>>,
    /// The clusters that nobody has claimed, by age.
    queue: BTreeMap<u64, u64>,
    last_age: u64,
    spare: Vec<Box<[u8]>>,
}

impl Gathered {
    fn begin(&mut self, cluster: u64) -> Arc<Partial> {
        self.last_age += 1;
        let age = self.last_age;
        self.queue.insert(age, cluster);
        let spare = self.spare.pop();
        Arc::new(Partial {
            bytes: spare.unwrap_or_else(|| vec![0; CLUSTER_BYTES].into()),
            written: Vec::new(),
            age,
        })
    }

    fn remove(&mut self, cluster: u64) {
        let Some(removed) = self.partials.remove(&cluster) else {
            return;
        };
        self.queue.remove(&removed.age);
        if self.spare.len() < SPARE_MAX
            && let Some(partial) = Arc::into_inner(removed)
        {
            self.spare.push(partial.bytes);
        }
    }

    /// The gathered clusters in `[first, end)`, in no order.
    fn within(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, &Arc<Partial>)> {
        // Whichever is shorter is walked: the range or the table.
        let is_short = end.saturating_sub(first) <= GATHERED_MAX as u64 / 2;
        let (range, table) = if is_short {
            (first..end, None)
        } else {
            (0..0, Some(self.partials.iter()))
        };
        let by_range = range.filter_map(|cluster| Some((cluster, self.partials.get(&cluster)?)));
        let by_table = table
            .into_iter()
            .flatten()
            .filter(move |(cluster, _)| (first..end).contains(*cluster))
            .map(|(cluster, partial)| (*cluster, partial));
        by_range.chain(by_table)
    }
}

/// All gathered clusters of a disk.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Gather {
    inner: Mutex<Gathered>,
}

impl Gather {
    /// Adds bytes to a cluster; returns the cluster when all of its first `length` bytes are
    /// written. The entry stays until [`Gather::remove`], so that readers see it meanwhile.
    pub(in crate::ingest) fn add(
        &self,
        cluster: u64,
        from: usize,
        bytes: &[u8],
        length: usize,
    ) -> Option<Arc<Partial>> {
        let mut inner = self.inner.lock();
        if !inner.partials.contains_key(&cluster) {
            let begun = inner.begin(cluster);
            inner.partials.insert(cluster, begun);
        }
        let partial = inner.partials.get_mut(&cluster)?;
        // A reader that holds the cluster keeps what it had.
        Arc::make_mut(partial).write(from, bytes);
        partial.whole(length).is_some().then(|| Arc::clone(partial))
    }

    pub(in crate::ingest) fn get(&self, cluster: u64) -> Option<Arc<Partial>> {
        self.inner.lock().partials.get(&cluster).cloned()
    }

    pub(in crate::ingest) fn contains(&self, cluster: u64) -> bool {
        self.inner.lock().partials.contains_key(&cluster)
    }

    pub(in crate::ingest) fn remove(&self, cluster: u64) {
        self.inner.lock().remove(cluster);
    }

    pub(in crate::ingest) fn is_empty(&self) -> bool {
        self.inner.lock().partials.is_empty()
    }

    /// Whether one cluster more makes so many that the oldest must be completed.
    pub(in crate::ingest) fn is_full(&self) -> bool {
        self.inner.lock().partials.len() >= GATHERED_MAX
    }

    /// The gathered clusters in `[first, end)`.
    pub(in crate::ingest) fn within(&self, first: u64, end: u64) -> Vec<(u64, Arc<Partial>)> {
        let inner = self.inner.lock();
        if inner.partials.is_empty() {
            return Vec::new();
        }
        inner
            .within(first, end)
            .map(|(cluster, partial)| (cluster, Arc::clone(partial)))
            .collect()
    }

    /// The first gathered cluster in `[first, end)`.
    pub(in crate::ingest) fn first_within(&self, first: u64, end: u64) -> Option<u64> {
        let inner = self.inner.lock();
        inner.within(first, end).map(|(cluster, _)| cluster).min()
    }

    /// Drops the gathered bytes in `[first, end)`, which have been overwritten completely.
    pub(in crate::ingest) fn forget(&self, first: u64, end: u64) {
        let mut inner = self.inner.lock();
        if inner.partials.is_empty() {
            return;
        }
        let gone: Vec<u64> = inner
            .within(first, end)
            .map(|(cluster, _)| cluster)
            .collect();
        for cluster in gone {
            inner.remove(cluster);
        }
    }

    /// Takes the oldest cluster out of the queue when there are too many, so that each thread completes another one. It stays gathered
    /// until it is stored.
    pub(in crate::ingest) fn claim_surplus(&self) -> Option<u64> {
        let mut inner = self.inner.lock();
        if inner.partials.len() <= GATHERED_MAX {
            return None;
        }
        inner.queue.pop_first().map(|(_, cluster)| cluster)
    }

    /// Queues a cluster again that was claimed and could not be stored.
    pub(in crate::ingest) fn put_back(&self, cluster: u64) {
        let mut inner = self.inner.lock();
        if let Some(age) = inner.partials.get(&cluster).map(|partial| partial.age) {
            inner.queue.insert(age, cluster);
        }
    }

    /// All gathered clusters, ascending.
    pub(in crate::ingest) fn clusters(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.inner.lock().partials.keys().copied().collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::Gather;

    #[test]
    fn parts_join_until_the_cluster_is_whole() {
        let gather = Gather::default();
        assert!(gather.add(7, 512, &[2; 512], 2048).is_none());
        assert!(gather.add(7, 1536, &[4; 512], 2048).is_none());
        assert!(gather.add(7, 1000, &[3; 600], 2048).is_none());
        let mut base = vec![9; 2048];
        let partial = gather.get(7).unwrap();
        partial.lay_over(&mut base);
        assert_eq!(
            (base[511], base[512], base[1000], base[1599], base[1600]),
            (9, 2, 3, 3, 4)
        );
        let mut part = [9; 4];
        partial.lay_over_part(510, &mut part);
        assert_eq!(part, [9, 9, 2, 2]);
        assert!(gather.add(7, 0, &[1; 512], 2048).is_some());
        assert!(!gather.is_empty());
        assert_eq!(gather.first_within(0, 100), Some(7));
        assert_eq!(gather.first_within(8, 100), None);
        gather.forget(0, 8);
        assert!(gather.is_empty());
    }

    #[test]
    fn the_oldest_is_surplus_and_each_is_claimed_once() {
        let gather = Gather::default();
        for cluster in 0..=256 {
            assert_eq!(
                (gather.claim_surplus(), gather.is_full()),
                (None, cluster == 256)
            );
            gather.add(1000 - cluster, 0, &[1], 65_536);
        }
        // Whoever asks next gets another one, while the first is still gathered.
        assert!(gather.is_full());
        assert_eq!(gather.claim_surplus(), Some(1000));
        assert_eq!(gather.claim_surplus(), Some(999));
        // One that could not be stored is the oldest again.
        gather.put_back(1000);
        gather.remove(999);
        assert!(gather.is_full());
        assert_eq!(gather.claim_surplus(), None);
        gather.add(1, 0, &[1], 65_536);
        for cluster in 2..257 {
            gather.remove(1000 - cluster);
            gather.add(cluster, 0, &[1], 65_536);
        }
        assert_eq!(gather.claim_surplus(), Some(1000));
        // One that was gathered anew has a new age.
        gather.remove(1);
        gather.add(1, 0, &[1], 65_536);
        assert_eq!(gather.claim_surplus(), Some(2));
    }

    #[test]
    fn what_is_stored_is_not_queued_any_more() {
        let gather = Gather::default();
        gather.add(0, 1, &[1], 65_536);
        for cluster in 1..1000 {
            gather.add(cluster, 0, &[1], 65_536);
            gather.remove(cluster);
        }
        assert_eq!(gather.inner.lock().queue.len(), 1);
    }

    #[test]
    fn what_a_reader_holds_does_not_change_and_a_used_buffer_shows_nothing() {
        let gather = Gather::default();
        gather.add(1, 0, &[7; 1024], 2048);
        let held = gather.within(0, 1000);
        gather.add(1, 0, &[8; 512], 2048);
        let mut seen = [0; 1024];
        held[0].1.lay_over(&mut seen);
        assert_eq!(seen, [7; 1024]);
        drop(held);
        gather.remove(1);
        gather.add(2, 256, &[9; 256], 2048);
        let mut seen = [1; 1024];
        gather.get(2).unwrap().lay_over(&mut seen);
        assert_eq!(
            (seen[0], seen[255], seen[256], seen[511], seen[512]),
            (1, 1, 9, 9, 1)
        );
    }
}
