//! Chains of clusters in the allocation table.
//!
//! # Invariants
//! A chain ends: a circular chain is damage (Brent's algorithm, which needs no memory), and so is one with an
//! invalid cluster number. Chains that cross each other are harmless, because nothing is written.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::boot::{Boot, FIRST_CLUSTER, Width};
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::bytes::{le16, le32};
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: runs of one chain (our limit: about 200 MB of memory).
const RUNS_MAX: usize = 4 << 20;
/// Bytes of the table read at once.
const PART_BYTES: u64 = 4096;

/// Contiguous clusters on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) first: u64,
    pub(super) count: u64,
}

/// The meaning of an entry of the table.
enum Next {
    Cluster(u64),
    End,
    /// Free, bad, or an invalid number.
    Wrong(u64),
}

/// Reads entries, a part of the table at a time.
struct Table<'a> {
    boot: &'a Boot,
    volume: &'a dyn ReadAt,
    start: u64,
    part: Vec<u8>,
}

impl<'a> Table<'a> {
    fn new(boot: &'a Boot, volume: &'a dyn ReadAt) -> Self {
        Self {
            boot,
            volume,
            start: 0,
            part: Vec::new(),
        }
    }

    /// The bytes of the table from `at` on, at least `length`.
    fn bytes(&mut self, at: u64, length: u64) -> Result<&[u8]> {
        let end = at.saturating_add(length);
        let held = self.start.saturating_add(u64_from_usize(self.part.len()));
        if at < self.start || end > held {
            // An entry of 12 bits may cross the boundary, so two more bytes are read.
            let start = at
                .checked_div(PART_BYTES)
                .unwrap_or(0)
                .saturating_mul(PART_BYTES);
            let rest = self.boot.table_bytes.saturating_sub(start);
            self.part = vec![0; usize_from_u64(rest.min(PART_BYTES.saturating_add(2)))];
            self.start = start;
            let offset = self.boot.table.saturating_add(start);
            self.volume
                .read_at(offset, &mut self.part)
                .map_err(|error| {
                    if error.kind() == ErrorKind::InvalidInput {
                        error.with_kind(ErrorKind::Corrupt)
                    } else {
                        error
                    }
                })?;
        }
        let from = usize_from_u64(at.saturating_sub(self.start));
        Ok(self.part.get(from..).unwrap_or_default())
    }

    /// The raw entry of a cluster, and the smallest number that marks an end.
    fn entry(&mut self, cluster: u64) -> Result<(u64, u64)> {
        let (at, length) = match self.boot.width {
            Width::Bits12 => (
                cluster.saturating_add(cluster.checked_div(2).unwrap_or(0)),
                2,
            ),
            Width::Bits16 => (cluster.saturating_mul(2), 2),
            Width::Bits32 => (cluster.saturating_mul(4), 4),
        };
        let width = self.boot.width;
        let bytes = self.bytes(at, length)?;
        let short = || Error::corrupt("the allocation table", "an entry", "its end").at_offset(at);
        Ok(match width {
            Width::Bits12 => {
                let pair = le16(bytes, 0).ok_or_else(short)?;
                let entry = if cluster & 1 == 0 {
                    pair & 0xfff
                } else {
                    pair >> 4
                };
                (u64::from(entry), 0xff8)
            }
            Width::Bits16 => (u64::from(le16(bytes, 0).ok_or_else(short)?), 0xfff8),
            Width::Bits32 => {
                let entry = le32(bytes, 0).ok_or_else(short)? & 0x0fff_ffff;
                (u64::from(entry), 0x0fff_fff8)
            }
        })
    }

    fn next(&mut self, cluster: u64) -> Result<Next> {
        let (entry, end) = self.entry(cluster)?;
        Ok(match entry {
            entry if self.boot.has(entry) => Next::Cluster(entry),
            entry if entry >= end => Next::End,
            entry => Next::Wrong(entry),
        })
    }
}

/// A chain, as far as it can be followed.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) pieces: Vec<Piece>,
    /// Number of clusters.
    pub(super) clusters: u64,
    /// Why it ends before the wanted number of clusters, unless by an end mark.
    pub(super) broken: Option<Error>,
}

/// Follows the chain from `first` on, for at most `wanted` clusters. The chain of cluster zero is empty.
///
/// # Errors
/// `Corrupt` for a circular chain; `LimitExceeded`; `Io`.
pub(super) fn chain(boot: &Boot, volume: &dyn ReadAt, first: u64, wanted: u64) -> Result<Chain> {
    let mut chain = Chain {
        pieces: Vec::new(),
        clusters: 0,
        broken: None,
    };
    if first == 0 || wanted == 0 {
        return Ok(chain);
    }
    let wrong = |found| Error::corrupt("the number of a cluster", "one that there is", found);
    if !boot.has(first) {
        chain.broken = Some(wrong(first));
        return Ok(chain);
    }
    let mut table = Table::new(boot, volume);
    let (mut cluster, mut mark, mut steps, mut span) = (first, first, 0u64, 1u64);
    loop {
        if chain.pieces.len() > RUNS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("a file is in more than {RUNS_MAX} pieces"),
            ));
        }
        match chain.pieces.last_mut() {
            Some(last) if last.first.saturating_add(last.count) == cluster => {
                last.count = last.count.saturating_add(1);
            }
            _ => chain.pieces.push(Piece {
                first: cluster,
                count: 1,
            }),
        }
        chain.clusters = chain.clusters.saturating_add(1);
        if chain.clusters >= wanted {
            return Ok(chain);
        }
        match table.next(cluster)? {
            Next::End => return Ok(chain),
            Next::Wrong(found) => {
                chain.broken = Some(wrong(found));
                return Ok(chain);
            }
            Next::Cluster(next) => cluster = next,
        }
        if cluster == mark {
            return Err(Error::corrupt(
                format!("the chain of clusters from {first}"),
                "an end",
                format!("a circle at cluster {cluster}"),
            ));
        }
        steps = steps.saturating_add(1);
        if steps == span {
            (mark, steps, span) = (cluster, 0, span.saturating_mul(2));
        }
    }
}

/// Counts the free clusters.
pub(super) fn count_free(boot: &Boot, volume: &dyn ReadAt) -> Result<u64> {
    let mut table = Table::new(boot, volume);
    let mut free = 0u64;
    for n in 0..boot.clusters {
        let (entry, _) = table.entry(n.saturating_add(FIRST_CLUSTER))?;
        free = free.saturating_add(u64::from(entry == 0));
    }
    Ok(free)
}
