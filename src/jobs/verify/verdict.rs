//! What the results of layers mean for the points of a VM.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::survey::{Layer, Look, Survey};
use crate::error::{Error, Result};
use crate::repo::checks::Verdict;
use crate::repo::content::{CLUSTER_BYTES, LEAVES_PER_REGION, Region};
use crate::repo::lineage::Lineage;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::checks::{Checks, DamagedRange};
use crate::repo::sidecar::index::{DiskEntry, PointEntry};
use crate::repo::sidecar::state::{Damage, DiskDamage};
use crate::repo::{Repository, Slot};
use crate::types::LayerId;
use crate::types::width::usize_from_u64;

/// LIMIT: ranges of a point that are kept and told.
const RANGES_MAX: usize = 1_000;
/// LIMIT: other faults of a point that are kept and told.
const FAULTS_MAX: usize = 100;

/// Which clusters of a region a layer holds: a bitmap; `None` for none.
type Bitmap = Option<Vec<u8>>;

/// What a chain, from one layer on down, adds up to.
#[derive(Debug, Clone, Copy)]
struct Sum {
    /// When the part was verified that waits for longest; `None` while one was never verified.
    since: Option<Timestamp>,
    is_damaged: bool,
}

/// Judges the points of a VM.
pub(super) struct Judge<'a> {
    repository: &'a Repository,
    survey: &'a Survey,
    lineage: Lineage<'a>,
    checks: HashMap<&'a Slot, Checks>,
    sums: HashMap<&'a Slot, Sum>,
    bitmaps: HashMap<(&'a Slot, Region), Bitmap>,
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
        fresh: &HashMap<(Slot, LayerId), Checks>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut checks = HashMap::new();
        for (slot, look) in &survey.looks {
            if let Look::Layer(layer) = look {
                let mut known = repository.checks(&survey.vm, slot, layer.layer)?;
                if let Some(fresh) = fresh.get(&(slot.clone(), layer.layer)) {
                    known.take(fresh);
                }
                checks.insert(slot, known);
            }
        }
        Ok(Self {
            repository,
            survey,
            lineage: Lineage::new(repository, &survey.vm, &survey.index),
            checks,
            sums: HashMap::new(),
            bitmaps: HashMap::new(),
            now,
        })
    }

    /// The verdict on a point. `others` are faults that the caller has found beside the layers.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn verdict(
        &mut self,
        point: &'a PointEntry,
        others: Vec<String>,
    ) -> Result<Verdict> {
        let mut faults = others;
        let found = self.lineage.damage_of(point)?;
        faults.extend(found.iter().map(Error::report));
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
        };
        for (slot, look) in self.survey.chain(top) {
            if let Some(known) = self.sums.get(slot) {
                below = *known;
                break;
            }
            above.push((slot, self.alone(slot, look)));
        }
        while let Some((slot, own)) = above.pop() {
            below = Sum {
                since: own.since.zip(below.since).map(|(a, b)| a.min(b)),
                is_damaged: own.is_damaged || below.is_damaged,
            };
            self.sums.insert(slot, below);
        }
        below
    }

    /// What a layer by itself adds.
    fn alone(&self, slot: &Slot, look: &Look) -> Sum {
        let (Look::Layer(layer), Some(checks)) = (look, self.checks.get(slot)) else {
            return Sum {
                since: None,
                is_damaged: true,
            };
        };
        let structure = checks.structure.as_ref();
        let mut since = structure.map(|check| check.checked_at);
        for (region, _) in &layer.regions {
            let at = checks.region(*region).map(|check| check.checked_at);
            since = since.zip(at).map(|(a, b)| a.min(b));
        }
        let damaged = checks.regions.iter().any(|check| !check.damaged.is_empty());
        Sum {
            since,
            is_damaged: damaged || structure.is_some_and(|check| check.fault.is_some()),
        }
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
        let mut found = Vec::new();
        for (slot, look) in survey.chain(&disk.layer) {
            let layer = match look {
                Look::Layer(layer) => layer,
                Look::Broken { fault, .. } => {
                    faults.push(fault.clone());
                    continue;
                }
            };
            let checks = self.checks.get(slot).cloned();
            if let Some(checks) = checks {
                let structure = checks.structure.and_then(|check| check.fault);
                faults.extend(structure);
                for damaged in checks.regions.into_iter().flat_map(|check| check.damaged) {
                    self.met(disk, slot, &damaged, &above, &mut found)?;
                }
            }
            above.push((slot, layer));
        }
        found.sort_by_key(|damage| damage.offset);
        ranges.append(&mut found);
        Ok(())
    }

    /// Adds the parts of a damaged range that show through the layers above.
    fn met(
        &mut self,
        disk: &DiskEntry,
        slot: &Slot,
        damaged: &DamagedRange,
        above: &[(&'a Slot, &'a Layer)],
        found: &mut Vec<DiskDamage>,
    ) -> Result<()> {
        let end = damaged.offset.saturating_add(damaged.length_bytes);
        // A disk that was smaller in between shows nothing below its end.
        let shown = above.iter().map(|(_, layer)| layer.disk_bytes);
        let end = end
            .min(shown.min().unwrap_or(u64::MAX))
            .min(disk.size_bytes);
        let mut is_open = false;
        let mut at = damaged.offset;
        while at < end {
            let length = CLUSTER_BYTES.min(end - at);
            if self.is_held(at, above)? {
                is_open = false;
            } else if is_open && let Some(last) = found.last_mut() {
                last.length_bytes += length;
            } else {
                is_open = true;
                found.push(DiskDamage {
                    disk: disk.name.clone(),
                    offset: at,
                    length_bytes: length,
                    layer: slot.clone(),
                    file_offset: damaged.file_offset.map(|file| file + (at - damaged.offset)),
                    fault: damaged.fault.clone(),
                    unknown: Unknown::new(),
                });
            }
            at += CLUSTER_BYTES;
        }
        Ok(())
    }

    /// Whether one of these layers holds the cluster at an offset.
    fn is_held(&mut self, offset: u64, layers: &[(&'a Slot, &'a Layer)]) -> Result<bool> {
        let region = Region::at(offset);
        let index = usize_from_u64(offset / CLUSTER_BYTES) % LEAVES_PER_REGION;
        for (slot, layer) in layers {
            if !layer.regions.iter().any(|(touched, _)| *touched == region) {
                continue;
            }
            if !self.bitmaps.contains_key(&(*slot, region)) {
                let bitmap = self.bitmap(slot, layer.layer, region)?;
                self.bitmaps.insert((*slot, region), bitmap);
            }
            let bitmap = self.bitmaps.get(&(*slot, region)).and_then(Option::as_ref);
            let byte = bitmap.and_then(|bitmap| bitmap.get(index / 8));
            if byte.is_some_and(|byte| byte & (1 << (index % 8)) != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The clusters that a layer holds of a region. Sums that cannot be read hide nothing: the damage is told rather than not.
    fn bitmap(&self, slot: &Slot, layer: LayerId, region: Region) -> Result<Bitmap> {
        let sums = self.repository.find_sums(&self.survey.vm, slot, layer);
        match sums.and_then(|sums| sums.load_bitmap(region)) {
            Err(e) if super::data::is_damage(&e) => Ok(None),
            Err(e) if e.kind() == crate::error::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }
}
