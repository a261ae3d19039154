//! A sample of what a bitmap calls unchanged, compared with the parent's content: a bitmap that claims too little would damage every
//! further point.

use crate::block::ReadAt;
use crate::block::piece::{CopySource, Piece, Pieces};
use crate::error::{Error, Result};
use crate::types::width::usize_from_u64;

/// Bytes that are compared at a time: a cluster of our layers.
const CLUSTER: u64 = 65_536;

/// The part of the unchanged clusters that is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Of a million clusters so many.
    per_million: u32,
    /// The same seed chooses the same clusters.
    seed: u64,
}

impl Sample {
    /// A sample of a share in percent (`1%`, `0.5%`).
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn parse(text: &str, seed: u64) -> Result<Self> {
        let percent = text.trim_end_matches('%').parse::<f64>().ok();
        let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
        let Some(percent) = percent else {
            return Err(Error::invalid(format!(
                "a sample is a share of more than 0 and at most 100 %: not \"{}\"",
                text.escape_debug()
            ))
            .advise("write --verify-sample 1%"));
        };
        let share = format!("{:.0}", percent * 10_000.0);
        Ok(Self {
            per_million: share.parse().unwrap_or(1_000_000).max(1),
            seed,
        })
    }

    /// Whether a cluster is in the sample. The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    /// generators, 2014), of the cluster's number and the seed.
    const fn has(self, cluster: u64) -> bool {
        let mut z = cluster
            .wrapping_add(self.seed)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1_000_000 < self.per_million as u64
    }

    /// Compares clusters of `source` that its changes call unchanged with `parent`; returns how many were compared, and the offset of the
    /// first one that differs.
    ///
    /// # Errors
    /// What reading returns.
    pub fn compare(
        self,
        source: CopySource<'_>,
        parent: &dyn ReadAt,
    ) -> Result<(u64, Option<u64>)> {
        let mut pieces = Pieces::of(source);
        let mut compared = 0;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        while let Some(piece) = pieces.next_piece()? {
            let Piece::Unchanged {
                offset,
                length_bytes,
            } = piece
            else {
                continue;
            };
            let end = offset + length_bytes;
            let mut at = offset;
            while at < end {
                let stop = ((at / CLUSTER + 1) * CLUSTER).min(end);
                if self.has(at / CLUSTER) {
                    let length = usize_from_u64(stop - at);
                    ours.resize(length, 0);
                    theirs.resize(length, 0);
                    source.disk.read_at(at, &mut ours)?;
                    parent.read_at(at, &mut theirs)?;
                    compared += 1;
                    if ours != theirs {
                        return Ok((compared, Some(at)));
                    }
                }
                at = stop;
            }
        }
        Ok((compared, None))
    }
}

#[cfg(test)]
mod tests {
    use super::Sample;
    use crate::block::MemoryDisk;
    use crate::block::piece::{Changes, CopySource};
    use crate::error::Result;

    struct Nothing;

    impl Changes for Nothing {
        fn changed_at(&self, _: u64, length_max: u64) -> Result<(bool, u64)> {
            Ok((false, length_max))
        }
    }

    #[test]
    fn a_share_of_the_clusters_is_compared_and_a_difference_found() {
        for text in ["0%", "-1", "101%", "x", ""] {
            assert!(Sample::parse(text, 0).is_err(), "{text}");
        }
        let size = 1000 * 65_536;
        let first = MemoryDisk::from_bytes(&vec![1; size]);
        let mut bytes = vec![1; size];
        bytes[777 * 65_536 + 5] = 2;
        let second = MemoryDisk::from_bytes(&bytes);
        let source = CopySource {
            disk: &second,
            changes: Some(&Nothing),
        };
        let all = Sample::parse("100%", 1)
            .unwrap()
            .compare(source, &first)
            .unwrap();
        assert_eq!(all, (778, Some(777 * 65_536)));
        let same = CopySource {
            disk: &first,
            changes: Some(&Nothing),
        };
        let (some, none) = Sample::parse("10%", 1)
            .unwrap()
            .compare(same, &first)
            .unwrap();
        assert!((50..200).contains(&some) && none.is_none(), "{some}");
        let chosen = |seed| -> Vec<u64> {
            let sample = Sample::parse("10%", seed).unwrap();
            (0..1000).filter(|cluster| sample.has(*cluster)).collect()
        };
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
    }
}
