//! The structure check over any bytes.

use std::sync::Arc;

use restorefs::block::{MemoryDisk, ReadAt};
use restorefs::qcow2::check::{FINDINGS_MAX, check};

/// Checks an image; what it finds is bounded.
pub(crate) fn run(data: &[u8]) {
    let file: Arc<dyn ReadAt> = Arc::new(MemoryDisk::from_bytes(data));
    if let Ok(report) = check(file) {
        assert!(report.findings.len() <= FINDINGS_MAX);
    }
}
