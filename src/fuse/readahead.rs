//! The readahead of a mount.

use std::io::Write;

/// Readahead of the mount where this process may set it: four of the kernel's largest requests, so that
/// several run at once.
const READAHEAD_KB: &str = "4096";

/// Raises the readahead of a mount, found by its device number. Only root may do so, and only speed depends
/// on it. It sends no request to the mount: a process that is killed while it waits for its own mount never
/// ends.
pub(super) fn widen_readahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let written = std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(READAHEAD_KB.as_bytes()));
    if let Err(error) = written {
        tracing::debug!(%path, %error, "the kernel's own readahead is used");
    }
}
