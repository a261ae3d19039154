//! The bytes that the layers of restore points take in the repository.

use super::layout::VmKeys;
use super::repository::Repository;
use super::sidecar::index::PointEntry;
use crate::error::{ErrorKind, Result};
use crate::types::VmName;

/// Bytes of the layer of each disk of a point, in the order of its disks; `None` for one that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBytes(Vec<Option<u64>>);

impl StoredBytes {
    /// The bytes of each disk.
    #[must_use]
    pub fn of_disks(&self) -> &[Option<u64>] {
        &self.0
    }

    /// The bytes of all disks; `None` when a layer is missing.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.0.iter().copied().sum()
    }
}

impl Repository {
    /// What a point's own layers take in the store, without their sums. Layers below them, on which they are based, are
    /// not counted. It looks at no content.
    ///
    /// # Errors
    /// `Io`.
    pub fn stored_bytes(&self, vm: &VmName, point: &PointEntry) -> Result<StoredBytes> {
        let keys = VmKeys::new(vm)?;
        let of_disk = |slot| match self.store().stored_bytes(&keys.layer(slot)?) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        };
        let disks = point.disks.iter().map(|disk| of_disk(&disk.layer));
        disks.collect::<Result<_>>().map(StoredBytes)
    }
}
