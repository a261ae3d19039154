//! Who may be writing a block device, or a file that a block device shows, while it is read.
//!
//! # Invariants
//! What is only mounted read-only is no writer. What cannot be explained (the device cannot be opened exclusively, and no mount, holder or
//! swap area says why) is one.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{device, loop_device, mounts};
use crate::error::{Error, Result, ResultExt};

/// Who may be writing the block device at `path`, in words ("mounted read-write at /srv", "in use by dm-0 (vg0-root)").
///
/// # Errors
/// `NotFound`, `Io`; `InvalidInput` when it is no block device.
pub fn of_device(path: &Path) -> Result<Option<String>> {
    let metadata = std::fs::metadata(path)
        .or_io("cannot stat the device")
        .at_path(path)?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::invalid("not a block device").at_path(path));
    }
    let parts = device::with_partitions(metadata.rdev());
    if let Some(holder) = parts.iter().find_map(|part| part.holder()) {
        return Ok(Some(format!("in use by {holder}")));
    }
    let numbers: Vec<u64> = parts.iter().map(|part| part.number).collect();
    if let Some(swap) = swap_on(&numbers) {
        return Ok(Some(format!("in use as swap ({})", swap.display())));
    }
    let mounts = mounts::of_devices(&numbers)?;
    if let Some(mount) = mounts.iter().find(|mount| mount.is_writable) {
        return Ok(Some(format!(
            "mounted read-write at {}",
            mount.mountpoint.display()
        )));
    }
    if !mounts.is_empty() {
        return Ok(None);
    }
    let exclusive = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    Ok(match exclusive {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            Some("in use: the kernel does not open it exclusively".to_owned())
        }
        // One that may not be opened is found out by whoever reads it.
        _ => None,
    })
}

/// Who may be writing a regular file through a loop device that shows it.
///
/// # Errors
/// `Io`.
pub fn of_file(file: &File) -> Result<Option<String>> {
    let wanted = file.metadata().or_io("cannot stat an open file")?;
    // Without sysfs nothing is known of loop devices.
    for bound in loop_device::bound().unwrap_or_default() {
        let is_it = std::fs::metadata(&bound.file)
            .is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()));
        if !is_it {
            continue;
        }
        if let Ok(Some(words)) = of_device(&bound.device) {
            return Ok(Some(format!(
                "shown by {}, which is {words}",
                bound.device.display()
            )));
        }
    }
    Ok(None)
}

/// The swap area on one of these devices.
fn swap_on(numbers: &[u64]) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/swaps").ok()?;
    let paths = text.lines().skip(1).filter_map(|line| {
        let path = line.split_ascii_whitespace().next()?;
        Some(mounts::unescape(path))
    });
    paths.into_iter().find(|path| {
        std::fs::metadata(path)
            .is_ok_and(|m| m.file_type().is_block_device() && numbers.contains(&m.rdev()))
    })
}
