//! The files of a VM that are no layers: compared with each other and with the layers, as not all of them have a hash elsewhere.

use std::collections::HashMap;

use super::fault::is_loss;
use super::survey::{Header, Look, Survey};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::lineage::point_faults;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::repo::sidecar::point::Point;
use crate::repo::{Repository, Slot};
use crate::task::Monitor;
use crate::types::{PointId, VmName};

/// The faults of the sidecars of a VM.
#[derive(Default)]
pub(super) struct SidecarFaults {
    /// Of the VM's own.
    pub(super) of_vm: Vec<String>,
    /// Of its points.
    pub(super) of_points: HashMap<PointId, Vec<String>>,
    /// Layers with another content than the sidecar of the point says for which they were made.
    pub(super) of_layers: HashMap<Slot, Vec<String>>,
}

/// How sidecars are looked at.
pub(super) struct Search<'a> {
    pub(super) repository: &'a Repository,
    pub(super) vm: &'a VmName,
    /// Whether attached files are read; otherwise only their sizes are compared.
    pub(super) attached: bool,
    pub(super) monitor: &'a Monitor,
}

impl Search<'_> {
    /// The layers of the VM, and the faults of its sidecars. Others commit, forget and merge meanwhile: of two looks in a row, a fault
    /// counts that both have met.
    ///
    /// # Errors
    /// As [`Survey::of`]; `Cancelled`; errors that are no damage.
    pub(super) fn settled(&self) -> Result<(Survey, SidecarFaults)> {
        let (survey, before) = self.look()?;
        if before.is_empty() {
            return Ok((survey, before));
        }
        std::thread::sleep(self.repository.store().look_up_delay());
        let (survey, mut faults) = self.look()?;
        faults.keep_those_of(&before);
        Ok((survey, faults))
    }

    fn look(&self) -> Result<(Survey, SidecarFaults)> {
        let survey = Survey::of(self.repository, self.vm, Header::Proved)?;
        let mut faults = SidecarFaults {
            of_vm: self.of_vm(&survey)?,
            ..SidecarFaults::default()
        };
        for entry in &survey.index.points {
            self.monitor.check()?;
            let (point, of_point) = self.of_point(entry)?;
            if !of_point.is_empty() {
                faults.of_points.insert(entry.point_id, of_point);
            }
            for (slot, fault) in point
                .iter()
                .flat_map(|point| other_contents(point, &survey))
            {
                faults.of_layers.entry(slot).or_default().push(fault);
            }
        }
        Ok((survey, faults))
    }

    fn of_vm(&self, survey: &Survey) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let (repository, vm) = (self.repository, self.vm);
        let stored = repository.stored_index(vm);
        match (&stored, repository.vm(vm)) {
            (_, Err(e)) => take(&mut faults, e)?,
            (Ok(index), Ok(sidecar)) => {
                let (of_vm, of_index) = (sidecar.vm_id.to_string(), index.vm_id.to_string());
                faults.extend(other(vm, "vm_id", &of_vm, &of_index));
            }
            _ => {}
        }
        match stored {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let what = format!("index.json of {vm} is missing");
                let missing = Error::corrupt(what, "index.json", "no such file");
                let advice = "the owner writes it anew when the repository is next changed; if it was there, look at what removed it";
                faults.push(missing.advise(advice).report());
            }
            Err(e) => take(&mut faults, e)?,
            Ok(index) => faults.extend(unlisted(vm, &index, &survey.index)),
        }
        for name in repository.points_without_sidecar(vm, &survey.index)? {
            let what = format!("the directory points/{name} of {vm} has no point.json");
            let missing = Error::corrupt(what, "the sidecar of a restore point", "no such file")
                .advise("restore the file from a copy of the repository, or remove the directory; layers are not cleaned up until then");
            faults.push(missing.report());
        }
        Ok(faults)
    }

    /// The faults of a point that its chains do not tell, and its sidecar, where that can be read.
    fn of_point(&self, entry: &PointEntry) -> Result<(Option<Point>, Vec<String>)> {
        let mut faults = Vec::new();
        let (repository, vm) = (self.repository, self.vm);
        let (point, found) = point_faults(repository, vm, entry);
        for e in found {
            take(&mut faults, e)?;
        }
        if let Ok(state) = repository.state(vm, entry)
            && state.point_id != entry.point_id
        {
            let what = format!("the state of {vm}@{} belongs to another point", entry.name);
            faults.push(Error::corrupt(what, entry.point_id, state.point_id).report());
        }
        let Some(point) = point else {
            return Ok((None, faults));
        };
        if !is_repeated(&point, entry) {
            let what = format!(
                "index.json has other facts of {vm}@{} than its point.json",
                entry.name
            );
            let other = Error::corrupt(what, "the facts of point.json", "others")
                .advise("the owner mends the index: restorefs rebuild-catalog");
            faults.push(other.report());
        }
        if self.attached {
            for file in &point.attached {
                if let Err(e) = repository.attached(vm, &entry.name, file) {
                    take(&mut faults, e)?;
                }
            }
        }
        Ok((Some(point), faults))
    }
}

