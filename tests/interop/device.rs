//! Block devices, by a loop device over a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use restorefs::block::conformance::check_read_at;
use restorefs::block::{FileDisk, ReadAt, WriteAt};
use restorefs::error::ErrorKind;
use restorefs::sys::beneath::Access;
use restorefs::sys::device;

use crate::kit::need::{has, need};
use crate::kit::noise::noise;
use crate::tool::run;

/// A loop device, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        if !has("losetup") {
            return None;
        }
        let output = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(file)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if !need(output.status.success(), &format!("losetup: {said}")) {
            return None;
        }
        Some(Self(PathBuf::from(
            String::from_utf8(output.stdout).unwrap().trim(),
        )))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_a_disk_of_fixed_size() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut expected = noise(5, 1 << 20);
    std::fs::write(file.path(), &expected).unwrap();
    let Some(device) = Loop::new(file.path()) else {
        return;
    };
    let disk = FileDisk::open(&device.0, Access::ReadWrite).unwrap();
    assert!(disk.is_device());
    check_read_at(&disk, &expected);
    // Aligned, and not: the device refuses the second, which is then written as zeroes.
    for (offset, length) in [(65_536u64, 65_536u64), (1, 700)] {
        disk.punch(offset, length).unwrap();
        let start = usize::try_from(offset).unwrap();
        let end = start + usize::try_from(length).unwrap();
        expected.get_mut(start..end).unwrap().fill(0);
    }
    disk.write_at((1 << 20) - 3, b"end").unwrap();
    let length = expected.len();
    expected
        .get_mut(length - 3..)
        .unwrap()
        .copy_from_slice(b"end");
    disk.flush().unwrap();
    check_read_at(&disk, &expected);
    let error = disk.write_at((1 << 20) - 3, b"past").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(disk.set_size(1 << 21).is_err());
    assert_eq!(disk.size_bytes(), 1 << 20);
}

#[test]
fn a_device_in_use_says_by_whom() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16 << 20).unwrap();
    let Some(device) = Loop::new(file.path()) else {
        return;
    };
    assert_eq!(device::user(&device.0).unwrap(), None);
    device::refuse_used(&device.0).unwrap();
    if !has("mkfs.ext4") {
        return;
    }
    run("mkfs.ext4", &["-q", device.0.to_str().unwrap()]);
    let dir = tempfile::tempdir().unwrap();
    run("mount", &[device.0.as_path(), dir.path()]);
    let error = device::refuse_used(&device.0);
    run("umount", &[dir.path()]);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let place = dir.path().to_str().unwrap();
    assert!(error.to_string().contains(place), "{error}");
}
