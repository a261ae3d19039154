//! Detaching the devices of a map: never one in use, and never one that belongs to another file by now.

use std::path::{Path, PathBuf};

use super::place::{MapDir, MapId};
use super::record::Record;
use super::survey::bound_of;
use crate::error::Result;
use crate::sys::loop_device::{self, Bound};

/// Detaches devices of a map; returns `true` when none is left. While others are left, the detached
/// ones are removed from its record.
pub(super) fn detach(dir: &MapDir, id: &MapId, devices: Option<&[PathBuf]>) -> Result<bool> {
    let bound = bound_of(dir, id, &loop_device::bound()?);
    let (wanted, others): (Vec<_>, Vec<_>) = bound
        .into_iter()
        .map(|bound| bound.device)
        .partition(|device| devices.is_none_or(|devices| devices.contains(device)));
    if wanted.len() > 1 {
        // All devices are checked first, so that the map is not left half detached.
        for device in &wanted {
            crate::sys::device::refuse_used(device)?;
        }
    }
    let record = dir.record(id).ok().flatten();
    // A requested device that is not attached any more is done.
    let mut done: Vec<PathBuf> = devices
        .unwrap_or_default()
        .iter()
        .filter(|device| !wanted.contains(device))
        .cloned()
        .collect();
    let mut result = Ok(());
    for device in wanted {
        // Done before the device is detached: afterwards it may belong to another program.
        let ours = put_back(record.as_ref(), &device);
        result = loop_device::detach(&device, || is_ours(dir, id, &device));
        if result.is_err() {
            set_read_ahead(&device, ours);
            break;
        }
        done.push(device);
    }
    if result.is_ok() && others.is_empty() {
        return Ok(true);
    }
    if !done.is_empty() {
        forget(dir, id, &done)?;
    }
    result.map(|()| false)
}

/// Whether a device shows a file of the map now. It may have been detached a moment ago, and its
/// number reused for another file.
fn is_ours(dir: &MapDir, id: &MapId, device: &Path) -> Result<bool> {
    let file = loop_device::backing_file(device)?;
    let bound = file.map(|file| Bound {
        device: device.to_owned(),
        file,
    });
    Ok(!bound_of(dir, id, bound.as_slice()).is_empty())
}

/// Restores the readahead that a device had before; returns the one that it had in the map.
fn put_back(record: Option<&Record>, device: &Path) -> Option<u32> {
    let disk = record.and_then(|record| record.disks.iter().find(|disk| disk.device == device));
    let before = disk.and_then(|disk| disk.read_ahead_kb_before)?;
    let ours = loop_device::read_ahead(device).ok();
    set_read_ahead(device, Some(before));
    ours
}

/// Sets the readahead. An error is ignored: it only affects speed.
fn set_read_ahead(device: &Path, kilobytes: Option<u32>) {
    if let Some(kilobytes) = kilobytes
        && let Err(error) = loop_device::set_read_ahead(device, kilobytes)
    {
        tracing::debug!(error = %error.report(), "the device's readahead stays as it is");
    }
}

/// Removes devices from a map's record.
fn forget(dir: &MapDir, id: &MapId, devices: &[PathBuf]) -> Result<()> {
    let _lock = dir.lock()?;
    let Some(mut record) = dir.record(id)? else {
        return Ok(());
    };
    record.disks.retain(|disk| !devices.contains(&disk.device));
    dir.put_record(id, &record)
}
