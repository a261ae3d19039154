//! Removes restore points, and a VM without any.
//!
//! 1. the lock is read again; the point must not be in use;
//! 2. `points/<point>` is renamed into the trash: *the point is gone*, because `points/` wins over the lists
//!    that name it;
//! 3. `index.json` is replaced, then the catalog; the point's state goes to the trash;
//! 4. layers that only this point needed go to the trash, by the rules of the next owner's recovery.
//!
//! # Invariants
//! Before step 2 the point is whole; after it the point is not listed. The next owner completes steps that
//! fail after step 2. A layer in the chain of another point or session stays. The trash keeps its content for
//! an hour.

use std::collections::{HashMap, HashSet};

use super::cleanup;
use super::entry::VmEntry;
use super::garbage::{self, Look};
use super::hold::Hold;
use super::layout::{self, VmKeys};
use super::owner::Owner;
use super::repository::absent_is_empty;
use super::selector::Which;
use super::sidecar::encode;
use super::sidecar::index::PointEntry;
use super::slot::Slot;
use super::trash;
use super::uses::PointUse;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PutMode;
use crate::types::{PointId, PointName, VmId, VmName};

/// The outcome of a request to forget points.
#[derive(Debug, Default)]
pub struct Forgetting {
    /// Points that are not listed any more.
    pub forgotten: Vec<PointName>,
    /// Points that are unchanged, each with the reason.
    pub kept: Vec<(PointName, Error)>,
}

impl Owner {
    /// The open sessions of a VM, by the parent point of each.
    fn session_parents(&self, vm: &VmName) -> Result<HashMap<PointId, PointName>> {
        let mut parents = HashMap::new();
        for session in self.repository().sessions(vm)? {
            if let Some(parent) = session.parent {
                parents.insert(parent.point_id, session.name);
            }
        }
        Ok(parents)
    }

