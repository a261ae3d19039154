//! Bytes in memory as the content of a file: documents and attached files.

use std::sync::Arc;

use crate::block::{ReadAt, check_range};
use crate::error::Result;
use crate::types::width::{u64_from_usize, usize_from_u64};

/// Bytes in memory.
pub(super) struct Bytes(pub(super) Arc<[u8]>);

impl ReadAt for Bytes {
    fn size_bytes(&self) -> u64 {
        u64_from_usize(self.0.len())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size_bytes(), offset, u64_from_usize(buf.len()))?;
        let from = usize_from_u64(offset);
        if let Some(bytes) = self.0.get(from..from + buf.len()) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }
}
