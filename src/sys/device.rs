//! Block devices: their size, and whether somebody uses them.
#![expect(unsafe_code, reason = "BLKGETSIZE64 has no safe wrapper")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

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

/// Logical sector size of a block device in bytes (BLKSSZGET).
///
/// # Errors
/// `Io`.
pub fn sector_bytes(device: impl AsFd) -> Result<u32> {
    rustix::fs::ioctl_blksszget(device)
        .map_err(|e| Error::io("cannot ask the block device for its sector size", e.into()))
}

/// Who uses a block device, in words for people ("mounted at /", "held by dm-0"); `None` when nobody is seen to. Looks at mounts,
/// at the partitions' and the device's holders (device-mapper, md, swap), and tries to open it exclusively.
///
/// # Errors
/// `NotFound`; `InvalidInput` when it is no block device; `Io`.
pub fn user(path: &Path) -> Result<Option<String>> {
    let metadata = std::fs::metadata(path)
        .or_io("cannot stat the device")
        .at_path(path)?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::invalid("not a block device").at_path(path));
    }
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").or_io("cannot read the mounts")?;
    let sys = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let mut numbers = vec![format!("{major}:{minor}")];
    if let Some(holder) = holders(&sys) {
        return Ok(Some(holder));
    }
    if let Ok(entries) = std::fs::read_dir(&sys) {
        for entry in entries.flatten() {
            let part = entry.path();
            if !part.join("partition").exists() {
                continue;
            }
            if let Ok(number) = std::fs::read_to_string(part.join("dev")) {
                numbers.push(number.trim().to_owned());
            }
            if let Some(holder) = holders(&part) {
                return Ok(Some(holder));
            }
        }
    }
    for number in &numbers {
        if let Some(place) = mounted_at(&mounts, number) {
            return Ok(Some(format!("mounted at {place}")));
        }
    }
    let exclusive = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    match exclusive {
        Ok(_) => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            Ok(Some("the kernel says that it is in use".to_owned()))
        }
        Err(e) => Err(Error::io("cannot open the device", e).at_path(path)),
    }
}

/// Refuses a block device that is in use.
///
/// # Errors
/// `Busy`, saying who uses it; as [`user`].
pub fn refuse_used(path: &Path) -> Result<()> {
    match user(path)? {
        None => Ok(()),
        Some(user) => {
            Err(Error::new(ErrorKind::Busy, format!("the device is in use: {user}")).at_path(path))
        }
    }
}

fn holders(sys: &Path) -> Option<String> {
    let names: Vec<String> = std::fs::read_dir(sys.join("holders"))
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    (!names.is_empty()).then(|| format!("held by {}", names.join(", ")))
}

/// The mountpoint of a device number in the text of mountinfo (proc(5): field 3 is major:minor, field 5 the mountpoint).
fn mounted_at<'a>(mountinfo: &'a str, number: &str) -> Option<&'a str> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some(number)).then(|| fields.nth(1))?
    })
}

#[cfg(test)]
mod tests {
    use super::{is_block, mounted_at, user};
    use crate::error::ErrorKind;

    #[test]
    fn mounts_are_found_by_number() {
        let text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
                    37 35 8:1 / /boot rw - ext4 /dev/sda1 rw\n";
        assert_eq!(mounted_at(text, "8:1"), Some("/boot"));
        assert_eq!(mounted_at(text, "98:0"), Some("/mnt2"));
        assert_eq!(mounted_at(text, "8:10"), None);
    }

    #[test]
    fn a_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_block(file.as_file()).unwrap());
        let error = user(file.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
