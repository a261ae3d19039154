//! A disk in few bytes: a sequence of sectors, each a number (u32, little-endian) and 512 bytes. The rest is zero.

use std::sync::Arc;

use restorefs::block::{MemoryDisk, ReadAt, WriteAt};

/// Bytes of an ordinary disk.
pub(crate) const SIZE_BYTES: u64 = 4 << 20;

/// The disk of `size_bytes` that `data` describes; what does not fit is left out.
pub(crate) fn memory(data: &[u8], size_bytes: u64) -> MemoryDisk {
    let disk = MemoryDisk::sparse(size_bytes);
    for record in data.chunks_exact(516) {
        let Some((number, sector)) = record.split_first_chunk::<4>() else {
            continue;
        };
        let at = u64::from(u32::from_le_bytes(*number)) * 512;
        if at + 512 <= size_bytes {
            let _ = disk.write_at(at, sector);
        }
    }
    disk
}

/// The same, as what readers take.
#[allow(dead_code, reason = "not every target takes the disk as it is")]
pub(crate) fn disk(data: &[u8]) -> Arc<dyn ReadAt> {
    Arc::new(memory(data, SIZE_BYTES))
}
