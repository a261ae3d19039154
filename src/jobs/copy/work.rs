//! Copying a VM: point after point, each in a session of the target.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::alive::Alive;
use super::chain::{SourceChains, TargetSlots};
use super::layer::LayerCopy;
use super::plan::{Due, due, missing};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::ingest::low_water_default;
use crate::repo::Repository;
use crate::repo::adopt::check_origin;
use crate::repo::arrive::Arrival;
use crate::repo::format::MERGE;
use crate::repo::layout::{self, VmKeys};
use crate::repo::sidecar::arriving::{Arriving, ArrivingBase, ArrivingLayer};
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::repo::sidecar::vm::Vm;
use crate::repo::sidecar::{SIDECAR_BYTES_MAX, Unknown};
use crate::store::PutMode;
use crate::task::{Monitor, Pace};
use crate::types::{Digest, DiskName, PointId, PointName, VmId, VmName};

/// LIMIT: plans of one point that a change of the source or the target made useless, until it counts as failed.
const PLANS_MAX: u32 = 8;

/// What a copy asks of the owners of both repositories, and of the one who watches it.
pub trait Ends {
    /// Begins to receive a point at the target; returns the session's name.
    ///
    /// # Errors
    /// As [`crate::repo::Owner::begin_arrival`].
    fn begin(&self, arrival: &Arrival) -> Result<PointName>;

    /// Makes a restore point of what arrived.
    ///
    /// # Errors
    /// As [`crate::repo::Owner::arrive`].
    fn arrive(&self, vm: &VmName, session: &PointName) -> Result<PointEntry>;

    /// Ends a copy that cannot succeed.
    ///
    /// # Errors
    /// Those of ending a session.
    fn abort(&self, vm: &VmName, session: &PointName, reason: &str) -> Result<()>;

    /// Holds a use of a point of the source for as long as the value lives. Without an owner there is none.
    fn hold(&self, vm: &VmName, point: &PointEntry) -> Box<dyn Any>;

    /// The monitor of the bytes of a disk that are to be sent.
    ///
    /// # Errors
    /// Those that keep the copy from beginning.
    fn monitor(&self, disk: &DiskName, bytes: u64) -> Result<Monitor>;

    /// The present time.
    fn now(&self) -> Timestamp;
}

/// A way from one repository to another, for one VM.
pub struct Route<'a> {
    /// The repository that is read.
    pub source: &'a Arc<Repository>,
    /// The repository that receives.
    pub target: &'a Arc<Repository>,
    /// The pace of sending.
    pub pace: &'a Pace,
    /// Both owners.
    pub ends: &'a dyn Ends,
    /// The VM.
    pub vm: &'a VmName,
    /// Its name at the target; that which it has there, or here, where none was chosen.
    pub name: Option<&'a VmName>,
    /// The VMs of the target, by id.
    pub known: &'a HashMap<VmId, VmName>,
    /// The points that are copied; all when there are none.
    pub chosen: &'a [PointName],
    /// Whether points that the target has forgotten are sent again.
    pub is_again: bool,
    /// Whether it is only told what would be done.
    pub is_trial: bool,
}

/// What a copy has done about a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PointState {
    /// It is at the target now.
    Copied,
    /// It was there.
    Present,
    /// It would be sent.
    Due,
    /// It was there, and the target has forgotten it.
    Gone,
    /// It, or what it needs, is damaged; it is not copied.
    Damaged,
}

/// A point after a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PointReport {
    /// Its name at the source.
    pub point: PointName,
    /// Its identity.
    pub point_id: PointId,
    /// What was done.
    pub state: PointState,
    /// Its name at the target, where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<PointName>,
    /// Bytes that were written at the target; of a trial, those of the clusters that would be sent.
    pub sent_bytes: u64,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A VM after a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmReport {
    /// Its name at the source.
    pub vm: VmName,
    /// Its name at the target.
    pub name: VmName,
    /// Its points, by ascending `seq`.
    pub points: Vec<PointReport>,
    /// Directories of the source that are no points, as they have no sidecar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_sidecar: Vec<String>,
    /// Bytes that were written at the target, also for points that are not complete yet.
    pub sent_bytes: u64,
}

/// The VMs of a repository, by id. Those that cannot be read are left out.
///
/// # Errors
/// `Io`.
pub fn known_vms(repository: &Repository) -> Result<HashMap<VmId, VmName>> {
    let names = repository.vm_names()?.into_iter();
    let vms = names.filter_map(|name| Some((repository.vm(&name).ok()?.vm_id, name)));
    Ok(vms.collect())
}

/// What is sent of a point.
struct Parcel {
    layers: Vec<ArrivingLayer>,
    bases: Vec<ArrivingBase>,
}

