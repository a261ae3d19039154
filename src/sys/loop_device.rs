//! Loop devices: a file as a block device (loop(4)). It is attached, found again by its file, and detached
//! only while unused.
//!
//! # Invariants
//! - A device is never detached lazily. The driver itself would do so: it accepts the detaching of an open
//!   device without an error, and removes it at the last close. This module cancels such a detaching, and
//!   names the processes that have the device open.
//! - A device's name proves nothing, because names are reused: sysfs shows which file the device has.
#![expect(
    unsafe_code,
    reason = "the driver's ioctls and PR_SET_IO_FLUSHER have no safe wrapper"
)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::device;
use super::flock::{self, Mode};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The driver's own device.
const CONTROL: &str = "/dev/loop-control";
const SYSFS: &str = "/sys/block";
const MAX_PARTITIONS: &str = "/sys/module/loop/parameters/max_part";

/// linux/loop.h.
const LOOP_SET_STATUS64: libc::Ioctl = 0x4c04;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_PARTSCAN: u32 = 8;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LO_NAME_SIZE: usize = 64;

/// Sector size of our devices in bytes: disks are multiples of it.
pub const SECTOR_BYTES: u32 = 512;

/// LIMIT: attempts to get a free device while other processes take them.
const TRIES_MAX: u32 = 100;
/// LIMIT: time for the node of a new device to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// LIMIT: time that a short user (udev, blkid) may hold a device that is being detached.
const USED_PATIENCE: Duration = Duration::from_millis(1500);
/// LIMIT: time that udev may examine a device that has no file yet.
const UDEV_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// LIMIT: processes named as users of a device.
const NAMED_MAX: usize = 5;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; LO_NAME_SIZE],
    crypt_name: [u8; LO_NAME_SIZE],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    const fn empty() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; LO_NAME_SIZE],
            crypt_name: [0; LO_NAME_SIZE],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct Configuration {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Properties of a device to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Writes are refused.
    pub read_only: bool,
    /// The kernel reads the partition table, and makes a device of each partition.
    pub partitions: bool,
    /// The driver bypasses the file's page cache, where that is possible.
    pub direct: bool,
    /// Sector size of the device in bytes: 512 or 4096.
    pub sector_bytes: u32,
}

/// A device that has a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// The file, as sysfs shows it.
    pub file: PathBuf,
}

/// An ioctl whose argument is a number.
fn ioctl_number(file: &File, request: libc::Ioctl, number: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests passed here, LOOP_CTL_GET_FREE and LOOP_CLR_FD, take no pointer.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, number) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// An ioctl whose argument is a structure: `T` must be the structure that `request` is defined with.
fn ioctl_with<T>(file: &File, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: the callers below pass the `repr(C)` structure of linux/loop.h that belongs to the request; it is valid, exclusively
    // borrowed for the call, and any bytes that the kernel writes are valid for its integers.
    let result = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            request,
            std::ptr::from_mut(argument),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Fails where there are no loop devices, or this process may not use them.
///
/// # Errors
/// `Unsupported` with advice when the driver is missing; `PermissionDenied`; `Io`.
pub fn check_driver() -> Result<()> {
    open_control().map(drop)
}

/// Whether the driver was loaded with `max_part`: then the kernel reads the partition table of every device.
#[must_use]
pub fn looks_for_partitions() -> bool {
    std::fs::read_to_string(MAX_PARTITIONS).is_ok_and(|text| is_more_than_none(&text))
}

fn is_more_than_none(number: &str) -> bool {
    number.trim().parse::<u32>().is_ok_and(|number| number > 0)
}

fn open_control() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
                Error::unsupported("there are no loop devices here")
                    .caused_by(e)
                    .at_path(CONTROL)
                    .advise("load the kernel's driver: modprobe loop")
            }
            _ => Error::io("cannot use loop devices", e).at_path(CONTROL),
        })
}

