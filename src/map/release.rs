//! Unmapping: detaches devices, unmounts, and waits for the process to end, so that nothing is
//! left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::device_helper;
use super::place::{Life, MapDir, MapId};
use super::record::Record;
use super::survey::{Mapping, bound_of};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::loop_device::{self, Bound};

/// LIMIT: how long the kernel may take to release a file after its device was detached.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// LIMIT: how long a process may take to end after its mount did.
const END_PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// Unmaps the given devices of a map, or all of it. The map ends with its last device.
///
/// # Errors
/// `Busy` when a device is in use, with its users: mounts and holders are checked before any device
/// is detached; `TimedOut` when the map's process does not end; `Io`.
pub fn release(dir: &MapDir, mapping: &Mapping, devices: Option<&[PathBuf]>) -> Result<()> {
    let id = &mapping.id;
    if !detach(dir, id, devices)? {
        return Ok(());
    }
    unmount(&dir.mountpoint(id), mapping.is_alive)?;
    wait(dir, mapping)
}

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

/// Unmounts the disks of a map; not an error when nothing is mounted. When no process serves the
/// mount any more, pending requests fail.
fn unmount(mountpoint: &Path, is_alive: bool) -> Result<()> {
    let flags = if is_alive {
        UnmountFlags::NOFOLLOW
    } else {
        UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH
    };
    let begun = Instant::now();
    loop {
        match rustix::mount::unmount(mountpoint, flags) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if begun.elapsed() < BUSY_PATIENCE => std::thread::sleep(PAUSE),
            Err(e) => {
                return Err(Error::io("cannot unmount the map's disks", e.into())
                    .at_path(mountpoint)
                    .advise("close what uses the directory (fuser -vm DIR), then: restorefs unmap --stale"));
            }
        }
    }
}

/// Waits until the process is gone, and removes what it left.
fn wait(dir: &MapDir, mapping: &Mapping) -> Result<()> {
    let begun = Instant::now();
    loop {
        let life = {
            let _lock = dir.lock()?;
            dir.life(&mapping.id)?
        };
        match life {
            Life::Gone => return Ok(()),
            Life::Dead => return dir.remove(&mapping.id),
            Life::Alive if begun.elapsed() > END_PATIENCE => {
                let pid = mapping
                    .record
                    .as_ref()
                    .map_or_else(|| "?".to_owned(), |record| record.pid.to_string());
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("everything is detached, but the map's process ({pid}) does not end"),
                ));
            }
            Life::Alive => std::thread::sleep(PAUSE),
        }
    }
}

/// Detaches and unmounts for the process itself, without waiting for it to end.
pub(super) fn release_own(dir: &MapDir, id: &MapId) -> Result<()> {
    device_helper::let_go(id)?;
    unmount(&dir.mountpoint(id), true)
}

/// Does the same for a process that has failed, by force where necessary.
pub(super) fn abandon(dir: &MapDir, id: &MapId) {
    if let Err(error) = device_helper::let_go(id) {
        tracing::error!(error = %error.report(), "a device is left; clean up with: restorefs unmap --stale");
        return;
    }
    let cleaned = unmount(&dir.mountpoint(id), false).and_then(|()| dir.remove(id));
    if let Err(error) = cleaned {
        tracing::error!(error = %error.report(), "something is left; clean up with: restorefs unmap --stale");
    }
}
