//! Partition tables on a disk of any sectors.

use restorefs::guest::partition::scan;
use restorefs::guest::volume::scan_point;

use super::sparse;

/// Every partition that is found lies on the disk.
pub(crate) fn run(data: &[u8]) {
    let disk = sparse::disk(data);
    if let Ok(table) = scan(&disk, 0) {
        for partition in &table.partitions {
            assert!(partition.map.size_bytes() <= sparse::SIZE_BYTES);
        }
    }
    let scan = scan_point(&[("vda".to_owned(), disk)]);
    for volume in &scan.volumes {
        assert!(volume.map.size_bytes() <= sparse::SIZE_BYTES);
    }
}
