//! Direct I/O: reads that pass by the page cache, in the units that a filesystem and its device take.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::hole;
use crate::error::{ErrorKind, Result, ResultExt};

/// Alignment of a buffer that every device takes.
const ALIGNMENT: usize = 4096;

/// Whether direct reads of a regular file may begin at each multiple of `unit_bytes`, at most 4096, and have that length. One such
/// read is tried where the file has data, because filesystems do not look at the alignment in a hole. `false` where holes cannot be found.
///
/// # Errors
/// `Io` when the file cannot be opened again.
pub fn takes_units(file: impl AsFd, unit_bytes: u32) -> Result<bool> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let file = match opened {
        // The filesystem has no direct I/O.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
        other => other.or_io("cannot open a file for direct I/O")?,
    };
    let length = usize::try_from(unit_bytes).unwrap_or(ALIGNMENT);
    let mut space = vec![0_u8; 2 * ALIGNMENT];
    let from = space.as_ptr().align_offset(ALIGNMENT);
    let Some(buffer) = space.get_mut(from..from.saturating_add(length)) else {
        return Ok(false);
    };
    let data = match hole::next_data(&file, 0) {
        Ok(Some(data)) => data,
        Ok(None) => return Ok(true),
        Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(false),
        Err(e) => return Err(e),
    };
    match file.read_at(buffer, data.saturating_add(unit_bytes.into())) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(e) => Err(e).or_io("cannot read a file by direct I/O"),
    }
}

#[cfg(test)]
mod tests {
    use super::takes_units;
    use std::os::unix::fs::FileExt;

    #[test]
    fn whole_pages_are_taken_where_direct_reads_are_and_odd_ones_are_not() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 65_536], 65_536).unwrap();
        // A filesystem in memory may take any unit.
        let is_taken = takes_units(&file, 4096).unwrap();
        assert!(is_taken || !takes_units(&file, 512).unwrap());
    }
}
