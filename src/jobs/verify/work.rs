//! Verifying a VM: its layers one after the other, then what that means for its points.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::data::LayerData;
use super::fault::{is_damage, is_loss};
use super::plan::{LayerParts, VmParts};
use super::sidecars::Search;
use super::verdict::Judge;
use crate::error::Result;
use crate::qcow2::Image;
use crate::repo::checks::CheckNotes;
use crate::repo::layer_file::LayerFile;
use crate::repo::metadata::prove_structure;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::checks::{Checks, StructureCheck};
use crate::repo::sidecar::index::CheckResult;
use crate::repo::sidecar::state::Damage;
use crate::repo::sums::LayerSums;
use crate::repo::{Repository, Slot};
use crate::task::{Monitor, Pace};
use crate::types::{LayerId, PointName, VmName};

/// LIMIT: faults of one layer's structure that are told.
const FAULTS_MAX: usize = 16;
/// Results of layers that are kept at once.
const LAYERS_AT_ONCE: usize = 64;
/// Regions of a layer that are verified at once: of those a run that is stopped loses the results.
const REGIONS_AT_ONCE: usize = 8;
/// LIMIT: damaged ranges that are kept at once (about 200 bytes each).
const RANGES_AT_ONCE: usize = 4_096;

/// Keeps results: in the owner of the lock.
pub type Keep<'a> = &'a dyn Fn(&VmName, &CheckNotes) -> Result<()>;

/// A point after a verification.
#[derive(Debug, Clone, Serialize)]
pub struct PointReport {
    /// The point.
    pub point: PointName,
    /// Of a point without damage, when the part was verified that waits for longest; `None` while a part was never verified.
    pub sound_since: Option<Timestamp>,
    /// Its damage.
    pub damage: Option<Damage>,
    /// Whether it counted as damaged before.
    pub was_damaged: bool,
}

/// What verifying a VM has found.
#[derive(Debug, Clone, Serialize)]
pub struct VmReport {
    /// The VM.
    pub vm: VmName,
    /// Layers that were verified, wholly or in part.
    pub layers: u64,
    /// Layers that were replaced or went to the trash meanwhile.
    pub passed_over: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Faults of the VM's own files.
    pub faults: Vec<String>,
    /// Its points, by ascending `seq`.
    pub points: Vec<PointReport>,
}

impl VmReport {
    /// Whether anything is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.faults.is_empty() || self.points.iter().any(|point| point.damage.is_some())
    }
}

/// Damaged ranges in notes.
fn ranges_of(notes: &CheckNotes) -> usize {
    let regions = notes.layers.iter().flat_map(|layer| &layer.regions);
    let layers: usize = regions.map(|check| check.damaged.len()).sum();
    let points = notes.points.iter().filter_map(|v| v.damage.as_ref());
    let points: usize = points.map(|damage| damage.ranges.len()).sum();
    layers + points
}

/// How a run works.
pub struct Run<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// The pace of reading.
    pub pace: &'a Pace,
    /// Stops it.
    pub monitor: &'a Monitor,
    /// Watches each layer: gives the monitor that hears of its progress.
    pub watch: &'a dyn Fn(&Slot) -> Monitor,
    /// Whether attached files are read; otherwise only their sizes are compared.
    pub attached: bool,
    /// Where results go; `None` when they are only told.
    pub keep: Option<Keep<'a>>,
    /// The time of the results.
    pub now: Timestamp,
}

