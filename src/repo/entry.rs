//! The owner's record of a VM in memory.

use std::sync::Arc;

use super::clean::CleanVm;
use super::repository::Repository;
use super::sidecar::index::Index;
use super::sidecar::vm::Vm;
use crate::error::{Error, ErrorKind, Result};
use crate::types::VmName;
use crate::types::sync::Mutex;

/// The owner's record of a VM.
#[derive(Debug, Clone)]
pub struct VmEntry {
    /// Its sidecar.
    pub vm: Vm,
    /// Its index.
    pub index: Index,
    /// Whether the VM was removed. A thread that waited for this entry then looks the VM up anew.
    pub gone: bool,
}

impl VmEntry {
    /// Refuses a change that only a VM takes whose points are made in this repository.
    ///
    /// # Errors
    /// `ReadOnly` for a VM that is copied from another repository.
    pub fn check_own(&self) -> Result<()> {
        let Some(origin) = &self.vm.origin else {
            return Ok(());
        };
        let (vm, id) = (&self.vm.name, origin.repository_id);
        Err(Error::new(
            ErrorKind::ReadOnly,
            format!("{vm} is a copy from the repository {id}, and takes no backups here"),
        )
        .advise(format!(
            "back it up there; or make it a VM of this repository, which ends the copying: restorefs adopt {vm}"
        )))
    }
}

/// A VM's cell in the owner's table: it has an entry once the VM was examined.
#[derive(Debug)]
pub(super) struct VmCell {
    name: VmName,
    /// The marks with which an earlier owner left the VM in order; `None` when this process examined the VM.
    left: Option<CleanVm>,
    entry: Mutex<Option<Arc<Mutex<VmEntry>>>>,
}

impl VmCell {
    /// A VM that an earlier owner left in order.
    pub(super) fn as_left(name: VmName, left: CleanVm) -> Self {
        Self {
            name,
            left: Some(left),
            entry: Mutex::default(),
        }
    }

    /// A VM that this process examined.
    pub(super) fn looked_at(entry: VmEntry) -> Self {
        Self {
            name: entry.vm.name.clone(),
            left: None,
            entry: Mutex::new(Some(Arc::new(Mutex::new(entry)))),
        }
    }

    pub(super) const fn name(&self) -> &VmName {
        &self.name
    }

    /// Whether it may have open sessions.
    pub(super) fn may_have_sessions(&self) -> bool {
        let had_sessions = self.left.as_ref().is_none_or(|left| left.has_sessions);
        had_sessions || self.entry().is_some()
    }

    /// Whether the VM is unchanged since an earlier owner left it.
    pub(super) fn is_as_left(&self, repository: &Repository) -> bool {
        let left = self.left.as_ref();
        left.is_some_and(|left| left.is_same(repository, &self.name))
    }

    /// The entry, if the VM was examined.
    pub(super) fn entry(&self) -> Option<Arc<Mutex<VmEntry>>> {
        let entry = self.entry.lock();
        entry.clone()
    }

    /// The entry; `look` makes it when the VM was not examined yet.
    pub(super) fn entry_or(
        &self,
        look: impl FnOnce(&VmName) -> Result<VmEntry>,
    ) -> Result<Arc<Mutex<VmEntry>>> {
        let mut entry = self.entry.lock();
        if let Some(entry) = &*entry {
            return Ok(Arc::clone(entry));
        }
        let made = Arc::new(Mutex::new(look(&self.name)?));
        Ok(Arc::clone(entry.insert(made)))
    }
}
