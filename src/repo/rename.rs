//! Rename: a VM gets another name.
//!
//! 1. the lock is read again; no session is open, no point is in use, and nothing has the new name;
//! 2. the VM's directory is renamed: *the VM has the new name*, because the directory's name wins over the names in its sidecars;
//! 3. `vm.json` and `index.json` are replaced, then the catalog.
//!
//! # Invariants
//! Identity, serials and everything else stay. The next owner completes steps that fail after step 2.

use std::sync::Arc;

use super::entry::VmCell;
use super::layout::VmKeys;
use super::owner::Owner;
use super::sidecar::encode;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::VmName;

impl Owner {
    /// Renames a VM; returns its former name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when it has the name already; `AlreadyExists`; `Busy` while it has an open session, or a point of it
    /// is in use; `Locked` during a hold; `Stale` (the lock); `NoSpace`, `Io`. The VM then has its former name.
    pub fn rename_vm(&self, vm: &VmName, to: &VmName) -> Result<VmName> {
        let _change = self.holds.enter()?;
        let entry = self.vm(vm)?;
        let mut table = self.table();
        let mut held = entry.lock();
        let from = held.vm.name.clone();
        if held.gone {
            return Err(Error::not_found(format!("there is no VM {vm}")));
        }
        if from == *to {
            return Err(Error::invalid(format!("{from} is its name already")));
        }
        let is_same_folded = from.folded() == to.folded();
        if !is_same_folded && let Some(other) = table.get(&to.folded()) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "there is a VM {} already (names are compared without regard to case)",
                    other.name()
                ),
            ));
        }
        if let Some(session) = self.repository().session_names(&from)?.first() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{from} has an open session: {session}"),
            )
            .advise(format!(
                "commit or abort it first: restorefs abort {from}/{session}"
            )));
        }
        for point in &held.index.points {
            if let Some(holder) = self.uses.holder(point.point_id) {
                let what = format!("{holder} uses {from}@{}", point.name);
                return Err(Error::new(ErrorKind::Busy, what).advise("wait until it has ended"));
            }
        }
        self.verify_lock()?;
        let (old, new) = (VmKeys::new(&from)?, VmKeys::new(to)?);
        let (store, stage) = (self.repository().store(), self.repository().stage());
        self.with_room(|| store.rename(old.root(), new.root()))?;
        tracing::info!(vm = %to, was = %from, "a VM is renamed");
        if stage.is_separate()
            && let Err(e) = stage.delete(old.root())
            && e.kind() != ErrorKind::NotFound
        {
            tracing::warn!(vm = %to, error = %e.report(), "empty directories of the VM's old name are left over in the workspace");
        }
        let mut renamed = held.clone();
        held.gone = true;
        drop(held);
        renamed.vm.name = to.clone();
        renamed.index.name = to.clone();
        let written = encode(&renamed.vm)
            .and_then(|bytes| self.with_room(|| store.put(&new.vm()?, &bytes, PutMode::Replace)))
            .and_then(|()| self.write_index(&mut renamed));
        if let Err(e) = written {
            tracing::error!(vm = %to, error = %e.report(), "a VM is renamed, but its sidecars could not be written; they are repaired when the repository is next opened");
        }
        table.remove(&from.folded());
        table.insert(to.folded(), Arc::new(VmCell::looked_at(renamed)));
        drop(table);
        if let Err(e) = self.catalog().replace(&from, None) {
            tracing::warn!(vm = %to, error = %e.report(), "the catalog still has the former name; it is brought up to date when it is next opened");
        }
        Ok(from)
    }
}
