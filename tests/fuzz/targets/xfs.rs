//! An XFS filesystem of any sectors, at the size of the smallest that mkfs.xfs makes. Checksums are put right first.

use std::sync::Arc;

use restorefs::block::{MemoryDisk, ReadAt, WriteAt};

use super::{guest, seal, sparse};

/// Magic numbers: where they stand, themselves, where the checksum is, and how many sectors it covers (0: a block).
const SEALS: [(usize, &[u8], usize, usize); 14] = [
    (0, b"XFSB", 224, 1),
    (0, b"XAGF", 216, 1),
    (0, b"XAGI", 312, 1),
    (0, b"XAFL", 32, 1),
    (0, b"IN", 100, 1),
    (0, b"XDB3", 4, 0),
    (0, b"XDD3", 4, 0),
    (0, b"XDF3", 4, 0),
    (0, b"BMA3", 64, 0),
    (0, b"XSLM", 12, 0),
    (0, b"XARM", 12, 0),
    (8, b"\x3b\xee", 12, 0),
    (8, b"\x3d", 12, 0),
    (8, b"\x3e\xbe", 12, 0),
];

fn put_right(disk: &MemoryDisk, data: &[u8]) {
    let mut head = [0; 512];
    if disk.read_at(0, &mut head).is_err() {
        return;
    }
    let block = match head.get(4..8) {
        Some([0, 0, 4, 0]) => 1024,
        _ => 4096,
    };
    for number in seal::sectors(data) {
        let at = number * 512;
        if disk.read_at(at, &mut head).is_err() {
            continue;
        }
        if head.starts_with(b"\xfe\xed\xba\xbe") {
            // A log record without a checksum is not checked.
            let _ = disk.write_at(at + 32, &[0; 4]);
        }
        for (place, magic, field, sectors) in SEALS {
            if head.get(place..place + magic.len()) == Some(magic) {
                let length = if sectors == 0 { block } else { sectors * 512 };
                seal::store(disk, at, length, field, 0);
                break;
            }
        }
    }
}

/// Opens the filesystem and walks it.
pub(crate) fn run(data: &[u8]) {
    let disk = sparse::memory(data, 320 << 20);
    put_right(&disk, data);
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    guest::walk(&[disk]);
}
