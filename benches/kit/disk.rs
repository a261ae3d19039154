//! A sparse raw disk like real ones: files that lie in one piece, and single clusters between them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Result;

/// The unit of everything: a cluster of a layer.
pub(crate) const CLUSTER_BYTES: u64 = 65_536;

/// xorshift64*: the same disk in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }
}

/// Makes a disk with about a quarter of it data, three quarters of that in files of 1 to 16 MiB; answers the clusters with data.
pub(crate) fn make(path: &Path, size_bytes: u64, seed: u64) -> Result<Vec<u64>> {
    let file = File::create(path)?;
    file.set_len(size_bytes)?;
    let clusters = size_bytes / CLUSTER_BYTES;
    let wanted = usize::try_from(clusters / 4)?;
    let mut dice = Dice::new(seed);
    let mut is_data = vec![false; usize::try_from(clusters)?];
    let mut held = 0;
    while held < wanted {
        let length = if held < wanted * 3 / 4 {
            16 + dice.below(240)
        } else {
            1
        };
        let from = dice.below(clusters);
        let end = (from + length).min(clusters);
        for cluster in from..end {
            let data = &mut is_data[usize::try_from(cluster)?];
            held += usize::from(!*data);
            *data = true;
        }
    }
    let data: Vec<u64> = (0..clusters)
        .zip(&is_data)
        .filter_map(|(cluster, data)| data.then_some(cluster))
        .collect();
    let mut bytes = vec![0; usize::try_from(CLUSTER_BYTES)?];
    for cluster in &data {
        dice.fill(&mut bytes);
        file.write_all_at(&bytes, cluster * CLUSTER_BYTES)?;
    }
    file.sync_all()?;
    Ok(data)
}

/// New content for `count` of the clusters that have data, scattered.
pub(crate) fn changes(data: &[u64], count: usize, seed: u64) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut dice = Dice::new(seed);
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        let cluster = data[usize::try_from(dice.below(data.len() as u64))?];
        let mut bytes = vec![0; usize::try_from(CLUSTER_BYTES)?];
        dice.fill(&mut bytes);
        changes.push((cluster, bytes));
    }
    Ok(changes)
}
