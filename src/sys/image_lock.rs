//! QEMU's image locks: whether another process has an image open for writing.
//!
//! # On-disk layout
//! QEMU (`block/file-posix.c`) keeps read locks on single bytes of an image file: on byte 100 + n while it
//! holds permission n, on byte 200 + n while it denies that permission to others. The permissions
//! (`include/block/block-common.h`): 0 consistent read, 1 write, 2 write unchanged, 3 resize. Measured with
//! QEMU 10: the image of a running machine has 100, 101, 103, 201, 203, its backing file 100, that of
//! `qemu-nbd -r` 100 and 203. So readers lock bytes 201 and 203 as well; only 101, 103 and 200 identify a
//! writer.
//!
//! # Invariants
//! The bytes are only queried (F_OFD_GETLK) and never locked: a machine can start at any time.
#![expect(unsafe_code, reason = "F_OFD_GETLK has no safe wrapper")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result, ResultExt};

/// Bytes that only a writer locks: write, resize, and "no other process may read consistently".
const WRITER_BYTES: [i64; 3] = [101, 103, 200];

/// LIMIT: processes named in an error.
const NAMED_MAX: usize = 3;

/// Whether another descriptor holds one of the bytes that only a writer of the image locks. `false` on
/// filesystems without locks.
///
/// # Errors
/// `Io`.
pub fn has_writer(file: &File) -> Result<bool> {
    for byte in WRITER_BYTES {
        if is_locked(file, byte)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_locked(file: &File, byte: i64) -> Result<bool> {
    // An exclusive lock conflicts with every lock of other processes.
    let (kind, whence) = (libc::F_WRLCK, libc::SEEK_SET);
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap_or_default();
    lock.l_whence = i16::try_from(whence).unwrap_or_default();
    lock.l_start = byte;
    lock.l_len = 1;
    // SAFETY: the descriptor is open, and the pointer is to a `flock` that is valid for the call, which only
    // queries.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result == 0 {
        return Ok(i32::from(lock.l_type) != libc::F_UNLCK);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        // The filesystem has no locks, so nothing is known, as before QEMU 2.10.
        Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(false),
        _ => Err(Error::io("cannot ask for the image's locks", error)),
    }
}

/// The processes that hold a lock on the file, as `NAME (pid N)`, as far as this process has permission to
/// see them.
///
/// # Errors
/// `Io`.
pub fn holders(file: &File) -> Result<Vec<String>> {
    let wanted = file.metadata().or_io("cannot stat an open file")?;
    let mut found = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Ok(found);
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse::<u32>().ok()) else {
            continue;
        };
        if pid != std::process::id() && holds_lock(&process.path(), &wanted) {
            let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (pid {pid})", comm.trim_end()));
            if found.len() >= NAMED_MAX {
                break;
            }
        }
    }
    Ok(found)
}

/// Whether a process has a descriptor of this file that holds a lock (`lock:` in its fdinfo, proc(5)).
fn holds_lock(process: &Path, wanted: &std::fs::Metadata) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let is_it = std::fs::metadata(descriptor.path())
            .is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()));
        is_it
            && std::fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()))
                .is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:")))
    })
}

#[cfg(test)]
mod tests {
    use super::{has_writer, holders};
    use std::os::fd::AsRawFd;

    fn lock_byte(file: &std::fs::File, byte: i64) {
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = i16::try_from(libc::F_RDLCK).unwrap();
        lock.l_start = byte;
        lock.l_len = 1;
        // SAFETY: the descriptor is open and the pointer valid for the call.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    #[test]
    fn only_a_writers_bytes_count_and_only_those_of_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = file.reopen().unwrap();
        for byte in [100, 102, 201, 203] {
            lock_byte(&other, byte);
        }
        assert!(!has_writer(file.as_file()).unwrap());
        for byte in [101, 103, 200] {
            let writer = file.reopen().unwrap();
            lock_byte(&writer, byte);
            assert!(has_writer(file.as_file()).unwrap(), "{byte}");
            assert!(!has_writer(&writer).unwrap(), "its own lock");
        }
        assert!(!has_writer(file.as_file()).unwrap());
        // The list does not contain this process.
        assert!(holders(file.as_file()).unwrap().is_empty());
    }
}
