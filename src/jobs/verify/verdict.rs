//! What the results of layers mean for the points of a VM.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::cover::{Cover, Covered};
use super::sidecars::SidecarFaults;
use super::survey::{Layer, Look, Survey};
use crate::error::Result;
use crate::repo::checks::Verdict;
use crate::repo::content::{CLUSTER_BYTES, Region};
use crate::repo::leaves::DEPTH_MAX;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::checks::{Checks, DamagedRange};
use crate::repo::sidecar::index::{DiskEntry, PointEntry};
use crate::repo::sidecar::state::{Damage, DiskDamage};
use crate::repo::{Repository, Slot};
use crate::types::LayerId;

/// LIMIT: ranges of a point that are kept and told.
const RANGES_MAX: usize = 1_000;
/// LIMIT: other faults of a point that are kept and told.
const FAULTS_MAX: usize = 100;

/// What a chain, from one layer on down, adds up to.
#[derive(Debug, Clone, Copy)]
struct Sum {
    /// When the part was verified that waits for longest; `None` while one was never verified.
    since: Option<Timestamp>,
    is_damaged: bool,
    depth: usize,
}

/// Judges the points of a VM.
pub(super) struct Judge<'a> {
    survey: &'a Survey,
    sidecars: &'a SidecarFaults,
    checks: HashMap<&'a Slot, Checks>,
    sums: HashMap<&'a Slot, Sum>,
    cover: Cover<'a>,
    now: Timestamp,
}

impl<'a> Judge<'a> {
    /// A judge with the results that are kept, and newer ones in `fresh`.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn new(
        repository: &'a Repository,
        survey: &'a Survey,
        sidecars: &'a SidecarFaults,
        fresh: &HashMap<(Slot, LayerId), Checks>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut checks = HashMap::new();
        for (slot, layer) in survey.layers() {
            let mut known = repository.checks(&survey.vm, slot, layer)?;
            if let Some(fresh) = fresh.get(&(slot.clone(), layer)) {
                known.take(fresh);
            }
            checks.insert(slot, known);
        }
        Ok(Self {
            survey,
            sidecars,
            checks,
            sums: HashMap::new(),
            cover: Cover::new(repository, &survey.vm),
            now,
        })
    }

    /// The verdict on a point.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn verdict(&mut self, point: &'a PointEntry) -> Result<Verdict> {
        let of_point = self.sidecars.of_points.get(&point.point_id);
        let mut faults: Vec<String> = of_point.into_iter().flatten().cloned().collect();
        let mut ranges = Vec::new();
        let mut since = Some(self.now);
        for disk in &point.disks {
            let sum = self.sum(&disk.layer);
            since = since.zip(sum.since).map(|(a, b)| a.min(b));
            if sum.is_damaged {
                self.damage(disk, &mut ranges, &mut faults)?;
            }
        }
        let mut seen = HashSet::new();
        faults.retain(|fault| seen.insert(fault.clone()));
        let damage = (!faults.is_empty() || !ranges.is_empty()).then(|| {
            let left_out =
                ranges.len().saturating_sub(RANGES_MAX) + faults.len().saturating_sub(FAULTS_MAX);
            ranges.truncate(RANGES_MAX);
            faults.truncate(FAULTS_MAX);
            Damage {
                found_at: self.now,
                faults,
                ranges,
                left_out: left_out as u64,
                unknown: Unknown::new(),
            }
        });
        Ok(Verdict {
            point_id: point.point_id,
            sound_since: since.filter(|_| damage.is_none()),
            damage,
        })
    }

    fn sum(&mut self, top: &'a Slot) -> Sum {
        let mut above: Vec<(&'a Slot, Sum)> = Vec::new();
        let mut below = Sum {
            since: Some(self.now),
            is_damaged: false,
            depth: 0,
        };
        for (slot, look) in self.survey.chain(top) {
            if let Some(known) = self.sums.get(slot) {
                below = *known;
                break;
            }
            above.push((slot, self.alone(slot, look)));
        }
        while let Some((slot, own)) = above.pop() {
            let depth = below.depth + own.depth;
            below = Sum {
                since: own.since.zip(below.since).map(|(a, b)| a.min(b)),
                is_damaged: own.is_damaged || below.is_damaged || depth > DEPTH_MAX,
                depth,
            };
            self.sums.insert(slot, below);
        }
        below
    }

    /// What a layer by itself adds.
    fn alone(&self, slot: &Slot, look: &'a Look) -> Sum {
        let (Look::Layer(layer), Some(checks)) = (look, self.checks.get(slot)) else {
            return Sum {
                since: None,
                is_damaged: true,
                depth: 1,
            };
        };
        let structure = checks.structure.as_ref();
        let mut since = structure.map(|check| check.checked_at);
        for (region, _) in &layer.regions {
            let at = checks.region(*region).map(|check| check.checked_at);
            since = since.zip(at).map(|(a, b)| a.min(b));
        }
        let is_damaged = checks.damaged().next().is_some();
        Sum {
            since,
            is_damaged: is_damaged || self.faults(slot, layer).next().is_some(),
            depth: 1,
        }
    }

    /// The faults of a layer beside those of its data.
    fn faults(&self, slot: &Slot, layer: &'a Layer) -> impl Iterator<Item = &String> {
        let structure = self.checks.get(slot).and_then(|c| c.structure.as_ref());
        let structure = structure.and_then(|check| check.fault.as_ref());
        let content = self.sidecars.of_layers.get(slot).into_iter().flatten();
        // The proof of the structure meets a fault of the header, too, with other advice.
        let is_met = move |fault: &str| {
            let what = fault.split(" (").next().unwrap_or(fault);
            structure.is_some_and(|structure| structure.contains(what))
        };
        let header = layer.header_fault.iter();
        let header = header.filter(move |fault| !is_met(fault));
        header.chain(structure).chain(content)
    }

    /// Adds the damage that a disk meets in its chain. A damaged cluster is met where no layer above holds it.
    fn damage(
        &mut self,
        disk: &'a DiskEntry,
        ranges: &mut Vec<DiskDamage>,
        faults: &mut Vec<String>,
    ) -> Result<()> {
        let survey = self.survey;
        let mut above: Vec<(&'a Slot, &'a Layer)> = Vec::new();
        // A disk that was smaller in between shows nothing below its end.
        let mut shown_bytes = disk.size_bytes;
        let mut found = Vec::new();
        for (slot, look) in survey.chain(&disk.layer) {
            let layer = match look {
                Look::Layer(layer) => layer,
                Look::Broken { fault, .. } => {
                    faults.push(fault.clone());
                    continue;
                }
            };
            faults.extend(self.faults(slot, layer).cloned());
            shown_bytes = shown_bytes.min(layer.disk_bytes);
            let checks = self.checks.get(slot);
            let damaged = checks.iter().flat_map(|checks| checks.damaged());
            let mut below = Below {
                disk,
                slot,
                shown_bytes,
                above: &above,
                cover: &mut self.cover,
                covered: None,
            };
            for damaged in damaged {
                below.met(damaged, &mut found)?;
            }
            above.push((slot, layer));
        }
        if self.sum(&disk.layer).depth > DEPTH_MAX {
            faults.push(format!(
                "the chain of {} has more than {DEPTH_MAX} layers",
                disk.layer.layer_file()
            ));
        }
        found.sort_by_key(|damage| damage.offset);
        ranges.append(&mut found);
        Ok(())
    }
}

