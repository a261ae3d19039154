//! Forgetting a restore point, and a VM that has none.
//!
//! 1. the lock is read again; nothing may be open on the point;
//! 2. `points/<point>` is renamed into the trash: *the point is gone*, for `points/` wins over what lists it;
//! 3. `index.json` is replaced, then the catalog; the point's state goes to the trash;
//! 4. layers that only this point needed go to the trash, judged as the next owner would.
//!
//! # Invariants
//! Before step 2 the point is whole, after it it is not listed; what fails from there on is put in order by the next owner. A layer below
//! the chain of another point or session stays. What is in the trash stays for an hour.

use std::collections::HashSet;

use super::entry::VmEntry;
use super::layout::{self, VmKeys};
use super::owner::Owner;
use super::recovery;
use super::sidecar::encode;
use super::sidecar::index::{Index, PointEntry};
use super::slot::Slot;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Key, PutMode};
use crate::types::{PointName, VmName};

impl Owner {
    /// A name in the trash, which begins with the time at which its bearer comes there.
    fn aside(&self, vm: &VmName, what: &str) -> Result<Key> {
        let now = clock::slot_time(self.clock().now());
        layout::trash()?.join(&format!("{now}.{vm}.{what}"))
    }

    /// Refuses a point that an open session is compared with.
    fn check_unused(&self, vm: &VmName, point: &PointEntry) -> Result<()> {
        for name in self.repository().session_names(vm)? {
            let session = match self.repository().session(vm, &name) {
                // It is on its way: begun without a sidecar yet, it pins nothing that could be named.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            let parent = session.parent.as_ref().map(|parent| parent.point_id);
            if parent == Some(point.point_id) {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "the open session {vm}/{name} is compared with {vm}@{}",
                        point.name
                    ),
                )
                .advise(format!(
                    "commit or abort it first: restorefs abort {vm}/{name}"
                )));
            }
        }
        Ok(())
    }

    /// Forgets a restore point: it is not listed any more, and what only it needed goes to the trash.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while an open session is compared with it; `Stale` (the lock); `Corrupt` when a session cannot be read;
    /// `NoSpace`, `Io`. The point is whole then.
    pub fn forget_point(&self, vm: &VmName, point: &PointName) -> Result<()> {
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let found = entry.index.point(point).cloned().ok_or_else(|| {
            Error::not_found(format!("there is no restore point {vm}@{point}"))
                .advise(format!("list the points with: restorefs ls {vm}"))
        })?;
        let vm = &entry.vm.name.clone();
        self.check_unused(vm, &found)?;
        let needed = self.slots_below(vm, &found);
        self.verify_lock()?;
        let place = VmKeys::new(vm)?.point(&found.name)?;
        let aside = self.aside(vm, &format!("{}.{}", found.name, found.point_id))?;
        let store = self.repository().store();
        let moved = self.with_room(|| store.rename(&place, &aside));
        match moved {
            Ok(()) => {}
            // Renamed, and only whether that is durable is not known: it is as gone as it can be.
            Err(e)
                if store
                    .list(&place)
                    .is_err_and(|seen| seen.kind() == ErrorKind::NotFound) =>
            {
                tracing::error!(vm = %vm, point = %found.name, error = %e.report(), "the point is forgotten, but that could not be made durable");
            }
            Err(e) => return Err(e),
        }
        tracing::info!(vm = %vm, point = %found.name, "a restore point is forgotten");

        // Gone. What fails from here on is put in order by the next owner.
        entry.index.points.retain(|p| p.point_id != found.point_id);
        self.settle(vm, &mut entry, &found, &needed);
        self.restock();
        Ok(())
    }

    /// Layers of a point and those below them; nothing when that cannot be found out.
    fn slots_below(&self, vm: &VmName, point: &PointEntry) -> HashSet<Slot> {
        let mut slots: HashSet<Slot> = point.disks.iter().map(|d| d.layer.clone()).collect();
        match recovery::close_over_backing(self.repository(), vm, &mut slots, |_| true) {
            Ok(()) => slots,
            Err(e) => {
                tracing::error!(vm = %vm, point = %point.name, error = %e.report(),
                    "the layers of a point that is forgotten cannot all be read; they are cleaned up later, if at all");
                HashSet::new()
            }
        }
    }

    fn settle(&self, vm: &VmName, entry: &mut VmEntry, point: &PointEntry, needed: &HashSet<Slot>) {
        let index: &mut Index = &mut entry.index;
        let indexed = self
            .with_room(|| Self::store_index(self.repository(), index))
            .and_then(|()| self.catalog().replace(vm, Some(index)));
        if let Err(e) = indexed {
            self.catalog().note_behind();
            tracing::error!(vm = %vm, point = %point.name, error = %e.report(),
                "the point is forgotten, but the index could not be written; it is repaired when the repository is next opened");
        }
        let state = || -> Result<()> {
            let key = VmKeys::new(vm)?.state(point.point_id)?;
            let aside = self.aside(vm, &format!("{}.json", point.point_id))?;
            self.repository().store().rename(&key, &aside)
        };
        match self.with_room(state) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!(vm = %vm, point = %point.name, error = %e.report(), "the state of a point that is forgotten is left over");
            }
            _ => {}
        }
        let now = self.clock().now();
        let buried = self.with_room(|| {
            recovery::collect_garbage(self.repository(), vm, index, Some(needed), now)
        });
        if let Err(e) = buried {
            tracing::warn!(vm = %vm, point = %point.name, error = %e.report(), "layers of a point that is forgotten are left over");
        }
    }

    /// Removes a VM that has no restore point and no session. No serial that it or its points had is given again.
    ///
    /// # Errors
    /// `NotFound`; `NotEmpty` when it has a point; `Busy` while it has a session; `Stale` (the lock); `NoSpace`, `Io`.
    pub fn remove_vm(&self, vm: &VmName) -> Result<()> {
        let entry = self.vm(vm)?;
        let mut table = self.table();
        let mut held = entry.lock();
        let vm = &held.vm.name.clone();
        if held.gone {
            return Err(Error::not_found(format!("there is no VM {vm}")));
        }
        if let Some(session) = self.repository().session_names(vm)?.first() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{vm} has an open session: {session}"),
            )
            .advise(format!(
                "commit or abort it first: restorefs abort {vm}/{session}"
            )));
        }
        let keys = VmKeys::new(vm)?;
        let points = self.repository().store().list(&keys.points()?)?;
        if !held.index.points.is_empty() || !points.is_empty() {
            return Err(
                Error::new(ErrorKind::NotEmpty, format!("{vm} has restore points"))
                    .advise("forget them first"),
            );
        }
        self.verify_lock()?;
        self.keep_serials()?;
        let aside = self.aside(vm, &held.vm.vm_id.to_string())?;
        let store = self.repository().store();
        self.with_room(|| store.rename(keys.root(), &aside))?;
        held.gone = true;
        table.remove(&vm.folded());
        drop(table);
        if let Err(e) = self.catalog().replace(vm, None) {
            tracing::warn!(vm = %vm, error = %e.report(), "the catalog still has a VM that was removed; it is brought up to date when it is next opened");
        }
        Ok(())
    }

    /// Records in `restorefs.json` which serials have been given: they are not given again after a VM is gone.
    fn keep_serials(&self) -> Result<()> {
        let mut format = self.repository().format_now()?;
        let high = self.serial_high();
        if format.serial_high >= high {
            return Ok(());
        }
        format.serial_high = high;
        let (key, bytes) = (layout::format()?, encode(&format)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))
    }
}