/// Opens a device's node, which udev or devtmpfs may still be making.
fn open_node(path: &Path, setup: Setup) -> Result<File> {
    let begun = Instant::now();
    loop {
        let opened = File::options()
            .read(true)
            .write(!setup.read_only)
            .open(path);
        match opened {
            Ok(file) => return Ok(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound && begun.elapsed() < NODE_PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            Err(e) => {
                return Err(Error::io("cannot open the loop device", e)
                    .at_path(path)
                    .advise("where nothing makes device nodes: mknod /dev/loopN b 7 N"));
            }
        }
    }
}

/// Keeps udev away from a device until the descriptor is closed (systemd.io/BLOCK_DEVICE_LOCKING). Otherwise
/// a udevd that is still processing the device without a file would read the new content, after rules that it
/// has evaluated before.
fn lock(node: &File) -> Result<()> {
    let begun = Instant::now();
    while !flock::try_lock(node, Mode::Exclusive)? {
        if begun.elapsed() > UDEV_PATIENCE {
            return Err(Error::new(
                ErrorKind::Busy,
                "another process holds the lock of a free loop device",
            )
            .advise("udev looks at it (udevadm settle), or another program; try again"));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Makes a block device of a file; losetup shows `name`. Returns `/dev/loopN`.
///
/// # Errors
/// `Unsupported` without the driver, and on Linux before 5.8; `Busy` when other processes take every free
/// device; `Io`.
pub fn attach(file: &File, name: &Path, setup: Setup) -> Result<PathBuf> {
    let control = open_control()?;
    for _ in 0..TRIES_MAX {
        let number = ioctl_number(&control, LOOP_CTL_GET_FREE, 0)
            .or_io("cannot find a free loop device")
            .at_path(CONTROL)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let node = open_node(&path, setup)?;
        lock(&node).at_path(&path)?;
        match configure(&node, file, name, setup) {
            Ok(()) => return Ok(path),
            // Another process got the same number and was faster.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY)) => {
                return Err(Error::unsupported(
                    "loop devices cannot be configured in one step here (Linux 5.8 is needed)",
                )
                .caused_by(e)
                .at_path(path));
            }
            Err(e) => return Err(Error::io("cannot attach the loop device", e).at_path(path)),
        }
    }
    Err(Error::new(
        ErrorKind::Busy,
        "others take every free loop device before it is attached",
    )
    .advise("try again"))
}

fn configure(node: &File, file: &File, name: &Path, setup: Setup) -> io::Result<()> {
    let mut info = Info::empty();
    for (wanted, flag) in [
        (setup.read_only, LO_FLAGS_READ_ONLY),
        (setup.partitions, LO_FLAGS_PARTSCAN),
        (setup.direct, LO_FLAGS_DIRECT_IO),
    ] {
        if wanted {
            info.flags |= flag;
        }
    }
    // The name stays terminated by a zero byte.
    let bytes = name.as_os_str().as_encoded_bytes();
    for (to, from) in info.file_name.iter_mut().take(LO_NAME_SIZE - 1).zip(bytes) {
        *to = *from;
    }
    let fd = u32::try_from(file.as_fd().as_raw_fd())
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let mut configuration = Configuration {
        fd,
        block_size: setup.sector_bytes,
        info,
        reserved: [0; 8],
    };
    ioctl_with(node, LOOP_CONFIGURE, &mut configuration)
}

/// The directory of a device in sysfs.
fn sysfs(device: &Path) -> Result<PathBuf> {
    let name = device
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| is_loop_name(name))
        .ok_or_else(|| Error::invalid("not a loop device (/dev/loopN)").at_path(device))?;
    Ok(Path::new(SYSFS).join(name))
}

fn is_loop_name(name: &str) -> bool {
    name.strip_prefix("loop")
        .is_some_and(|n| !n.is_empty() && n.len() <= 7 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a path names a loop device: `/dev/loopN`.
#[must_use]
pub fn is_loop_path(path: &Path) -> bool {
    path.parent() == Some(Path::new("/dev"))
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_loop_name)
}

/// The file of a device; `None` when it has none, or the device does not exist.
///
/// # Errors
/// `InvalidInput` when it is not a loop device; `Io`.
pub fn backing_file(device: &Path) -> Result<Option<PathBuf>> {
    let path = sysfs(device)?.join("loop/backing_file");
    match std::fs::read(&path) {
        Ok(mut bytes) => {
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Ok(Some(PathBuf::from(OsString::from_vec(bytes))))
        }
        // For a device that is being detached, sysfs yields ENXIO or an empty line.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(Error::io("cannot tell the device's file", e).at_path(path)),
    }
    .map(|file| file.filter(|file| !file.as_os_str().is_empty()))
}

/// All devices that have a file.
///
/// # Errors
/// `Io` when sysfs cannot be read.
pub fn bound() -> Result<Vec<Bound>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(SYSFS)
        .or_io("cannot list block devices")
        .at_path(SYSFS)?
        .flatten()
    {
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_loop_name) {
            continue;
        }
        let device = Path::new("/dev").join(name);
        if let Some(file) = backing_file(&device)? {
            all.push(Bound { device, file });
        }
    }
    all.sort_by(|a, b| a.device.cmp(&b.device));
    Ok(all)
}

/// The name with which a device was attached (the driver keeps 63 bytes of it). It stays the same after a
/// lazy unmount of the file's filesystem.
///
/// # Errors
/// `NotFound`; `Io`, also when it has no file.
pub fn name(device: &Path) -> Result<PathBuf> {
    let info = status(device)?;
    let bytes = info.file_name.iter().copied().take_while(|byte| *byte != 0);
    Ok(PathBuf::from(OsString::from_vec(bytes.collect())))
}

/// The file of a device, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Device and inode of the file.
    pub file: (u64, u64),
    /// Device number when the file is a block device; 0 for a regular file.
    pub number: u64,
}

