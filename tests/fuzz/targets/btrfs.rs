//! A btrfs filesystem of any sectors, with nodes of 4 KiB and CRC-32C. Checksums are put right first.

use std::sync::Arc;

use restorefs::block::{MemoryDisk, ReadAt};

use super::{guest, seal, sparse};

/// Bytes of the disk, a node, and where the superblock is.
const SIZE_BYTES: u64 = 64 << 20;
const NODE_BYTES: u64 = 4096;
const SUPERBLOCK: u64 = 65_536;

/// The id of the filesystem, which stands behind the checksum of everything.
fn id(disk: &MemoryDisk, at: u64) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    disk.read_at(at + 32, &mut id).ok().map(|()| id)
}

/// Opens the filesystem and walks it.
pub(crate) fn run(data: &[u8]) {
    let disk = sparse::memory(data, SIZE_BYTES);
    let filesystem = id(&disk, SUPERBLOCK);
    for number in seal::sectors(data) {
        let at = number * 512;
        let is_node = at % NODE_BYTES == 0 && at < SIZE_BYTES && id(&disk, at) == filesystem;
        if is_node {
            seal::store(&disk, at, 4096, 0, 32);
        }
    }
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    guest::walk(&[disk]);
}