impl SidecarFaults {
    fn is_empty(&self) -> bool {
        self.of_vm.is_empty() && self.of_points.is_empty() && self.of_layers.is_empty()
    }

    fn keep_those_of(&mut self, before: &Self) {
        self.of_vm.retain(|fault| before.of_vm.contains(fault));
        keep(&mut self.of_points, &before.of_points);
        keep(&mut self.of_layers, &before.of_layers);
    }
}

fn keep<K: Eq + std::hash::Hash>(
    faults: &mut HashMap<K, Vec<String>>,
    before: &HashMap<K, Vec<String>>,
) {
    faults.retain(|key, faults| {
        let before = before.get(key);
        faults.retain(|fault| before.is_some_and(|before| before.contains(fault)));
        !faults.is_empty()
    });
}

/// Takes a fault as text; an error that is none is returned.
fn take(faults: &mut Vec<String>, found: Error) -> Result<()> {
    match is_loss(&found) {
        true => {
            faults.push(found.report());
            Ok(())
        }
        false => Err(found),
    }
}

fn other(vm: &VmName, what: &str, sidecar: &str, index: &str) -> Option<String> {
    let what = format!("vm.json and index.json of {vm} have another {what}");
    (sidecar != index).then(|| Error::corrupt(what, sidecar, index).report())
}

/// The fault of an index that lists a point that is not there: somebody else wrote it, or it is old.
fn unlisted(vm: &VmName, stored: &Index, found: &Index) -> Option<String> {
    let is_found = |point: &PointEntry| {
        let mut points = found.points.iter();
        points.any(|p| p.point_id == point.point_id)
    };
    let point = stored.points.iter().find(|point| !is_found(point))?;
    let what = format!("index.json of {vm} lists the point {}", point.name);
    let missing = Error::corrupt(what, "its directory below points/", "none").advise("restore the point from a copy of the repository, or let the owner mend the index: restorefs rebuild-catalog");
    Some(missing.report())
}

/// Whether the index repeats the facts of a point's sidecar.
fn is_repeated(point: &Point, entry: &PointEntry) -> bool {
    let told = PointEntry::of(point, entry.point_blake3, entry.serial);
    let facts = |p: &PointEntry| {
        (
            (p.name.clone(), p.point_id, p.seq, p.kind),
            (p.captured_at, p.committed_at, p.parent.clone()),
            p.attached.clone(),
        )
    };
    let layers = |p: &PointEntry| -> Vec<_> {
        let disks = p.disks.iter();
        disks
            .map(|d| {
                (
                    d.name.clone(),
                    d.layer.clone(),
                    d.size_bytes,
                    d.source_bytes,
                )
            })
            .collect()
    };
    facts(&told) == facts(entry) && layers(&told) == layers(entry)
}

/// The layers of a point whose content is not what its sidecar says.
fn other_contents<'a>(
    point: &'a Point,
    survey: &'a Survey,
) -> impl Iterator<Item = (Slot, String)> + 'a {
    point.disks.iter().filter_map(|disk| {
        let Some(Look::Layer(layer)) = survey.looks.get(&disk.layer) else {
            return None;
        };
        let (stated, found) = (disk.content_root, layer.content_root);
        let what = "a layer has another content than was recorded";
        let other = || {
            let other = Error::corrupt(what, stated, found).at_path(disk.layer.layer_file());
            other.advise("restore the file from a copy of the repository")
        };
        (stated != found).then(|| (disk.layer.clone(), other().report()))
    })
}
