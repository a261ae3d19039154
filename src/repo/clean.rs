//! The record of a clean end in the catalog: the marks of each VM when nothing was left to put in order. The
//! next owner examines a VM with the same marks only on demand.
//!
//! # Invariants
//! - The mark of a clean end is removed, durably, before any change: after a crash it is missing, and the
//!   next owner examines all VMs.
//! - A VM is unchanged when inode, size, mtime and ctime of its sidecars and directories are. These
//!   distinguish a copy from its original, and an older catalog from a newer repository.
//! - For an unchanged VM the owner trusts three facts: nothing is left to put in order, which serials were
//!   given, and that the catalog has its points. The owner lists the points from the catalog
//!   ([`Owner::index`](super::Owner::index)), and checks the marks again each time.

use serde::{Deserialize, Serialize};

use super::layout::VmKeys;
use super::repository::Repository;
use crate::error::Result;
use crate::store::Fingerprint;
use crate::types::VmName;

/// A VM at a clean end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CleanVm {
    /// Marks of `vm.json`, `index.json`, `points/`, `layers/`, `state/`.
    marks: [Option<Fingerprint>; 5],
    /// The highest serial that the VM or any of its points has had.
    pub(super) serial_high: u32,
    /// Whether it has open sessions.
    pub(super) has_sessions: bool,
}

impl CleanVm {
    /// The marks of a VM that is in order; `None` where the repository is not a local directory.
    ///
    /// # Errors
    /// `InvalidInput` when the name makes no valid path.
    pub(super) fn now(
        repository: &Repository,
        vm: &VmName,
        serial_high: u32,
        has_sessions: bool,
    ) -> Result<Option<Self>> {
        Ok(marks(repository, vm)?.map(|marks| Self {
            marks,
            serial_high,
            has_sessions,
        }))
    }

    /// Whether the marks of the VM are unchanged.
    pub(super) fn is_same(&self, repository: &Repository, vm: &VmName) -> bool {
        marks(repository, vm).is_ok_and(|now| now == Some(self.marks))
    }
}

fn marks(repository: &Repository, vm: &VmName) -> Result<Option<[Option<Fingerprint>; 5]>> {
    let store = repository.store();
    if store.local_root().is_none() {
        return Ok(None);
    }
    let keys = VmKeys::new(vm)?;
    let places = [
        keys.vm()?,
        keys.index()?,
        keys.points()?,
        keys.layers()?,
        keys.state_dir()?,
    ];
    // An object that cannot be examined counts as missing.
    Ok(Some(
        places.map(|key| store.fingerprint(&key).ok().flatten()),
    ))
}
