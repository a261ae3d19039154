//! Scratch images of a backup job: they keep what the guest overwrites while the disks are copied.

use std::process::{Command, Stdio};

use super::description::Disk;
use crate::capture::directory::Directory;
use crate::capture::machine::MachineDisk;
use crate::capture::room;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The name of a disk's scratch image.
pub(super) fn name(disk: &Disk) -> String {
    format!("{}.qcow2", disk.name)
}

/// Makes the scratch image of a disk, with all its room, and gives it to QEMU's user.
///
/// # Errors
/// `NoSpace` where it has no room; `Unsupported` without `qemu-img`; `Io`.
pub(super) fn make(directory: &Directory, disk: &Disk, size: &MachineDisk) -> Result<()> {
    let name = name(disk);
    let file = directory.file(&name)?;
    let path = directory.path().join(&name);
    let output = Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "compat=1.1,cluster_size=65536",
        ])
        .arg("--")
        .arg(&path)
        .arg(size.size_bytes.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::unsupported("scratch images are made by qemu-img, which is not installed")
                    .advise("install it (Debian: qemu-utils)")
            }
            _ => Error::io("cannot start qemu-img", e),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let kind = match said.contains("No space left") {
            true => ErrorKind::NoSpace,
            false => ErrorKind::Io,
        };
        let said = format!("qemu-img cannot make a scratch image: {}", said.trim());
        return Err(Error::new(kind, said).at_path(&path));
    }
    if !disk.is_read_only {
        room::take(&file, size.size_bytes, &disk.name).at_path(directory.path())?;
    }
    directory.give(&file)
}
