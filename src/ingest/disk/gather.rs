//! Writes smaller than a cluster, gathered until their cluster is whole or must be completed.

use std::collections::HashMap;

use crate::types::sync::Mutex;

/// LIMIT: gathered clusters of each disk (16 MiB); beyond it the oldest is completed from the
/// parent.
const GATHERED_MAX: usize = 256;
/// Bytes of a cluster. Any byte range of it may be written, so the written parts are kept as byte
/// ranges.
const CLUSTER_BYTES: usize = 65_536;

/// A cluster of which a part has been written.
#[derive(Debug, Clone)]
pub(in crate::ingest) struct Partial {
    pub(in crate::ingest) bytes: Box<[u8]>,
    /// Written byte ranges, sorted, disjoint, not touching.
    written: Vec<(usize, usize)>,
    age: u64,
}

impl Partial {
    fn new(age: u64) -> Self {
        Self {
            bytes: vec![0; CLUSTER_BYTES].into(),
            written: Vec::new(),
            age,
        }
    }

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

    /// Whether all of the first `length` bytes are written.
    pub(in crate::ingest) fn covers(&self, length: usize) -> bool {
        self.written
            .first()
            .is_some_and(|&(a, b)| a == 0 && b >= length)
    }

    /// Copies the written parts over `base`.
    pub(in crate::ingest) fn lay_over(&self, base: &mut [u8]) {
        for &(a, b) in &self.written {
            if let (Some(to), Some(from)) = (base.get_mut(a..b), self.bytes.get(a..b)) {
                to.copy_from_slice(from);
            }
        }
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

/// All gathered clusters of a disk.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Gather {
    inner: Mutex<(HashMap<u64, Partial>, u64)>,
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
    ) -> Option<Partial> {
        let mut inner = self.inner.lock();
        inner.1 += 1;
        let age = inner.1;
        let partial = inner.0.entry(cluster).or_insert_with(|| Partial::new(age));
        partial.write(from, bytes);
        partial.covers(length).then(|| partial.clone())
    }

    pub(in crate::ingest) fn get(&self, cluster: u64) -> Option<Partial> {
        self.inner.lock().0.get(&cluster).cloned()
    }

    pub(in crate::ingest) fn remove(&self, cluster: u64) {
        self.inner.lock().0.remove(&cluster);
    }

    pub(in crate::ingest) fn is_empty(&self) -> bool {
        self.inner.lock().0.is_empty()
    }

    /// The gathered clusters in `[first, end)`.
    pub(in crate::ingest) fn within(&self, first: u64, end: u64) -> Vec<(u64, Partial)> {
        let inner = self.inner.lock();
        if inner.0.is_empty() {
            return Vec::new();
        }
        inner
            .0
            .iter()
            .filter(|(c, _)| (first..end).contains(*c))
            .map(|(c, p)| (*c, p.clone()))
            .collect()
    }

    /// The first gathered cluster in `[first, end)`.
    pub(in crate::ingest) fn first_within(&self, first: u64, end: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let within = inner.0.keys().filter(|c| (first..end).contains(*c));
        within.min().copied()
    }

    /// Drops the gathered bytes in `[first, end)`, which have been overwritten completely.
    pub(in crate::ingest) fn forget(&self, first: u64, end: u64) {
        let mut inner = self.inner.lock();
        if !inner.0.is_empty() {
            inner.0.retain(|cluster, _| !(first..end).contains(cluster));
        }
    }

    /// The oldest cluster, when there are too many.
    pub(in crate::ingest) fn surplus(&self) -> Option<u64> {
        let inner = self.inner.lock();
        if inner.0.len() <= GATHERED_MAX {
            return None;
        }
        inner
            .0
            .iter()
            .min_by_key(|(_, partial)| partial.age)
            .map(|(cluster, _)| *cluster)
    }

    /// All gathered clusters, ascending.
    pub(in crate::ingest) fn clusters(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.inner.lock().0.keys().copied().collect();
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
    fn the_oldest_is_surplus() {
        let gather = Gather::default();
        for cluster in 0..=256 {
            assert_eq!(gather.surplus(), None);
            gather.add(1000 - cluster, 0, &[1], 65_536);
        }
        assert_eq!(gather.surplus(), Some(1000));
    }
}
