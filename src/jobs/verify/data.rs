//! Reads the data of one layer and compares each cluster with its leaf.
//!
//! # Why
//! Pieces of a few MiB go to the threads in the order in which they lie in the file, so that a disk reads nearly front to back while
//! several processors hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::fault::is_damage;
use super::piece::{Piece, RUN_CLUSTERS, Run, pieces};
use crate::error::{Error, Result};
use crate::qcow2::{Image, Mapping};
use crate::repo::content::{CLUSTER_BYTES, LEAVES_PER_REGION, Region, leaf_of};
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::checks::{DamagedRange, RegionCheck};
use crate::repo::sums::LayerSums;
use crate::task::{Monitor, Pace, on_threads, threads};
use crate::types::sync::Mutex;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// LIMIT: threads that read and hash.
const THREADS_MAX: usize = 16;

/// LIMIT: damaged ranges of one region that are told apart; more become one.
const RANGES_MAX: usize = 256;

/// A damaged cluster: its place in the file, and what is wrong.
type Fault = (Option<u64>, String);
/// Damaged clusters of a region, by position.
type Faults = BTreeMap<usize, Fault>;

struct Buffers {
    run: Vec<u8>,
}

/// The data of a layer.
pub(super) struct LayerData<'a> {
    image: &'a Image,
    sums: &'a LayerSums,
    pace: &'a Pace,
    monitor: &'a Monitor,
    faults: Mutex<BTreeMap<Region, Faults>>,
}

impl<'a> LayerData<'a> {
    pub(super) const fn new(
        image: &'a Image,
        sums: &'a LayerSums,
        pace: &'a Pace,
        monitor: &'a Monitor,
    ) -> Self {
        Self {
            image,
            sums,
            pace,
            monitor,
            faults: Mutex::new(BTreeMap::new()),
        }
    }

    /// Verifies regions, ascending. Progress counts the bytes of held clusters.
    ///
    /// # Errors
    /// `Cancelled`; errors that are no damage (`Stale`, `Disconnected`).
    pub(super) fn verify(self, regions: &[Region], now: Timestamp) -> Result<Vec<RegionCheck>> {
        let mut left = regions.iter().copied();
        let mut waiting: Vec<Piece> = Vec::new();
        let next = || loop {
            if let Some(piece) = waiting.pop() {
                return Ok(Some(piece));
            }
            let Some(region) = left.next() else {
                return Ok(None);
            };
            waiting = self.pieces(region)?;
        };
        on_threads(
            threads(None, THREADS_MAX),
            self.monitor,
            next,
            || Buffers {
                run: vec![0; RUN_CLUSTERS * usize_from_u64(CLUSTER_BYTES)],
            },
            |buffers, piece: Piece| self.piece(&piece, buffers),
        )?;
        let mut faults = self.faults.into_inner();
        let checks = regions.iter().map(|region| {
            let faults = faults.remove(region).unwrap_or_default();
            RegionCheck::of(*region, now, ranges(*region, faults))
        });
        Ok(checks.collect())
    }

    /// The pieces of a region, the last one first.
    fn pieces(&self, region: Region) -> Result<Vec<Piece>> {
        let mut fault = |index: usize, fault: Error| match is_damage(&fault) {
            true => {
                self.note(region, index, None, fault.report());
                Ok(())
            }
            false => Err(fault),
        };
        let mut pieces = match self.sums.load_region(region) {
            Ok(None) => return Ok(Vec::new()),
            Ok(Some(touched)) => pieces(self.image, &Arc::new(touched), &mut fault)?,
            Err(e) if is_damage(&e) => {
                // Without its leaves nothing of the region can be proved.
                let fault = format!("the sums cannot be read: {}", e.report());
                let all = (0..LEAVES_PER_REGION).map(|index| (index, (None, fault.clone())));
                self.faults.lock().entry(region).or_default().extend(all);
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        pieces.reverse();
        Ok(pieces)
    }

    fn piece(&self, piece: &Piece, buffers: &mut Buffers) -> Result<()> {
        for run in &piece.runs {
            let length = u64_from_usize(run.count) * CLUSTER_BYTES;
            self.monitor.check()?;
            self.pace.wait_for(length, self.monitor)?;
            self.run(piece, *run, buffers)?;
            self.monitor.advance(length);
        }
        Ok(())
    }

    fn run(&self, piece: &Piece, run: Run, buffers: &mut Buffers) -> Result<()> {
        let cluster = usize_from_u64(CLUSTER_BYTES);
        let bytes = buffers.run.get_mut(..run.count * cluster);
        let bytes = bytes.ok_or_else(|| Error::invalid("a run is longer than its buffer"))?;
        match self.read(run.mapping, bytes) {
            Ok(()) => {}
            // One sector that cannot be read must not hide the clusters beside it.
            Err(e) if is_damage(&e) && run.count > 1 => {
                return (0..run.count).try_for_each(|n| self.run(piece, run.single(n), buffers));
            }
            Err(e) if is_damage(&e) => {
                self.note(piece.region(), run.first, run.host(), e.report());
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        for (n, (bytes, stated)) in bytes
            .chunks_exact(cluster)
            .zip(piece.leaves(&run))
            .enumerate()
        {
            if leaf_of(bytes).0 != stated {
                let fault = "other content than that of the backup".to_owned();
                let host = run.single(n).host();
                self.note(piece.region(), run.first + n, host, fault);
            }
        }
        Ok(())
    }

    fn read(&self, mapping: Mapping, bytes: &mut [u8]) -> Result<()> {
        match mapping {
            Mapping::Data(host) => self.image.read_data(host, bytes),
            Mapping::Zero { .. } => {
                bytes.fill(0);
                Ok(())
            }
            Mapping::Compressed(place) => self.image.read_compressed(place, bytes),
            Mapping::Unallocated | Mapping::Subclusters { .. } => Err(Error::corrupt(
                "a layer does not hold a cluster of which it has sums",
                "data, zeroes or a compressed cluster",
                "none",
            )),
        }
    }

    fn note(&self, region: Region, index: usize, host: Option<u64>, fault: String) {
        let mut faults = self.faults.lock();
        faults
            .entry(region)
            .or_default()
            .insert(index, (host, fault));
    }
}

/// Damaged clusters as ranges of the disk. Neighbours with the same fault, one after the other in the file, are one range.
fn ranges(region: Region, faults: Faults) -> Vec<DamagedRange> {
    let mut ranges: Vec<DamagedRange> = Vec::new();
    for (index, (file_offset, fault)) in faults {
        let cluster = region.first_cluster().0 + u64_from_usize(index);
        let offset = cluster.saturating_mul(CLUSTER_BYTES);
        if let Some(last) = ranges.last_mut()
            && last.offset + last.length_bytes == offset
            && last.fault == fault
            && last.file_offset.map(|at| at + last.length_bytes) == file_offset
        {
            last.length_bytes += CLUSTER_BYTES;
            continue;
        }
        ranges.push(DamagedRange {
            offset,
            length_bytes: CLUSTER_BYTES,
            file_offset,
            fault,
            unknown: Unknown::new(),
        });
    }
    match (ranges.first(), ranges.last()) {
        (Some(first), Some(last)) if ranges.len() > RANGES_MAX => {
            let (offset, fault) = (first.offset, &first.fault);
            vec![DamagedRange {
                offset,
                length_bytes: last.offset + last.length_bytes - offset,
                file_offset: None,
                fault: format!("{} damaged places; the first: {fault}", ranges.len()),
                unknown: Unknown::new(),
            }]
        }
        _ => ranges,
    }
}
