//! A sums file of any bytes.

use restorefs::block::MemoryDisk;
use restorefs::repo::content::PAGE_BYTES;
use restorefs::repo::sums::Sums;

/// Opens it, and reads every region that it names.
pub(crate) fn run(data: &[u8]) {
    let Ok(sums) = Sums::open(MemoryDisk::from_bytes(data)) else {
        return;
    };
    let mut page = vec![0; PAGE_BYTES];
    let regions: Vec<_> = sums.touched().take(64).collect();
    for (region, held) in regions {
        if let Ok(Some(touched)) = sums.load_region(region) {
            assert_eq!(
                u64::try_from(touched.leaves.len()),
                Ok(u64::from(held) * 32)
            );
            touched.spread(&mut page, |_| true);
        }
    }
    let _ = sums.verify();
}
