//! The device helper of a map: a separate process for every operation on a device.
//!
//! # Why
//! A process that serves a mount must not wait for that mount. If it were killed while it waits,
//! the waiting thread would keep the mount's descriptor open, nobody would answer, and the thread
//! would never end. The loop driver has one lock, so every other process that opens a loop device
//! would wait with it. The helper waits for a process that lives, or for a mount that ended with
//! its process.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::detach::detach;
use super::order::Order;
use super::place::{MapDir, MapId};
use super::record::{DISKS_MAX, RecordDisk};
use crate::error::{Error, ErrorKind, Problem, Result, ResultExt};
use crate::sys::loop_device::{self, Setup};
use crate::types::DiskName;
use crate::types::width::u64_from_usize;

/// The argument that makes the program a device helper.
pub const ARGUMENT: &str = "map.device-helper";
/// This program, even when another one has been installed in its place.
const PROGRAM: &str = "/proc/self/exe";
/// LIMIT: bytes of the request, and of the answer.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Readahead of the devices in KiB: four of the kernel's largest requests, like the mounted tree's.
const READ_AHEAD_KB: u32 = 4096;

/// The operation of a device helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Work {
    Attach(Attachment),
    Detach { id: String },
}

/// The request to attach the disks of a map.
#[derive(Debug, Serialize, Deserialize)]
struct Attachment {
    id: String,
    /// Names, sizes in bytes, and bytes of a sector.
    disks: Vec<(DiskName, u64, u32)>,
    read_only: bool,
    partitions: bool,
}

type Done = std::result::Result<Vec<RecordDisk>, Problem>;

/// Attaches the disks of a mounted map, through a helper process: names, sizes in bytes, and bytes
/// of a sector.
///
/// # Errors
/// As [`loop_device::attach`]; `Io` when the process cannot be started. After an error some disks
/// may be attached.
pub(super) fn attach(order: &Order, disks: Vec<(DiskName, u64, u32)>) -> Result<Vec<RecordDisk>> {
    ask(&Work::Attach(Attachment {
        id: order.id.to_string(),
        disks,
        read_only: order.scratch.is_none(),
        partitions: order.partitions,
    }))
}

/// Detaches all devices of a map, through a helper process.
///
/// # Errors
/// As [`detach`]; `Io` when the process cannot be started.
pub(super) fn let_go(id: &MapId) -> Result<()> {
    ask(&Work::Detach { id: id.to_string() }).map(drop)
}

fn ask(work: &Work) -> Result<Vec<RecordDisk>> {
    let failed = "the process that attaches and detaches devices has failed";
    let text = serde_json::to_vec(work).map_err(|e| Error::invalid(failed).caused_by(e))?;
    let mut child = Command::new(PROGRAM)
        .arg0("restorefs")
        .arg(ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .or_io(failed)?;
    // A pipe takes the request at once; anything left over ends with the helper.
    let sent = child.stdin.take().map(|mut pipe| pipe.write_all(&text));
    let mut answer = Vec::new();
    let heard = child
        .stdout
        .take()
        .map(|pipe| pipe.take(MESSAGE_BYTES_MAX).read_to_end(&mut answer));
    let status = child.wait().or_io(failed)?;
    sent.transpose().or_io(failed)?;
    heard.transpose().or_io(failed)?;
    match serde_json::from_slice::<Done>(&answer) {
        Ok(done) => done.map_err(Error::from),
        Err(e) => Err(Error::new(ErrorKind::Io, format!("{failed} ({status})")).caused_by(e)),
    }
}

/// Runs the device helper: executes the request from standard input, and answers on standard
/// output. If the answer cannot be delivered, it detaches the devices that it attached.
///
/// # Errors
/// `InvalidInput` for an invalid request; `Io`. Errors of the operation itself go into the answer.
pub fn run() -> Result<()> {
    let failed = "cannot read the request of the map process";
    let mut text = Vec::new();
    std::io::stdin()
        .take(MESSAGE_BYTES_MAX)
        .read_to_end(&mut text)
        .or_io(failed)?;
    let work: Work =
        serde_json::from_slice(&text).map_err(|e| Error::invalid(failed).caused_by(e))?;
    let dir = MapDir::make()?;
    let done: Done = match &work {
        Work::Attach(what) => attach_all(&dir, what),
        Work::Detach { id } => id
            .parse()
            .and_then(|id| detach(&dir, &id, None))
            .map(|_| Vec::new()),
    }
    .map_err(|e| Problem::from(&e));
    let answer = serde_json::to_vec(&done).map_err(|e| Error::invalid(failed).caused_by(e))?;
    let mut out = std::io::stdout().lock();
    let heard = out.write_all(&answer).and_then(|()| out.flush());
    if let (Err(error), Work::Attach(what)) = (heard, &work) {
        detach(&dir, &what.id.parse()?, None)?;
        return Err(Error::io(
            "the map process ended before it received the answer",
            error,
        ));
    }
    Ok(())
}

fn attach_all(dir: &MapDir, what: &Attachment) -> Result<Vec<RecordDisk>> {
    if what.disks.len() > DISKS_MAX {
        let many = format!("more than {DISKS_MAX} disks");
        return Err(Error::new(ErrorKind::LimitExceeded, many));
    }
    let id: MapId = what.id.parse()?;
    what.disks
        .iter()
        .map(|(disk, size_bytes, sector_bytes)| {
            let setup = Setup {
                read_only: what.read_only,
                partitions: what.partitions,
                direct: true,
                sector_bytes: *sector_bytes,
            };
            let path = dir.disk_file(&id, disk);
            let file = std::fs::File::options()
                .read(true)
                .write(!setup.read_only)
                .open(&path)
                .or_io("cannot open the mounted disk")
                .at_path(&path)?;
            let device = loop_device::attach(&file, &path, setup)?;
            let before = loop_device::read_ahead(&device).ok();
            if let Err(error) = loop_device::set_read_ahead(&device, READ_AHEAD_KB) {
                tracing::debug!(error = %error.report(), "the kernel's own readahead is used");
            }
            if !loop_device::is_direct(&device) {
                tracing::debug!(device = %device.display(), "the device is cached twice");
            }
            Ok(RecordDisk {
                disk: disk.clone(),
                device,
                size_bytes: *size_bytes,
                read_ahead_kb_before: before,
            })
        })
        .collect()
}

// A request is far below the limit: names have at most 128 bytes.
const _: () = assert!(u64_from_usize(DISKS_MAX) * 256 < MESSAGE_BYTES_MAX);
