//! Partition tables on a disk of any sectors.

use restorefs::guest::partition::scan;
use restorefs::guest::volume::scan_disk;

use super::sparse;

/// Every partition that is found lies on the disk.
pub(crate) fn run(data: &[u8]) {
    let disk = sparse::disk(data);
    if let Ok(table) = scan(&disk, 0) {
        for partition in &table.partitions {
            assert!(partition.map.size_bytes() <= sparse::SIZE_BYTES);
        }
    }
    let _ = scan_disk("vda", 0, &disk);
}
