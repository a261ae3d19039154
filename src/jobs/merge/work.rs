//! The work on one VM: interval after interval, until nothing is worth it.

use std::sync::Arc;

use serde::Serialize;

use super::build::build;
use super::options::MergeOptions;
use super::plan::{Interval, Reach, best};
use crate::chain::settled;
use crate::error::{Error, ErrorKind, Result};
use crate::repo::chains::Chains;
use crate::repo::replace::Replacement;
use crate::repo::selector::Which;
use crate::repo::sidecar::index::Index;
use crate::repo::{Repository, Slot};
use crate::task::Monitor;
use crate::types::{DiskName, VmName};

/// LIMIT: builds in a row that came too late, until the VM is left for another time.
const LATE_MAX: usize = 8;

/// What merging a VM did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Merged {
    /// Layers that are gone.
    pub layers: u64,
    /// Bytes of the layers that were built.
    pub written_bytes: u64,
    /// Bytes that the VM's layers take less than before; what the trash keeps for an hour is not counted.
    pub freed_bytes: u64,
}

/// Swaps a build in: with the lock of the repository, which is taken for no longer than that.
pub type Swap<'a> = &'a dyn Fn(&Replacement) -> Result<()>;

/// Called as each build begins, with its slot and the bytes that it copies at most; returns the build's monitor, or the
/// error that keeps it from beginning.
pub type Watch<'a> = &'a dyn Fn(&Slot, u64) -> Result<Monitor>;

/// Merges what is worth it in a VM.
///
/// # Errors
/// `Corrupt` when a layer is damaged: its chain stays as it is; `NoSpace` when the room does not suffice for the best
/// interval; `NotFound`, `Io`; `Cancelled`. What was merged before stays merged.
pub fn merge_vm(
    repository: &Arc<Repository>,
    vm: &VmName,
    options: &MergeOptions,
    swap: Swap<'_>,
    watch: Watch<'_>,
) -> Result<Merged> {
    let mut merged = Merged::default();
    let mut late = 0;
    loop {
        let (index, chains) = walk(repository, vm)?;
        let found = best(repository, vm, index.vm_id, &chains, options.compact)?;
        let Some((interval, gain)) = found else {
            return Ok(merged);
        };
        check_room(repository, gain.written_bytes, options.low_water_bytes)?;
        let Some(top) = interval.layers.first() else {
            return Err(Error::invalid("no layers were to be merged"));
        };
        let monitor = watch(top, gain.written_bytes)?;
        monitor.check()?;
        match replace(repository, &interval, options, swap, &monitor) {
            Ok(written_bytes) => {
                let before: u64 = interval
                    .layers
                    .iter()
                    .filter_map(|slot| chains.get(slot))
                    .map(|layer| layer.file_bytes)
                    .sum();
                merged.layers += interval.layers.len().saturating_sub(1) as u64;
                merged.written_bytes += written_bytes;
                merged.freed_bytes += before.saturating_sub(written_bytes);
                late = 0;
            }
            // A session began on a layer of the interval, or another process merged it.
            Err(e) if e.kind() == ErrorKind::Stale && late < LATE_MAX => {
                tracing::info!(vm = %vm, error = %e.report(), "a merge came too late, and is planned again");
                late += 1;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Makes the layers of a point full, without reading its source: each takes over what its chain holds. Layers that are
/// full already stay.
///
/// # Errors
/// As [`merge_vm`]; `NotFound` when there is no such point.
pub fn make_full(
    repository: &Arc<Repository>,
    vm: &VmName,
    which: &Which,
    disks: &[DiskName],
    options: &MergeOptions,
    swap: Swap<'_>,
    watch: Watch<'_>,
) -> Result<Merged> {
    let (index, chains) = walk(repository, vm)?;
    let entry = which.find(&index)?;
    let point = repository.point(vm, entry)?;
    if let Some(missing) = disks.iter().find(|name| point.disk(name).is_none()) {
        return Err(Error::not_found(format!(
            "{vm}@{} has no disk {missing}",
            point.name
        )));
    }
    let mut merged = Merged::default();
    for disk in &point.disks {
        if !disks.is_empty() && !disks.iter().any(|name| name.same_as(&disk.name)) {
            continue;
        }
        let layers = chains.from(&disk.layer);
        if layers.len() < 2 {
            continue;
        }
        check_room(repository, disk.data_bytes, options.low_water_bytes)?;
        let interval = Interval {
            vm: vm.clone(),
            vm_id: index.vm_id,
            layers,
            reach: Reach::Full,
        };
        let monitor = watch(&disk.layer, disk.data_bytes)?;
        merged.written_bytes += replace(repository, &interval, options, swap, &monitor)?;
        merged.layers += 1;
    }
    Ok(merged)
}

/// The chains of a VM. Another process may merge or forget between the reads of index and layers, so only a layer that is
/// missing twice is damage.
fn walk(repository: &Repository, vm: &VmName) -> Result<(Index, Chains)> {
    settled(repository.store().look_up_delay(), |_| {
        // A VM that is gone is no damage.
        let index = match repository.index(vm) {
            Err(e) => return Ok(Err(e)),
            Ok(index) => index,
        };
        let chains = Chains::walk(repository, vm, &index)?;
        Ok(Ok((index, chains)))
    })?
}

/// Builds an interval's layer and swaps it in; returns the size of its file in bytes.
fn replace(
    repository: &Arc<Repository>,
    interval: &Interval,
    options: &MergeOptions,
    swap: Swap<'_>,
    monitor: &Monitor,
) -> Result<u64> {
    let built = build(repository, interval, options, None, monitor)?;
    let replacement = &built.replacement;
    let swapped = swap(replacement);
    if let Err(e) = swapped {
        if let Err(left) = replacement.discard(repository) {
            tracing::warn!(vm = %interval.vm, error = %left.report(), "a build that came too late is left over until the repository is next opened");
        }
        return Err(e);
    }
    let slot = replacement.slot()?;
    let file = repository.open_layer(&interval.vm, slot)?;
    Ok(crate::block::ReadAt::size_bytes(file.as_ref()))
}

/// Refuses to write so many bytes when fewer than `low_water_bytes` would stay free.
///
/// # Errors
/// `NoSpace`; `Io`.
pub(in crate::jobs) fn check_room(
    repository: &Repository,
    written_bytes: u64,
    low_water_bytes: u64,
) -> Result<()> {
    let Some(space) = repository.store().space()? else {
        return Ok(());
    };
    let needed = written_bytes.saturating_add(low_water_bytes);
    if space.free_bytes >= needed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NoSpace,
        format!(
            "this needs {written_bytes} bytes beside the {low_water_bytes} that stay free; there are {}",
            space.free_bytes
        ),
    )
    .advise("free room; nothing is lost, and the work goes on another time"))
}
