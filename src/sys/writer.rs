//! Finds processes that may write to a block device, or to a file behind a loop device, while it is read.
//!
//! # Invariants
//! A read-only mount does not count as a writer. An unexplained use does: the device cannot be opened
//! exclusively, and no mount, holder or swap area explains why.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{device, loop_device, mounts};
use crate::error::{Error, Result, ResultExt};

/// LIMIT: stacked loop devices that are followed.
const LAYERS_MAX: u32 = 16;

/// A description of a possible writer of the block device at `path`, for people ("mounted read-write at
/// /srv", "in use by dm-0 (vg0-root)"). It also follows loop devices that show the device or a partition of
/// it.
///
/// # Errors
/// `NotFound`, `Io`; `InvalidInput` when it is not a block device.
pub fn of_device(path: &Path) -> Result<Option<String>> {
    above_device(path, LAYERS_MAX)
}

fn above_device(path: &Path, layers: u32) -> Result<Option<String>> {
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
    let shown = above_loops(|behind| numbers.contains(&behind.number), layers);
    if shown.is_some() || !mounts.is_empty() {
        return Ok(shown);
    }
    let exclusive = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    Ok(match exclusive {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            Some("in use: the kernel does not open it exclusively".to_owned())
        }
        // If this process may not open the device, the later read reports that.
        _ => None,
    })
}

/// A description of a possible writer of a regular file, through a loop device that shows it.
///
/// # Errors
/// `Io`.
pub fn of_file(file: &File) -> Result<Option<String>> {
    let wanted = file.metadata().or_io("cannot stat an open file")?;
    Ok(above_loops(
        |behind| behind.file == (wanted.dev(), wanted.ino()),
        LAYERS_MAX,
    ))
}

/// A description of a possible writer through a loop device that shows the wanted file. Files are compared by
/// their numbers: the path of a loop device's file may be valid only in another mount namespace.
fn above_loops(is_it: impl Fn(&loop_device::Behind) -> bool, layers: u32) -> Option<String> {
    let layers = layers.checked_sub(1)?;
    // Without sysfs nothing is known about loop devices.
    for bound in loop_device::bound().unwrap_or_default() {
        if !loop_device::behind(&bound).is_ok_and(|behind| is_it(&behind)) {
            continue;
        }
        if let Ok(Some(description)) = above_device(&bound.device, layers) {
            return Some(format!(
                "shown by {}, which is {description}",
                bound.device.display()
            ));
        }
    }
    None
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
