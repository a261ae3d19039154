//! Unmapping: detaches devices, unmounts, and waits for the process to end, so that nothing is
//! left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::detach::detach;
use super::device_helper;
use super::place::{Life, MapDir, MapId};
use super::survey::Mapping;
use crate::error::{Error, ErrorKind, Result};

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
