//! Making a VM: one whose points are made here, or one that is copied from another repository.

use std::sync::Arc;

use super::entry::{VmCell, VmEntry};
use super::layout::VmKeys;
use super::owner::Owner;
use super::repository::Repository;
use super::sidecar::vm::Vm;
use super::sidecar::{Sidecar, Unknown, encode};
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::sync::Mutex;
use crate::types::{VmId, VmName};

impl Owner {
    /// The entry of a VM; creates the VM when it does not exist.
    ///
    /// # Errors
    /// `AlreadyExists` when a VM has the same name in another case; `LimitExceeded`, `NoSpace`, `Io`.
    pub fn ensure_vm(&self, name: &VmName) -> Result<Arc<Mutex<VmEntry>>> {
        self.ensure_vm_as(name, |serial| {
            Ok(Vm {
                schema: Vm::SCHEMA,
                vm_id: VmId::random(),
                name: name.clone(),
                display_name: None,
                created_at: self.clock().now(),
                serial,
                disks: Vec::new(),
                tags: std::collections::BTreeMap::new(),
                origin: None,
                policy: None,
                unknown: Unknown::new(),
            })
        })
    }

    /// [`Owner::ensure_vm`] with the sidecar that `make` returns for the serial of a new VM.
    ///
    /// # Errors
    /// As [`Owner::ensure_vm`]; errors of `make`.
    pub(super) fn ensure_vm_as(
        &self,
        name: &VmName,
        make: impl FnOnce(u32) -> Result<Vm>,
    ) -> Result<Arc<Mutex<VmEntry>>> {
        self.check_undamaged(name)?;
        let mut table = self.table();
        if let Some(cell) = table.get(&name.folded()).cloned() {
            drop(table);
            let stored = cell.name();
            if stored != name {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("there is a VM {stored}; names are compared without regard to case"),
                ));
            }
            return cell.entry_or(|name| self.look_at(name));
        }
        let keys = VmKeys::new(name)?;
        let store = self.repository().store();
        for prefix in [keys.points()?, keys.layers()?, keys.state_dir()?] {
            store.make_prefix(&prefix)?;
        }
        let vm = make(self.next_serial()?)?;
        let mut index = Repository::empty_index(&vm);
        Self::store_index(self.repository(), &mut index)?;
        store.put(&keys.vm()?, &encode(&vm)?, PutMode::Create)?;
        if let Err(e) = self.catalog().replace(name, Some(&index)) {
            // The VM exists; the catalog is only an index, and its next opening brings it up to date.
            tracing::warn!(vm = %name, error = %e.report(), "the catalog could not take in the VM");
        }
        let cell = Arc::new(VmCell::looked_at(VmEntry {
            vm,
            index,
            gone: false,
        }));
        table.insert(name.folded(), Arc::clone(&cell));
        cell.entry_or(|name| self.look_at(name))
    }
}
