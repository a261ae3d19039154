//! Copied VMs: which repository may copy into one, and how one becomes a VM of its repository.

use super::garbage::{self, Look};
use super::job::{Ending, Job};
use super::layout::VmKeys;
use super::owner::Owner;
use super::sidecar::encode;
use super::sidecar::vm::Vm;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::{RepositoryId, VmName};

/// Refuses a VM that takes no copies from a repository.
///
/// # Errors
/// `NotPermitted` when the VM was adopted, or is copied from another repository.
pub fn check_origin(vm: &Vm, origin: RepositoryId) -> Result<()> {
    let name = &vm.name;
    let what = match &vm.origin {
        Some(from) if from.repository_id == origin => return Ok(()),
        Some(from) => format!(
            "{name} is copied from another repository, {}",
            from.repository_id
        ),
        None => format!(
            "{name} takes its own backups there (it was adopted, or was made there), and is no copy any more"
        ),
    };
    Err(Error::new(ErrorKind::NotPermitted, what)
        .advise("copy to another repository, or forget the VM there first"))
}

impl Owner {
    /// Makes a VM that is copied from another repository a VM of this one: it takes sessions, and no copies any more. Copies that
    /// are under way end. Returns whether it was a copy.
    ///
    /// # Errors
    /// `NotFound`; `Stale` (the lock); `NoSpace`, `Io`.
    pub fn adopt(&self, vm: &VmName) -> Result<bool> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        if entry.vm.origin.is_none() {
            return Ok(false);
        }
        self.verify_lock()?;
        let sidecar = Vm {
            origin: None,
            ..entry.vm.clone()
        };
        let (key, bytes) = (VmKeys::new(&sidecar.name)?.vm()?, encode(&sidecar)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        entry.vm = sidecar;
        let (vm, now) = (entry.vm.name.clone(), self.clock().now());
        for session in self.repository().sessions(&vm)? {
            if session.arriving.is_some() {
                let ending = Ending::failed("the VM was adopted");
                self.remove_session(&vm, &session.name)?;
                self.keep_job(&Job::of_session(&session, &ending, now));
            }
        }
        // During a hold, what the copies leave stays for the next owner.
        let Ok(_change) = self.holds.enter() else {
            return Ok(true);
        };
        let look = Look::at(self.repository(), &vm, &mut entry.index, None)?;
        garbage::collect(self.repository(), &vm, &entry.index, &look.0, None, now)?;
        Ok(true)
    }
}