/// The file of a device. A process that may open the device gets the numbers from the driver, independent of
/// the path; others look up the file's path.
///
/// # Errors
/// `NotFound`; `Io`, also when it has no file.
pub fn behind(bound: &Bound) -> Result<Behind> {
    if let Ok(info) = status(&bound.device) {
        return Ok(Behind {
            file: (info.device, info.inode),
            number: info.rdevice,
        });
    }
    let metadata = std::fs::metadata(&bound.file)
        .or_io("cannot stat the device's file")
        .at_path(&bound.file)?;
    Ok(Behind {
        file: (metadata.dev(), metadata.ino()),
        number: metadata.rdev(),
    })
}

fn status(device: &Path) -> Result<Info> {
    let failed = |e| Error::io("cannot ask the loop device", e).at_path(device);
    let node = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(device)
        .map_err(failed)?;
    let mut info = Info::empty();
    ioctl_with(&node, LOOP_GET_STATUS64, &mut info).map_err(failed)?;
    Ok(info)
}

/// Whether the driver bypasses the file's page cache.
#[must_use]
pub fn is_direct(device: &Path) -> bool {
    sysfs(device)
        .and_then(|dir| std::fs::read_to_string(dir.join("loop/dio")).or_io("no such device"))
        .is_ok_and(|text| text.trim() == "1")
}

/// The readahead of a device in KiB; attaching a new file does not change it.
///
/// # Errors
/// `Io`.
pub fn read_ahead(device: &Path) -> Result<u32> {
    let path = sysfs(device)?.join("queue/read_ahead_kb");
    std::fs::read_to_string(&path)
        .map_err(|e| Error::io("cannot tell the device's readahead", e))
        .and_then(|text| {
            text.trim().parse().map_err(|_| {
                Error::corrupt(
                    "the device's readahead",
                    "a number",
                    text.trim().escape_debug(),
                )
            })
        })
        .at_path(&path)
}

/// Sets the readahead; it affects only speed.
///
/// # Errors
/// `Io`.
pub fn set_read_ahead(device: &Path, kilobytes: u32) -> Result<()> {
    let path = sysfs(device)?.join("queue/read_ahead_kb");
    let mut file = File::options()
        .write(true)
        .open(&path)
        .or_io("cannot set the device's readahead")
        .at_path(&path)?;
    io::Write::write_all(&mut file, kilobytes.to_string().as_bytes())
        .or_io("cannot set the device's readahead")
        .at_path(&path)
}

/// Processes that have a device or one of its partitions open ("dd (123)"), as far as this process has
/// permission to see them, at most a few.
#[must_use]
pub fn openers(device: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return found;
    };
    let own = std::process::id().to_string();
    for process in processes.flatten() {
        let name = process.file_name();
        let pid = name.to_string_lossy();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || *pid == *own {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        // Only the text of the links is read: a stat of the file behind them might block.
        let has_it = descriptors
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|target| is_part_of(&target, device));
        if has_it {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", command.trim()));
            if found.len() >= NAMED_MAX {
                break;
            }
        }
    }
    found
}

/// Whether a path is the device or one of its partitions (`/dev/loop3p1` of `/dev/loop3`).
fn is_part_of(path: &Path, device: &Path) -> bool {
    let (Some(path), Some(device)) = (path.to_str(), device.to_str()) else {
        return false;
    };
    match path.strip_prefix(device) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('p')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())),
        None => false,
    }
}

