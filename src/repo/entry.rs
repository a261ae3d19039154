//! What the owner keeps of a VM in memory.

use std::sync::Arc;

use super::sidecar::index::Index;
use super::sidecar::vm::Vm;
use crate::error::Result;
use crate::types::VmName;
use crate::types::sync::Mutex;

/// What the owner keeps of a VM.
#[derive(Debug, Clone)]
pub struct VmEntry {
    /// Its sidecar.
    pub vm: Vm,
    /// Its index.
    pub index: Index,
    /// Whether the VM was removed: whoever waited for this entry looks for the VM anew.
    pub gone: bool,
}

/// A VM's place in the owner's table: its entry, once it was looked at.
#[derive(Debug)]
pub(super) struct VmCell {
    name: VmName,
    /// What an earlier owner has left, who has put everything in order.
    had_sessions: bool,
    entry: Mutex<Option<Arc<Mutex<VmEntry>>>>,
}

impl VmCell {
    /// A VM as an earlier owner has left it, in order.
    pub(super) fn as_left(name: VmName, had_sessions: bool) -> Self {
        Self {
            name,
            had_sessions,
            entry: Mutex::default(),
        }
    }

    /// A VM that was looked at.
    pub(super) fn looked_at(entry: VmEntry) -> Self {
        Self {
            name: entry.vm.name.clone(),
            had_sessions: true,
            entry: Mutex::new(Some(Arc::new(Mutex::new(entry)))),
        }
    }

    pub(super) const fn name(&self) -> &VmName {
        &self.name
    }

    /// Whether it may have open sessions.
    pub(super) fn may_have_sessions(&self) -> bool {
        self.had_sessions || self.entry().is_some()
    }

    /// The entry, if the VM was looked at.
    pub(super) fn entry(&self) -> Option<Arc<Mutex<VmEntry>>> {
        let entry = self.entry.lock();
        entry.clone()
    }

    /// The entry; `look` makes it when the VM was not looked at yet.
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