impl Route<'_> {
    /// Copies what the target lacks of the VM; returns also the error that ended it before its end. What was copied before stays
    /// copied.
    pub fn copy(&self) -> (VmReport, Result<()>) {
        let mut report = VmReport {
            vm: self.vm.clone(),
            name: self.name.unwrap_or(self.vm).clone(),
            points: Vec::new(),
            without_sidecar: Vec::new(),
            sent_bytes: 0,
        };
        let done = self.run(&mut report);
        (report, done)
    }

    /// The name of the VM at the target.
    fn name_there(&self, vm: &Vm) -> Result<VmName> {
        match (self.known.get(&vm.vm_id), self.name) {
            (Some(there), Some(asked)) if !there.same_as(asked) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} is at the target already, as {there}", self.vm),
            )
            .advise("leave out --as")),
            (Some(there), _) => Ok(there.clone()),
            (None, asked) => Ok(asked.unwrap_or(self.vm).clone()),
        }
    }

    fn index_there(&self, name: &VmName, vm: &Vm) -> Result<Option<Index>> {
        match self.target.index(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Ok(index) if index.vm_id == vm.vm_id => {
                check_origin(&self.target.vm(name)?, self.source.format().repository_id)?;
                Ok(Some(index))
            }
            Ok(_) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("there is another VM {name} at the target"),
            )
            .advise("copy it under another name: --as NAME")),
            Err(e) => Err(e),
        }
    }

    fn chosen_ids(&self, index: &Index) -> Result<Vec<PointId>> {
        let find = |name: &PointName| {
            let point = index.point(name).map(|point| point.point_id);
            point.ok_or_else(|| {
                Error::not_found(format!("there is no restore point {}@{name}", self.vm))
                    .advise(format!("list the points with: restorefs ls {}", self.vm))
            })
        };
        self.chosen.iter().map(find).collect()
    }

    fn run(&self, report: &mut VmReport) -> Result<()> {
        let mut failures: HashMap<PointId, (u32, Error)> = HashMap::new();
        let mut sent: HashMap<PointId, PointReport> = HashMap::new();
        let chosen = self.chosen_ids(&self.source.index(self.vm)?)?;
        let target_id = self.target.format().repository_id;
        loop {
            let (vm, index) = (self.source.vm(self.vm)?, self.source.index(self.vm)?);
            let name = self.name_there(&vm)?;
            report.name.clone_from(&name);
            report.without_sidecar = self.source.points_without_sidecar(self.vm, &index)?;
            let there = self.index_there(&name, &vm)?;
            let mut chains = SourceChains::new(self.source, self.vm, vm.vm_id);
            let mut is_again = false;
            report.points.clear();
            for due in due(&index, (there.as_ref(), target_id), &chosen, self.is_again) {
                let entry = match due {
                    Due::There(entry, name) => {
                        let known = sent.get(&entry.point_id).cloned();
                        let present = || reported(&entry, PointState::Present, Some(name));
                        report.points.push(known.unwrap_or_else(present));
                        continue;
                    }
                    Due::Gone(entry) => {
                        report.points.push(reported(&entry, PointState::Gone, None));
                        continue;
                    }
                    Due::Refused(entry, reason) => {
                        let mut damaged = reported(&entry, PointState::Damaged, None);
                        damaged.reason = Some(reason);
                        report.points.push(damaged);
                        continue;
                    }
                    Due::Send(entry) => entry,
                };
                if let Some((plans, error)) = failures.get(&entry.point_id)
                    && (*plans >= PLANS_MAX || error.kind() == ErrorKind::Corrupt)
                {
                    let mut damaged = reported(&entry, PointState::Damaged, None);
                    damaged.reason = Some(error.report());
                    report.points.push(damaged);
                    continue;
                }
                match self.point(&vm, &name, &entry, &mut chains, &mut report.sent_bytes) {
                    Ok(done) => {
                        sent.insert(entry.point_id, done.clone());
                        report.points.push(done);
                    }
                    // The source was merged, or the target has forgotten what the copy stood on: the plan is made again.
                    Err(e)
                        if matches!(
                            e.kind(),
                            ErrorKind::Stale | ErrorKind::NotFound | ErrorKind::Corrupt
                        ) =>
                    {
                        tracing::info!(vm = %self.vm, point = %entry.name, error = %e.report(), "a copy is planned again");
                        let failed = failures.entry(entry.point_id);
                        let failed = failed.or_insert((0, Error::invalid("")));
                        *failed = (failed.0 + 1, e);
                        is_again = true;
                        break;
                    }
                    Err(e) => return Err(e),
                }
            }
            if !is_again {
                return Ok(());
            }
        }
    }

    fn parcel(
        &self,
        name: &VmName,
        entry: &PointEntry,
        chains: &mut SourceChains<'_>,
    ) -> Result<Parcel> {
        let point = self.source.point(self.vm, entry)?;
        let mut slots = TargetSlots::new(self.target, name);
        let mut parcel = Parcel {
            layers: Vec::new(),
            bases: Vec::new(),
        };
        for disk in &point.disks {
            let (layers, base) = missing(
                (&disk.name, &disk.key, disk.content_root),
                &disk.layer,
                &mut |slot| chains.facts(slot),
                &mut |slot| slots.content(slot),
            )?;
            parcel.layers.extend(layers);
            parcel.bases.extend(base);
        }
        Ok(parcel)
    }

    fn point(
        &self,
        vm: &Vm,
        name: &VmName,
        entry: &PointEntry,
        chains: &mut SourceChains<'_>,
        sent_bytes: &mut u64,
    ) -> Result<PointReport> {
        let _use = self.ends.hold(self.vm, entry);
        let parcel = self.parcel(name, entry, chains)?;
        if self.is_trial {
            let mut trial = reported(entry, PointState::Due, None);
            trial.sent_bytes = parcel.layers.iter().map(|layer| layer.held_bytes).sum();
            *sent_bytes += trial.sent_bytes;
            return Ok(trial);
        }
        let key = VmKeys::new(self.vm)?.point_file(&entry.name)?;
        let sidecar = self.source.store().get(&key, SIDECAR_BYTES_MAX)?;
        let arrival = Arrival {
            vm: name.clone(),
            of: vm.clone(),
            name: entry.name.clone(),
            arriving: Arriving {
                origin: self.source.format().repository_id,
                point_id: entry.point_id,
                point_blake3: Digest::of(&sidecar),
                renewed_at: self.ends.now(),
                layers: parcel.layers,
                bases: parcel.bases,
                unknown: Unknown::new(),
            },
            is_merged: self.source.format().incompat.iter().any(|f| f == MERGE),
        };
        let session = self.ends.begin(&arrival)?;
        self.check_room(&arrival, &session)?;
        let sent = AtomicU64::new(0);
        let done = self.send(&arrival, &session, entry, &sidecar, &sent);
        *sent_bytes += sent.load(Ordering::Relaxed);
        let done = done.and_then(|()| self.ends.arrive(name, &session));
        match done {
            Ok(point) => {
                let mut copied = reported(entry, PointState::Copied, Some(point.name));
                copied.sent_bytes = sent.into_inner();
                Ok(copied)
            }
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                // It would take room at the target for as long as the damage lasts.
                if let Err(left) = self.ends.abort(name, &session, &e.report()) {
                    tracing::warn!(vm = %name, session = %session, error = %left.report(), "the copy of a damaged point is left over at the target");
                }
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Refuses a point for which the target has no room: its filesystem must not be filled to the last byte.
    fn check_room(&self, arrival: &Arrival, session: &PointName) -> Result<()> {
        let Some(space) = self.target.store().space()? else {
            return Ok(());
        };
        let keys = VmKeys::new(&arrival.vm)?;
        let mut needed = low_water_default(space.total_bytes);
        for layer in &arrival.arriving.layers {
            let key = keys.arriving(session, &layer.slot, layer.layer_id)?;
            // What has arrived takes its room already.
            let there = self.target.store().stored_bytes(&key).unwrap_or_default();
            needed = needed.saturating_add(layer.file_bytes.saturating_sub(there));
        }
        if arrival.arriving.layers.is_empty() || space.free_bytes >= needed {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "there is no space for {}@{} at the target: it takes {needed} bytes with what must stay free, and {} are free",
                self.vm, arrival.name, space.free_bytes
            ),
        )
        .advise("free room there; what has arrived stays, and the next copy goes on"))
    }

    /// Writes what a point needs into its session.
    fn send(
        &self,
        arrival: &Arrival,
        session: &PointName,
        entry: &PointEntry,
        sidecar: &[u8],
        sent: &AtomicU64,
    ) -> Result<()> {
        let alive = Alive::new(self.target, &arrival.vm, session);
        let dir = VmKeys::new(&arrival.vm)?.session(session)?;
        let stage = self.target.stage();
        let point = self.source.point(self.vm, entry)?;
        alive.check_now()?;
        stage.put(&dir.join(layout::POINT_FILE)?, sidecar, PutMode::Replace)?;
        for file in &point.attached {
            let bytes = self.source.attached(self.vm, &entry.name, file)?;
            let key = dir.join(layout::ATTACHED)?.join(&file.name)?;
            alive.check_now()?;
            stage
                .put(&key, &bytes, PutMode::Replace)
                .at_path(key.as_str())?;
        }
        for disk in arrival.arriving.disks() {
            let layers = arrival.arriving.layers.iter();
            let layers: Vec<&ArrivingLayer> = layers.filter(|layer| layer.disk == *disk).collect();
            let bytes = layers.iter().map(|layer| layer.held_bytes).sum();
            let monitor = self.ends.monitor(disk, bytes)?;
            for layer in layers {
                monitor.check()?;
                let copy = LayerCopy {
                    source: self.source,
                    vm: self.vm,
                    vm_id: arrival.of.vm_id,
                    target: self.target,
                    to_vm: &arrival.vm,
                    session,
                    layer,
                    pace: self.pace,
                    monitor: &monitor,
                    alive: &alive,
                    sent,
                };
                copy.copy()?;
            }
        }
        alive.check_now()
    }
}

fn reported(entry: &PointEntry, state: PointState, name: Option<PointName>) -> PointReport {
    PointReport {
        point: entry.name.clone(),
        point_id: entry.point_id,
        state,
        name,
        sent_bytes: 0,
        reason: None,
    }
}