impl Run<'_> {
    /// Verifies parts of a VM, and judges its points by all that is known then.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` (the VM's own sidecar); `Cancelled`; errors that are no damage; those of keeping the results. Results of
    /// layers before that are kept.
    pub fn verify(&self, parts: &VmParts) -> Result<VmReport> {
        let mut report = VmReport {
            vm: parts.vm.clone(),
            layers: 0,
            passed_over: 0,
            read_bytes: 0,
            faults: Vec::new(),
            points: Vec::new(),
        };
        let mut fresh: HashMap<(Slot, LayerId), Checks> = HashMap::new();
        let mut notes = CheckNotes::default();
        for layer in &parts.layers {
            let monitor = (self.watch)(&layer.slot);
            let mut checks = Checks::none(layer.slot.clone(), layer.layer);
            let verified = self.layer(&parts.vm, layer, &monitor, &mut checks);
            if checks.structure.is_some() {
                // So is what a layer has that the run was stopped in.
                for part in checks.parts(RANGES_AT_ONCE) {
                    notes.layers.push(part);
                    if notes.layers.len() >= LAYERS_AT_ONCE || ranges_of(&notes) >= RANGES_AT_ONCE {
                        self.note(&parts.vm, &mut notes)?;
                    }
                }
            }
            match verified {
                Ok(true) => {
                    report.layers += 1;
                    report.read_bytes = report.read_bytes.saturating_add(layer.bytes);
                    fresh.insert((layer.slot.clone(), layer.layer), checks);
                }
                Ok(false) => report.passed_over += 1,
                Err(e) => {
                    self.note(&parts.vm, &mut notes)?;
                    return Err(e);
                }
            }
        }
        let search = Search {
            repository: self.repository,
            vm: &parts.vm,
            attached: self.attached,
            monitor: self.monitor,
        };
        let (survey, faults) = match search.settled() {
            Err(e) => {
                self.note(&parts.vm, &mut notes)?;
                return Err(e);
            }
            Ok(found) => found,
        };
        let judged = survey.layers().map(|(slot, layer)| (slot.clone(), layer));
        let judged: Vec<(Slot, LayerId)> = judged.collect();
        let mut judge = Judge::new(self.repository, &survey, &faults, &fresh, self.now)?;
        for point in &survey.index.points {
            self.monitor.check()?;
            let verdict = judge.verdict(point)?;
            report.points.push(PointReport {
                point: point.name.clone(),
                sound_since: verdict.sound_since,
                damage: verdict.damage.clone(),
                was_damaged: point.check == Some(CheckResult::Damaged),
            });
            notes.points.push(verdict);
            if ranges_of(&notes) >= RANGES_AT_ONCE {
                notes.judged.clone_from(&judged);
                self.note(&parts.vm, &mut notes)?;
            }
        }
        if !notes.points.is_empty() {
            notes.judged = judged;
        }
        self.note(&parts.vm, &mut notes)?;
        report.faults.clone_from(&faults.of_vm);
        Ok(report)
    }

    fn note(&self, vm: &VmName, notes: &mut CheckNotes) -> Result<()> {
        let notes = std::mem::take(notes);
        match self.keep {
            Some(keep) if notes != CheckNotes::default() => keep(vm, &notes),
            _ => Ok(()),
        }
    }

    /// Verifies parts of a layer, as far as `checks` has the results when it returns; `false` when it is not the layer of the plan any
    /// more, or cannot be opened: the look at the end tells whether the points still need it.
    fn layer(
        &self,
        vm: &VmName,
        parts: &LayerParts,
        monitor: &Monitor,
        checks: &mut Checks,
    ) -> Result<bool> {
        monitor.check()?;
        let begun = monitor.done_bytes();
        let opened = LayerFile::open(self.repository, vm, &parts.slot).and_then(|file| {
            let sums = self.repository.find_sums(vm, &parts.slot, file.layer)?;
            Ok((file, sums))
        });
        let verified = match opened {
            Ok((file, sums)) if file.layer == parts.layer => {
                self.opened(vm, parts, (&file, &sums), monitor, checks)
            }
            Err(e) if !is_loss(&e) => return Err(e),
            Ok(_) | Err(_) => Ok(false),
        };
        let told = monitor.done_bytes().saturating_sub(begun);
        match verified {
            // A network filesystem loses open files, too.
            Err(e) if !is_loss(&e) => Err(e),
            verified => {
                monitor.advance(parts.bytes.saturating_sub(told));
                Ok(matches!(verified, Ok(true)))
            }
        }
    }

    fn opened(
        &self,
        vm: &VmName,
        parts: &LayerParts,
        (file, sums): (&LayerFile, &LayerSums),
        monitor: &Monitor,
        checks: &mut Checks,
    ) -> Result<bool> {
        let mut faults: Vec<String> = Vec::new();
        let mut before = |bytes| {
            monitor.check()?;
            self.pace.wait_for(bytes, monitor)
        };
        prove_structure(vm, &parts.slot, file, sums, &mut before, &mut |fault| {
            if !is_damage(&fault) {
                return Err(fault);
            }
            faults.push(fault.report());
            Ok(())
        })?;
        let more = faults.len().saturating_sub(FAULTS_MAX);
        faults.truncate(FAULTS_MAX);
        if more > 0 {
            faults.push(format!("{more} more"));
        }
        checks.structure = Some(StructureCheck {
            checked_at: self.now,
            fault: (!faults.is_empty()).then(|| faults.join("; ")),
            unknown: Unknown::new(),
        });
        if parts.regions.is_empty() {
            return Ok(true);
        }
        let image = Image::open(Arc::clone(&file.file))?;
        for regions in parts.regions.chunks(REGIONS_AT_ONCE) {
            let data = LayerData::new(&image, sums, self.pace, monitor);
            checks.regions.extend(data.verify(regions, self.now)?);
        }
        Ok(true)
    }
}