/// A description of the user of a device, for people; `None` when no user is visible.
///
/// # Errors
/// As [`device::user`].
pub fn user(path: &Path) -> Result<Option<String>> {
    // Mounts and holders are more informative than the processes behind them.
    let seen = device::user(path)?;
    if let Some(description) = &seen
        && (description.starts_with("mounted") || description.starts_with("held"))
    {
        return Ok(seen);
    }
    let openers = openers(path);
    if openers.is_empty() {
        return Ok(seen);
    }
    Ok(Some(format!("open in {}", openers.join(", "))))
}

fn in_use(path: &Path) -> Error {
    let user_description = user(path).ok().flatten();
    let user_description =
        user_description.unwrap_or_else(|| "another process has it open".to_owned());
    Error::new(
        ErrorKind::Busy,
        format!("the device is in use: {user_description}"),
    )
    .at_path(path)
    .advise("unmount it, or end the process that uses it, and try again")
}

/// Detaches the file of an unused device for which `is_ours` is true. A device with no file any more, or with
/// another one, stays as it is.
///
/// # Errors
/// `Busy` naming the user; the device then stays attached. `InvalidInput` when it is not a loop device; `Io`.
pub fn detach(device: &Path, is_ours: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while is_ours()? {
        if detach_once(device, &is_ours)? {
            return Ok(());
        }
        // A mount or a holder does not go away by itself.
        let is_held = user(device)?.is_some_and(|user_description| {
            user_description.starts_with("mounted") || user_description.starts_with("held")
        });
        if is_held || begun.elapsed() > USED_PATIENCE {
            return Err(in_use(device));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Tries to detach once; `false` when the device is in use.
fn detach_once(path: &Path, is_ours: impl Fn() -> Result<bool>) -> Result<bool> {
    let failed = |e| Error::io("cannot detach the loop device", e).at_path(path);
    let exclusive = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK)
        .open(path);
    let node = match exclusive {
        Ok(node) => node,
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
        Err(e) => return Err(failed(e)),
    };
    // Checked again: while this process has the device exclusively, no other can give it another file.
    if !is_ours()? {
        return Ok(true);
    }
    match ioctl_number(&node, LOOP_CLR_FD, 0) {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Ok(false),
        Err(e) => return Err(failed(e)),
    }
    let mut info = Info::empty();
    if ioctl_with(&node, LOOP_GET_STATUS64, &mut info).is_err() {
        // The device does not respond: it is detached already, or will be when this descriptor is closed.
        return Ok(true);
    }
    // Another process has the device open: the driver would remove it at that process's close. It cannot do
    // so while this descriptor is open.
    info.flags &= !LO_FLAGS_AUTOCLEAR;
    ioctl_with(&node, LOOP_SET_STATUS64, &mut info).map_err(failed)?;
    Ok(false)
}

/// Marks this thread, and threads that it starts, as needed for writeback: under memory pressure they do not
/// wait for data that they must write themselves. `false` where the kernel does not support or allow it; then
/// only this protection is missing.
#[must_use]
pub fn become_io_flusher() -> bool {
    /// linux/prctl.h.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    let (on, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: PR_SET_IO_FLUSHER takes numbers only and changes flags of the calling thread.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, none, none, none) == 0 }
}

#[cfg(test)]
mod tests {
    use super::{Configuration, Info, backing_file, is_loop_path, is_more_than_none, is_part_of};
    use std::path::Path;

    #[test]
    fn structures_are_those_of_the_kernel() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Configuration>(), 304);
    }

    #[test]
    fn the_drivers_parameter_is_understood() {
        assert!(is_more_than_none("7\n") && !is_more_than_none("0\n") && !is_more_than_none(""));
    }

    #[test]
    fn names_are_those_of_whole_devices() {
        assert!(is_loop_path(Path::new("/dev/loop0")));
        for other in [
            "/dev/loop",
            "/dev/loop0p1",
            "loop0",
            "/dev/sda",
            "/dev/x/loop0",
            "/dev/loop-control",
        ] {
            assert!(!is_loop_path(Path::new(other)), "{other}");
        }
        assert!(backing_file(Path::new("/dev/null")).is_err());
        assert_eq!(backing_file(Path::new("/dev/loop9999999")).unwrap(), None);
        let device = Path::new("/dev/loop1");
        for (path, expected) in [
            ("/dev/loop1", true),
            ("/dev/loop1p2", true),
            ("/dev/loop11", false),
            ("/dev/loop1px", false),
            ("/dev/loop1p", false),
        ] {
            assert_eq!(is_part_of(Path::new(path), device), expected, "{path}");
        }
    }
}