    /// Refuses a point that is in use.
    fn check_unused(
        &self,
        vm: &VmName,
        point: &PointEntry,
        parents: &HashMap<PointId, PointName>,
    ) -> Result<()> {
        if let Some(session) = parents.get(&point.point_id) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the open session {vm}/{session} is compared with {vm}@{}",
                    point.name
                ),
            )
            .advise(format!(
                "commit or abort it first: restorefs abort {vm}/{session}"
            )));
        }
        match self.uses.holder(point.point_id) {
            Some(holder) => Err(Error::new(
                ErrorKind::Busy,
                format!("{holder} uses {vm}@{}", point.name),
            )
            .advise("wait until it has ended")),
            None => Ok(()),
        }
    }

    /// Records a use of a point, which cannot be forgotten until the use ends. `holder` describes the user of
    /// the point for people.
    ///
    /// # Errors
    /// `NotFound`; as [`Owner::vm`].
    pub fn use_point(
        &self,
        vm: &VmName,
        which: &Which,
        holder: &str,
    ) -> Result<(PointEntry, PointUse)> {
        let entry = self.vm(vm)?;
        let entry = entry.lock();
        let point = which.find(&entry.index)?.clone();
        let held = self.hold_point(&point, holder);
        Ok((point, held))
    }

    /// Notes a use of a point that the caller has found in the VM's entry, whose mutex it holds.
    #[must_use]
    pub fn hold_point(&self, point: &PointEntry, holder: &str) -> PointUse {
        self.uses.add(point.point_id, holder)
    }

    /// Holds the repository: until the hold is dropped, no layer is replaced, no restore point is forgotten, and the trash
    /// keeps what it has. Waits for changes that are under way. `holder` describes the holder for people.
    ///
    /// # Errors
    /// `Stale` when the lock is lost.
    pub fn hold_still(&self, holder: &str) -> Result<Hold> {
        let hold = self.holds.hold(holder);
        self.verify_lock()?;
        Ok(hold)
    }

    /// Whether somebody holds the repository.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holds.is_held()
    }

    /// Refuses work that ends with a change which a hold keeps out.
    ///
    /// # Errors
    /// `Locked` during a hold.
    pub fn check_not_held(&self) -> Result<()> {
        self.holds.enter().map(drop)
    }

    /// Forgets restore points: they are not listed any more, and layers that only they needed go to the
    /// trash. It reads sessions, layers and the index once for all points.
    ///
    /// # Errors
    /// `NotFound` (the VM); `Locked` during a hold; `Stale` (the lock); `Corrupt` when a session cannot be read; `Io`. In these cases
    /// no point is forgotten. Errors of single points are in the returned value: `NotFound`; `Busy` while the
    /// point is in use; `NoSpace`, `Io`. Such a point stays whole.
    pub fn forget_points(&self, vm: &VmName, points: &[PointName]) -> Result<Forgetting> {
        let _change = self.holds.enter()?;
        let entry = self.vm(vm)?;
        let mut entry = entry.lock();
        let (vm, vm_id) = (&entry.vm.name.clone(), entry.vm.vm_id);
        let parents = self.session_parents(vm)?;
        let mut done = Forgetting::default();
        let mut found = Vec::new();
        for name in points {
            let point = entry.index.point(name).cloned().ok_or_else(|| {
                Error::not_found(format!("there is no restore point {vm}@{name}"))
                    .advise(format!("list the points with: restorefs ls {vm}"))
            });
            let point = point.and_then(|point| {
                self.check_unused(vm, &point, &parents)?;
                Ok(point)
            });
            match point {
                Ok(point) => found.push(point),
                Err(error) => done.kept.push((name.clone(), error)),
            }
        }
        let tops = found.iter().flat_map(|point| &point.disks);
        let tops = tops.map(|disk| &disk.layer);
        let freed = garbage::slots_below(self.repository(), vm, tops);
        self.verify_lock()?;
        let mut gone = Vec::new();
        for point in found {
            match self.put_aside(vm, vm_id, &point) {
                Ok(()) => {
                    tracing::info!(vm = %vm, point = %point.name, "a restore point is forgotten");
                    done.forgotten.push(point.name.clone());
                    gone.push(point);
                }
                Err(error) => done.kept.push((point.name, error)),
            }
        }
        if !gone.is_empty() {
            // The points are gone. The next owner completes steps that fail from here on.
            let is_gone = |point: &PointEntry| gone.iter().any(|g| g.point_id == point.point_id);
            entry.index.points.retain(|point| !is_gone(point));
            self.settle(vm, &mut entry, &gone, &freed);
            self.restock();
        }
        Ok(done)
    }

    /// Moves a point's directory to the trash: from this instant the point is gone.
    fn put_aside(&self, vm: &VmName, vm_id: VmId, point: &PointEntry) -> Result<()> {
        let place = VmKeys::new(vm)?.point(&point.name)?;
        let (now, what) = (self.clock().now(), point.point_id.to_string());
        let store = self.repository().store();
        match self.with_room(|| trash::put(store.as_ref(), &place, now, vm_id, &what)) {
            // The rename has happened, and only its durability is unknown: the point counts as gone.
            Err(e)
                if store
                    .list(&place)
                    .is_err_and(|seen| seen.kind() == ErrorKind::NotFound) =>
            {
                tracing::error!(vm = %vm, point = %point.name, error = %e.report(), "the point is forgotten, but that could not be made durable");
                Ok(())
            }
            other => other,
        }
    }

    fn settle(&self, vm: &VmName, entry: &mut VmEntry, gone: &[PointEntry], freed: &HashSet<Slot>) {
        let now = self.clock().now();
        let look = Look::at(self.repository(), vm, &mut entry.index, Some(freed));
        if let Err(e) = self.write_index(entry) {
            tracing::error!(vm = %vm, error = %e.report(),
                "points are forgotten, but the index could not be written; it is repaired when the repository is next opened");
        }
        let index = &entry.index;
        for point in gone {
            let state = || -> Result<()> {
                let key = VmKeys::new(vm)?.state(point.point_id)?;
                let name = format!("{}.json", point.point_id);
                trash::put(
                    self.repository().store().as_ref(),
                    &key,
                    now,
                    index.vm_id,
                    &name,
                )
            };
            match self.with_room(state) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    tracing::warn!(vm = %vm, point = %point.name, error = %e.report(), "the state of a point that is forgotten is left over");
                }
                _ => {}
            }
        }
        let buried = look.and_then(|(look, _)| {
            let repository = self.repository();
            self.with_room(|| garbage::collect(repository, vm, index, &look, Some(freed), now))
        });
        if let Err(e) = buried {
            tracing::warn!(vm = %vm, error = %e.report(), "layers of points that are forgotten are left over");
        }
        if let Err(e) = cleanup::discard_maps(self.repository(), index.vm_id) {
            tracing::warn!(vm = %vm, error = %e.report(), "flattened maps of chains that are gone are left over");
        }
    }

    /// Removes a VM that has no restore point and no session. Serials of the VM and its points are never
    /// given again.
    ///
    /// # Errors
    /// `NotFound`; `Locked` during a hold; `NotEmpty` when it has a point; `Busy` while it has a session; `Stale` (the
    /// lock); `NoSpace`, `Io`.
    pub fn remove_vm(&self, vm: &VmName) -> Result<()> {
        let _change = self.holds.enter()?;
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
        let points = absent_is_empty(self.repository().store().list(&keys.points()?))?;
        if !held.index.points.is_empty() || !points.is_empty() {
            return Err(
                Error::new(ErrorKind::NotEmpty, format!("{vm} has restore points"))
                    .advise("forget them first"),
            );
        }
        self.verify_lock()?;
        self.keep_serials()?;
        let (now, vm_id) = (self.clock().now(), held.vm.vm_id);
        let store = self.repository().store();
        self.with_room(|| trash::put(store.as_ref(), keys.root(), now, vm_id, ""))?;
        if self.repository().stage().is_separate()
            && let Err(e) = self.repository().stage().delete(keys.root())
            && e.kind() != ErrorKind::NotFound
        {
            tracing::warn!(vm = %vm, error = %e.report(), "empty directories of the VM are left over in the workspace");
        }
        held.gone = true;
        table.remove(&vm.folded());
        drop(table);
        if let Err(e) = self.catalog().replace(vm, None) {
            tracing::warn!(vm = %vm, error = %e.report(), "the catalog still has a VM that was removed; it is brought up to date when it is next opened");
        }
        Ok(())
    }

    /// Records the highest given serial in `restorefs.json`, so that no serial is given again after its VM is
    /// gone.
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
