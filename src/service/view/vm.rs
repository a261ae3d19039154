//! VMs in answers, and their chains.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::View;
use super::page::{Page, Slice};
use crate::access::Right;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::Slot;
use crate::repo::layer_file::LayerFile;
use crate::repo::layout::VmKeys;
use crate::repo::leaves::DEPTH_MAX;
use crate::repo::selector::Which;
use crate::tree::VmView;
use crate::types::{DiskName, PointName, VmId, VmName};

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct VmAnswer {
    /// Its name.
    pub name: VmName,
    /// Its identity.
    pub vm_id: VmId,
    /// What the hypervisor calls it.
    pub display_name: Option<String>,
    /// The number of its restore points.
    pub points: usize,
    /// The point with the highest `seq`.
    pub latest: Option<PointName>,
    /// When the capture of that point began.
    pub captured_at: Option<Timestamp>,
    /// When it was committed.
    pub committed_at: Option<Timestamp>,
    /// Bytes of its disks.
    pub size_bytes: Option<u64>,
}

impl VmAnswer {
    fn of(vm: &VmView, display_name: Option<String>) -> Self {
        let latest = vm.latest().map(|point| &point.entry);
        Self {
            name: vm.name.clone(),
            vm_id: vm.vm_id,
            display_name,
            points: vm.points.len(),
            latest: latest.map(|point| point.name.clone()),
            captured_at: latest.map(|point| point.captured_at),
            committed_at: latest.map(|point| point.committed_at),
            size_bytes: latest.map(|point| {
                point
                    .disks
                    .iter()
                    .map(|disk| disk.source_bytes)
                    .sum::<u64>()
            }),
        }
    }
}

/// A layer of a VM's chains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChainLayer {
    /// The file's name in `layers/`.
    pub file: String,
    /// The disk.
    pub disk: DiskName,
    /// The restore point whose layer it is; `null` for a hidden layer, which only later points need.
    pub point: Option<PointName>,
    /// The file's name of the layer below; `null` for a full one.
    pub backing: Option<String>,
    /// Bytes of the file.
    pub stored_bytes: Option<u64>,
}

impl View {
    /// The VMs that the caller may read, by name.
    ///
    /// # Errors
    /// `InvalidInput` (the cursor); `Io`.
    pub fn vms(&self, slice: &Slice) -> Result<Page<VmAnswer>> {
        let snapshot = self.tree().snapshot();
        let mut vms: Vec<&Arc<VmView>> = snapshot
            .vms()
            .filter(|vm| self.may(Right::Read, &vm.name))
            .filter(|vm| {
                let after = slice.after.as_deref();
                after.is_none_or(|after| vm.name.as_str() > after)
            })
            .collect();
        vms.sort_by(|a, b| a.name.cmp(&b.name));
        let answers = vms.into_iter().take(slice.limit + 1);
        let answers = answers.map(|vm| VmAnswer::of(vm, None)).collect();
        Ok(slice.cut(answers, |vm| vm.name.to_string()))
    }

    /// One VM.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when its sidecar is damaged; `Io`.
    pub fn vm(&self, vm: &VmName) -> Result<VmAnswer> {
        let view = self.vm_for(vm, Right::Read)?;
        let sidecar = self.repository().vm(&view.name)?;
        Ok(VmAnswer::of(&view, sidecar.display_name))
    }

    /// The layers of a point's chains: of each disk from the point's own layer down to the full one.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when a chain cannot be walked; `LimitExceeded` for one that is too long; `Io`.
    pub fn chain(&self, vm: &VmName, which: &Which) -> Result<Vec<ChainLayer>> {
        let point = self.point_for(vm, which, Right::Read)?;
        let view = self.tree().vm(&point.vm)?;
        let mut owners: HashMap<&Slot, &PointName> = HashMap::new();
        for point in &view.points {
            let disks = point.entry.disks.iter();
            owners.extend(disks.map(|disk| (&disk.layer, &point.entry.name)));
        }
        let (repository, keys) = (self.repository(), VmKeys::new(&point.vm)?);
        let mut layers = Vec::new();
        for disk in &point.entry.disks {
            let mut next = Some(disk.layer.clone());
            let first = layers.len();
            while let Some(slot) = next {
                if layers.len() - first > DEPTH_MAX {
                    return Err(Error::new(
                        ErrorKind::LimitExceeded,
                        format!(
                            "the chain of {} has more than {DEPTH_MAX} layers",
                            disk.name
                        ),
                    ));
                }
                let below = LayerFile::seek(repository, &point.vm, point.vm_id, &slot)?.below;
                let stored = repository.store().stored_bytes(&keys.layer(&slot)?);
                layers.push(ChainLayer {
                    file: slot.layer_file(),
                    disk: disk.name.clone(),
                    point: owners.get(&slot).map(|name| (*name).clone()),
                    backing: below.as_ref().map(Slot::layer_file),
                    stored_bytes: stored.ok(),
                });
                next = below;
            }
        }
        Ok(layers)
    }
}
