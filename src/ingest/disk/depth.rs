//! The depth of a session disk's bytes in its chain: the session's layer is the top, the parent's
//! layers lie below it.

use super::DiskWriter;
use crate::block::check_range;
use crate::error::{Error, Result};
use crate::qcow2::Mapping;
use crate::repo::content::CLUSTER_BYTES;
use crate::types::GuestCluster;

impl DiskWriter {
    /// The depth of the bytes at `offset`, and the length for which it holds, at most `length_max`:
    /// 1 where the session holds them, 2 and more where the parent's layers do, 0 where no layer
    /// does. Bytes that the session holds may still be equal to the parent's.
    ///
    /// # Errors
    /// As [`crate::block::ReadAt::extent_at`].
    pub fn depth_at(&self, offset: u64, length_max: u64) -> Result<(u32, u64)> {
        check_range(self.size_bytes(), offset, length_max)?;
        if length_max == 0 {
            return Err(Error::invalid("a depth of no bytes was asked for").at_offset(offset));
        }
        let end = offset + length_max;
        let mut found = None;
        let mut at = offset;
        while at < end {
            let cluster = GuestCluster(at / CLUSTER_BYTES);
            let stop = ((cluster.0 + 1) * CLUSTER_BYTES).min(end);
            let is_held = self.gather.get(cluster.0).is_some()
                || self.draft.mapping(cluster)? != Mapping::Unallocated;
            let (depth, length) = match &self.parent {
                _ if is_held => (1, stop - at),
                Some(parent) => parent.depth(at, stop - at)?,
                None => (0, stop - at),
            };
            if *found.get_or_insert(depth) != depth {
                break;
            }
            at += length;
        }
        Ok((found.unwrap_or_default(), at - offset))
    }
}
