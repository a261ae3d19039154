//! LVM on a disk of any sectors: labels, metadata, thin pools, snapshots. Checksums are set right first, so that what lies behind them
//! is met at all.

use std::sync::Arc;

use restorefs::block::run::Target;
use restorefs::block::{MemoryDisk, ReadAt, WriteAt};
use restorefs::guest::volume::scan_point;

use super::sparse;

/// LVM's checksum.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    !hasher.finalize()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let field = bytes
        .get(at..at + 8)
        .and_then(|field| field.try_into().ok());
    u64::from_le_bytes(field.unwrap_or_default())
}

fn read(disk: &MemoryDisk, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    if disk.read_at(at, &mut bytes).is_err() {
        bytes.fill(0);
    }
    bytes
}

fn write(disk: &MemoryDisk, at: u64, sum: u32) {
    if at + 4 <= sparse::SIZE_BYTES {
        let _ = disk.write_at(at, &sum.to_le_bytes());
    }
}

/// A metadata area's text and header.
fn mend_area(disk: &MemoryDisk, at: u64) {
    let header = read(disk, at, 512);
    let (area, start, length) = (
        number(&header, 32),
        number(&header, 40),
        number(&header, 48),
    );
    if length <= 65_536 && start < area && area <= sparse::SIZE_BYTES {
        let first = length.min(area - start);
        let mut text = read(
            disk,
            at.saturating_add(start),
            usize::try_from(first).unwrap_or(0),
        );
        let rest = usize::try_from(length - first).unwrap_or(0);
        text.extend(read(disk, at.saturating_add(512), rest));
        write(disk, at + 56, checksum(&text));
    }
    write(disk, at, checksum(&read(disk, at, 512)[4..]));
}

fn mend(disk: &MemoryDisk) {
    for sector in 0..sparse::SIZE_BYTES / 512 {
        let at = sector * 512;
        let bytes = read(disk, at, 512);
        if bytes.starts_with(b"LABELONE") {
            write(disk, at + 16, checksum(&bytes[20..]));
        } else if bytes.get(4..20) == Some(b" LVM2 x[5A%r0N*>") {
            mend_area(disk, at);
        }
    }
    for block in 0..sparse::SIZE_BYTES / 4096 {
        let at = block * 4096;
        let bytes = read(disk, at, 4096);
        let xor = match (number(&bytes, 32), number(&bytes, 20) >> 32) {
            (27_022_010, _) => 160_774,
            // Nodes: eight bytes a value.
            (_, 8) => 121_107,
            _ => continue,
        };
        write(disk, at, !crc32c::crc32c(&bytes[4..]) ^ xor);
    }
}

/// Every volume lies on the disk, and can be read or says why not.
pub(crate) fn run(data: &[u8]) {
    let disk = sparse::memory(data, sparse::SIZE_BYTES);
    mend(&disk);
    let disk: Arc<dyn ReadAt> = Arc::new(disk);
    let scan = scan_point(&[("vda".to_owned(), Arc::clone(&disk))]);
    for volume in &scan.volumes {
        for run in volume.map.runs() {
            if let Target::Source { source, offset } = run.target {
                assert!(source == 0 && offset + run.length_bytes <= sparse::SIZE_BYTES);
            }
        }
        let length = volume.map.size_bytes().min(8192);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        assert!(
            volume
                .reader(&[Arc::clone(&disk)])
                .read_at(0, &mut bytes)
                .is_ok()
        );
    }
}
