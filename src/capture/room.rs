//! The room of scratch images, where a full one would make a write of the guest fail.

use std::fs::File;

use crate::error::{ErrorKind, Result};
use crate::sys::hole;
use crate::types::DiskName;

/// Bytes that a QCOW2 image of 64 KiB clusters needs at most: all clusters, L2 tables, refcounts, and the header, each rounded up.
fn full_image_bytes(size_bytes: u64) -> u64 {
    const CLUSTER: u64 = 65_536;
    let clusters = size_bytes.div_ceil(CLUSTER);
    let tables = clusters.div_ceil(CLUSTER / 8) + 1;
    let l1 = (tables * 8).div_ceil(CLUSTER) + 1;
    let all = clusters + tables + l1 + 2;
    let refcounts = all.div_ceil(CLUSTER / 2) * 2 + 4;
    (all + refcounts) * CLUSTER
}

/// Allocates all the room that a scratch image of a disk can need; the file's size stays.
///
/// # Errors
/// `NoSpace` with advice; `Unsupported`, `Io`.
pub(super) fn take(file: &File, size_bytes: u64, disk: &DiskName) -> Result<()> {
    let room = full_image_bytes(size_bytes);
    hole::allocate_beyond(file, room).map_err(|e| match e.kind() {
        ErrorKind::NoSpace => e.advise(format!(
            "QEMU fails the guest's writes when the scratch file of {disk} is full, so it has all its {room} bytes from the beginning: name another directory with --scratch"
        )),
        _ => e,
    })
}

#[cfg(test)]
mod tests {
    use super::full_image_bytes;

    #[test]
    fn a_full_image_has_room_for_its_tables() {
        for gib in [1_u64, 64, 4096] {
            let size = gib << 30;
            let more = full_image_bytes(size) - size;
            assert!(more > size / 8192 + size / 32_768, "{gib}");
            assert!(more < size / 4096 + (2 << 20), "{gib}: {more}");
        }
        assert!(full_image_bytes(512) >= 65_536 * 5);
    }
}
