//! Lists the maps of this machine and their states.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::place::{Life, MapDir, MapId, disk_of};
use super::record::Record;
use crate::error::Result;
use crate::fuse::disk::{FAILED_REQUESTS, LAST_ERROR, SCRATCH_BYTES};
use crate::sys::loop_device::{self, Bound};
use crate::types::DiskName;

/// LIMIT: how long a map's process may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// LIMIT: bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4096;

/// The state of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The map is being made.
    Starting,
    /// The map works.
    Live,
    /// A part of the map is left over, for the given reason.
    Leftover(String),
}

/// A device of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedDevice {
    /// The disk, if it is known.
    pub disk: Option<DiskName>,
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// Whether the device shows the map's file.
    pub is_bound: bool,
    /// Size in bytes; 0 when it is not known.
    pub size_bytes: u64,
    /// Bytes written to the scratch file.
    pub scratch_bytes: Option<u64>,
    /// The number of failed requests.
    pub failed_requests: u64,
    /// The reason of the last failure, or why the process could not be asked.
    pub last_error: Option<String>,
}

/// A map.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Its id.
    pub id: MapId,
    /// The state.
    pub state: State,
    /// The record, if there is one.
    pub record: Option<Record>,
    /// The devices.
    pub devices: Vec<MappedDevice>,
    /// The mountpoint of the disks.
    pub mountpoint: PathBuf,
    /// Whether the map's process lives.
    pub(super) is_alive: bool,
}

impl Mapping {
    /// What can be cleaned up: nothing that works. `None` when the map has no leftover. All of a
    /// map in state `Leftover`, unless its process lives and serves some of its devices: then only
    /// the other devices.
    #[must_use]
    pub fn stale(&self) -> Option<Stale> {
        if !matches!(self.state, State::Leftover(_)) {
            return None;
        }
        if !self.is_alive || !self.devices.iter().any(|device| device.is_bound) {
            return Some(Stale::All);
        }
        let gone = self.devices.iter().filter(|device| !device.is_bound);
        Some(Stale::Devices(gone.map(|d| d.device.clone()).collect()))
    }
}

/// What is left over of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// All of it.
    All,
    /// These devices, which are no longer attached.
    Devices(Vec<PathBuf>),
}

/// The devices that show files of a map, independently of its record.
pub(super) fn bound_of(dir: &MapDir, id: &MapId, all: &[Bound]) -> Vec<Bound> {
    let mountpoint = dir.mountpoint(id);
    all.iter()
        .filter_map(|bound| {
            if bound.file.parent() == Some(&mountpoint) {
                return Some(bound.clone());
            }
            // After a lazy unmount by a user, only the file's name is left of the path.
            let file_name = bound.file.file_name()?;
            let is_cut = bound.file.parent() == Some(Path::new("/"))
                && loop_device::name(&bound.device).is_ok_and(|name| name.starts_with(&mountpoint));
            is_cut.then(|| Bound {
                device: bound.device.clone(),
                file: mountpoint.join(file_name),
            })
        })
        .collect()
}

/// Lists all maps. Asks the processes of working maps for their counters.
///
/// # Errors
/// `TimedOut` when another process holds the directory's lock for long; `Io`.
pub fn survey(dir: &MapDir) -> Result<Vec<Mapping>> {
    let mut mappings = {
        let _lock = dir.lock()?;
        let bound = loop_device::bound()?;
        let ids = dir.ids()?;
        ids.into_iter()
            .filter_map(|id| look_at(dir, id, &bound).transpose())
            .collect::<Result<Vec<_>>>()?
    };
    for mapping in mappings.iter_mut().filter(|m| m.state == State::Live) {
        for device in &mut mapping.devices {
            ask(&mapping.mountpoint, device);
        }
    }
    Ok(mappings)
}

/// Examines one map. The caller holds the directory's lock.
fn look_at(dir: &MapDir, id: MapId, bound: &[Bound]) -> Result<Option<Mapping>> {
    let life = dir.life(&id)?;
    if life == Life::Gone {
        return Ok(None);
    }
    let is_alive = life == Life::Alive;
    let bound = bound_of(dir, &id, bound);
    let (record, unreadable) = match dir.record(&id) {
        Ok(record) => (record, None),
        Err(e) => (None, Some(e.report())),
    };
    let mut devices: Vec<MappedDevice> = Vec::new();
    for disk in record.iter().flat_map(|record| &record.disks) {
        let is_bound = bound
            .iter()
            .any(|b| b.device == disk.device && disk_of(&b.file).as_ref() == Some(&disk.disk));
        devices.push(MappedDevice {
            size_bytes: disk.size_bytes,
            ..device(Some(disk.disk.clone()), &disk.device, is_bound)
        });
    }
    for other in bound {
        if !devices
            .iter()
            .any(|d| d.is_bound && d.device == other.device)
        {
            devices.push(device(disk_of(&other.file), &other.device, true));
        }
    }
    let gone: Vec<String> = devices
        .iter()
        .filter(|device| !device.is_bound)
        .map(|device| device.device.display().to_string())
        .collect();
    let state = match (is_alive, &record, unreadable) {
        (false, Some(record), _) => {
            State::Leftover(format!("its process ({}) has ended", record.pid))
        }
        (false, None, _) => State::Leftover("its process has ended".to_owned()),
        (true, _, Some(why)) => State::Leftover(why),
        (true, None, None) => State::Starting,
        (true, Some(_), None) if !gone.is_empty() => {
            State::Leftover(format!("{} is not attached any more", gone.join(", ")))
        }
        (true, Some(_), None) => State::Live,
    };
    Ok(Some(Mapping {
        mountpoint: dir.mountpoint(&id),
        id,
        state,
        record,
        devices,
        is_alive,
    }))
}

fn device(disk: Option<DiskName>, device: &Path, is_bound: bool) -> MappedDevice {
    MappedDevice {
        disk,
        device: device.to_owned(),
        is_bound,
        size_bytes: 0,
        scratch_bytes: None,
        failed_requests: 0,
        last_error: None,
    }
}

/// Asks the process of a map for its counters. The process may be stopped, so the wait is short.
fn ask(mountpoint: &Path, device: &mut MappedDevice) {
    let Some(disk) = &device.disk else {
        return;
    };
    let path = mountpoint.join(super::place::file_name(disk));
    let (answered, answer) = std::sync::mpsc::channel();
    let asking = std::thread::Builder::new().spawn(move || {
        let value = |name: &str| {
            let mut bytes = vec![0; ANSWER_BYTES_MAX];
            let length = rustix::fs::getxattr(&path, name, &mut bytes[..]).ok()?;
            bytes.truncate(length);
            String::from_utf8(bytes).ok()
        };
        // The receiver is gone when the answer took too long.
        let _ = answered.send([SCRATCH_BYTES, FAILED_REQUESTS, LAST_ERROR].map(value));
    });
    match asking
        .ok()
        .and_then(|_| answer.recv_timeout(ANSWER_PATIENCE).ok())
    {
        Some([scratch, failed, last]) => {
            device.scratch_bytes = scratch.and_then(|text| text.parse().ok());
            device.failed_requests = failed.and_then(|text| text.parse().ok()).unwrap_or(0);
            device.last_error = last;
        }
        None => device.last_error = Some("its process does not answer".to_owned()),
    }
}
