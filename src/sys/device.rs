//! Block devices: their size, and whether they are in use.
#![expect(unsafe_code, reason = "BLKGETSIZE64 has no safe wrapper")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::mounts;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// `_IOR(0x12, 114, size_t)`, linux/fs.h.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// Whether an open file is a block device.
///
/// # Errors
/// `Io`.
pub fn is_block(file: &File) -> Result<bool> {
    Ok(file
        .metadata()
        .or_io("cannot stat an open file")?
        .file_type()
        .is_block_device())
}

/// Size of a block device in bytes.
///
/// # Errors
/// `Io`.
pub fn size_bytes(device: impl AsFd) -> Result<u64> {
    let mut size: u64 = 0;
    // SAFETY: BLKGETSIZE64 writes one u64 (the kernel's size is 8 bytes on 64-bit targets) to the pointer, which is valid for the call.
    let result = unsafe {
        libc::ioctl(
            device.as_fd().as_raw_fd(),
            BLKGETSIZE64,
            std::ptr::from_mut(&mut size),
        )
    };
    if result == 0 {
        Ok(size)
    } else {
        Err(Error::io(
            "cannot ask the block device for its size",
            std::io::Error::last_os_error(),
        ))
    }
}

/// A description of the user of a block device, for people ("mounted at /", "held by dm-0"); `None` when no
/// user is visible. It checks mounts and the holders of the device and its partitions (device-mapper, md,
/// swap), and tries to open the device exclusively.
///
/// # Errors
/// `NotFound`; `InvalidInput` when it is not a block device; `Io`.
pub fn user(path: &Path) -> Result<Option<String>> {
    let metadata = std::fs::metadata(path)
        .or_io("cannot stat the device")
        .at_path(path)?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::invalid("not a block device").at_path(path));
    }
    let parts = with_partitions(metadata.rdev());
    if let Some(holder) = parts.iter().find_map(Part::holder) {
        return Ok(Some(format!("held by {holder}")));
    }
    let numbers: Vec<u64> = parts.iter().map(|part| part.number).collect();
    if let Some(mount) = mounts::of_devices(&numbers)?.first() {
        return Ok(Some(format!("mounted at {}", mount.mountpoint.display())));
    }
    let exclusive = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    match exclusive {
        Ok(_) => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            Ok(Some("in use, according to the kernel".to_owned()))
        }
        Err(e) => Err(Error::io("cannot open the device", e).at_path(path)),
    }
}

/// Refuses a block device that is in use.
///
/// # Errors
/// `Busy`, naming the user; as [`user`].
pub fn refuse_used(path: &Path) -> Result<()> {
    match user(path)? {
        None => Ok(()),
        Some(user) => {
            Err(Error::new(ErrorKind::Busy, format!("the device is in use: {user}")).at_path(path))
        }
    }
}

/// A block device, or one of its partitions.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Its number, as in `st_rdev`.
    pub(super) number: u64,
    sys: PathBuf,
}

/// A block device and its partitions, as sysfs shows them.
pub(super) fn with_partitions(number: u64) -> Vec<Part> {
    let (major, minor) = (libc::major(number), libc::minor(number));
    let sys = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let entries = std::fs::read_dir(&sys).into_iter().flatten().flatten();
    let mut parts = vec![Part { number, sys }];
    for entry in entries {
        let sys = entry.path();
        if !sys.join("partition").exists() {
            continue;
        }
        let text = std::fs::read_to_string(sys.join("dev")).unwrap_or_default();
        let number = text.trim().split_once(':').and_then(|(major, minor)| {
            Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
        });
        parts.extend(number.map(|number| Part { number, sys }));
    }
    parts
}

impl Part {
    /// The devices that the kernel has stacked on it (device-mapper, md, bcache), with device-mapper's own
    /// names.
    pub(super) fn holder(&self) -> Option<String> {
        let holders = self.sys.join("holders");
        let names: Vec<String> = std::fs::read_dir(&holders)
            .ok()?
            .flatten()
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                match std::fs::read_to_string(entry.path().join("dm/name")) {
                    Ok(given) => format!("{name} ({})", given.trim_end()),
                    Err(_) => name,
                }
            })
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{is_block, user};
    use crate::error::ErrorKind;

    #[test]
    fn a_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_block(file.as_file()).unwrap());
        let error = user(file.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
