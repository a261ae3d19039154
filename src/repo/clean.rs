//! What a clean end leaves in the catalog: how each VM looked when nothing was left to put in order. The next owner looks at a VM only
//! when it is asked for, if it looks the same.
//!
//! # Invariants
//! - The mark of a clean end is taken away, durably, before anything is changed: after a crash there is none, and all VMs are looked at.
//! - A VM is the same when inode, size, mtime and ctime of its sidecars and directories are. They tell a copy from its original, and an
//!   older catalog from a newer repository.
//! - What is believed of a VM that is the same: nothing is left to do, which serials were given, and that the catalog has its points. The
//!   owner lists them from there ([`Owner::index`](super::Owner::index)), and looks at the marks again each time that it does.

use serde::{Deserialize, Serialize};

use super::layout::VmKeys;
use super::repository::Repository;
use crate::error::Result;
use crate::store::Fingerprint;
use crate::types::VmName;

/// A VM at a clean end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CleanVm {
    /// Of `vm.json`, `index.json`, `points/`, `layers/`, `state/`.
    marks: [Option<Fingerprint>; 5],
    /// The highest serial that the VM or a point of it has had.
    pub(super) serial_high: u32,
    /// Whether it has open sessions.
    pub(super) has_sessions: bool,
}

impl CleanVm {
    /// A VM as it is now, with nothing left to put in order; `None` where the repository is no local directory.
    ///
    /// # Errors
    /// `InvalidInput` when the name makes no path.
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

    /// Whether the VM looks as it did.
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
    // What cannot be looked at is as good as missing.
    Ok(Some(
        places.map(|key| store.fingerprint(&key).ok().flatten()),
    ))
}
