//! A file that is there and is brought to the content of a restore point in place.
//!
//! # Invariants
//! - No other process writes the file meanwhile: neither a second run, which would have its lock, nor a machine or a loop device.
//! - The file has its name and the size of the disk, before and after: a restore that replaces the file meanwhile is found out.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::PointRestore;
use super::place::{Used, refuse_used};
use crate::block::FileDisk;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::jobs::restore::Restored;
use crate::jobs::restore::making::is_named;
use crate::repo::sidecar::point::PointDisk;
use crate::sys::beneath::{Access, Dir};
use crate::sys::flock::{Mode, try_lock};

impl PointRestore<'_> {
    /// Writes what differs into the file `name` of `dir`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for an image, or a file of another size; `Busy` for a file in use; as
    /// [`restore_changed`](crate::jobs::restore::change::restore_changed).
    pub(super) fn to_present_file(
        &self,
        disk: &PointDisk,
        (dir, name): (&Dir, &OsStr),
        is_qcow2: bool,
    ) -> Result<Restored> {
        let path = &dir.path().join(name);
        if is_qcow2 {
            return Err(
                Error::invalid("only a raw file or a device is compared, no QCOW2 image")
                    .at_path(path)
                    .advise("leave --changed-only out, and use --force to replace the image"),
            );
        }
        let file = open(dir, name, path)?;
        let kept = file.try_clone().or_io("cannot keep the file")?;
        refuse_used(path, &file, Used::Target)?;
        check_size(&file, path, disk.source_bytes)?;
        let target = FileDisk::new(file, path, Access::ReadWrite)?;
        let restored = self.disk(disk, &target, false)?;
        check_size(&kept, path, disk.source_bytes)?;
        if is_named(&kept, path)? {
            return Ok(restored);
        }
        Err(Error::new(
            ErrorKind::Busy,
            "another file has the target's name now: the one that was written has lost it",
        )
        .at_path(path)
        .advise("look at what replaced it, and run the same command again"))
    }
}

/// Opens a regular file, never through a symlink, and locks it.
fn open(dir: &Dir, name: &OsStr, path: &Path) -> Result<File> {
    let file = dir.open_file(name, Access::ReadWrite).map_err(|e| {
        if e.kind() == ErrorKind::NotFound {
            return e.advise(
                "--changed-only needs a target that is there; leave it out to restore to a new file",
            );
        }
        e
    })?;
    match try_lock(&file, Mode::Exclusive) {
        Ok(true) => Ok(file),
        Ok(false) => Err(
            Error::new(ErrorKind::Busy, "another process has a lock on the target")
                .at_path(path)
                .advise("wait for it to end, or name another file"),
        ),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e.report(), "the target has no lock: do not restore to it twice at a time");
            Ok(file)
        }
    }
}

fn check_size(file: &File, path: &Path, size_bytes: u64) -> Result<()> {
    let found = file
        .metadata()
        .or_io("cannot look at the target")
        .at_path(path)?
        .size();
    if found == size_bytes {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the target has {found} bytes, the disk {size_bytes}"
    ))
    .at_path(path)
    .advise("leave --changed-only out, and use --force to replace the file"))
}