/// A damaged layer below others of a disk's chain.
struct Below<'a, 'b> {
    disk: &'b DiskEntry,
    slot: &'b Slot,
    shown_bytes: u64,
    above: &'b [(&'a Slot, &'a Layer)],
    cover: &'b mut Cover<'a>,
    /// Of the region that was looked at last.
    covered: Option<Covered>,
}

impl Below<'_, '_> {
    /// Adds the parts of a damaged range that show through the layers above.
    fn met(&mut self, damaged: &DamagedRange, found: &mut Vec<DiskDamage>) -> Result<()> {
        let end = damaged.offset.saturating_add(damaged.length_bytes);
        let end = end.min(self.shown_bytes);
        let mut is_open = false;
        let mut at = damaged.offset;
        while at < end {
            let length = CLUSTER_BYTES.min(end - at);
            if self.is_covered(at)? {
                is_open = false;
            } else if is_open && let Some(last) = found.last_mut() {
                last.length_bytes += length;
            } else {
                is_open = true;
                let moved = at - damaged.offset;
                found.push(DiskDamage {
                    disk: self.disk.name.clone(),
                    offset: at,
                    length_bytes: length,
                    layer: self.slot.clone(),
                    file_offset: damaged.file_offset.map(|file| file.saturating_add(moved)),
                    fault: damaged.fault.clone(),
                    unknown: Unknown::new(),
                });
            }
            at = at.saturating_add(CLUSTER_BYTES);
        }
        Ok(())
    }

    /// Whether one of the layers above holds the cluster at an offset.
    fn is_covered(&mut self, offset: u64) -> Result<bool> {
        let region = Region::at(offset);
        let covered = match self.covered.take() {
            Some(covered) if covered.region == region => covered,
            _ => self.cover.of(region, self.above)?,
        };
        Ok(self.covered.insert(covered).holds(offset))
    }
}
