//! Replace: the second way, beside publish, to change committed layers. A layer that was built from an interval of a
//! chain takes the place of the topmost layer of that interval.
//!
//! 1. the lock is read again, every layer of the interval is looked at again, and the build must have the content of the slot;
//! 2. `incompat: ["merge"]` is durable in `restorefs.json`;
//! 3. the new sums are published beside the old ones;
//! 4. the replaced layer and its sums get a second name in the trash, where the filesystem has such names;
//! 5. the build is renamed over the slot: *the layer is replaced*;
//! 6. `index.json` is replaced, then the catalog;
//! 7. the old sums and the superfluous layers go to the trash.
//!
//! # Invariants
//! Slot, backing name of the layers above, and content root stay; the layer id changes. No journal is needed: sums whose
//! layer id is not that of the header in their slot are garbage, and so is a build that nobody holds. The next owner
//! completes steps that fail after step 5.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::chains::Chains;
use super::cleanup;
use super::entry::VmEntry;
use super::format::MERGE;
use super::garbage::{self, Look};
use super::layer_file::LayerFile;
use super::layout::{self, VmKeys};
use super::owner::Owner;
use super::repository::Repository;
use super::sidecar::encode;
use super::sidecar::index::CheckResult;
use super::slot::Slot;
use super::sums::Sums;
use super::trash;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::PutMode;
use crate::types::{LayerId, VmName};

/// A layer that was built to replace another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// The VM.
    pub vm: VmName,
    /// The layers from which it was built, top first: the first one is replaced, the others become superfluous.
    pub interval: Vec<(Slot, LayerId)>,
    /// The slots of the rest of the chain, of a layer that becomes full: nothing may need them any more.
    pub rest: Vec<Slot>,
    /// The slot below the interval.
    pub below: Option<Slot>,
    /// The id of the new layer.
    pub layer: LayerId,
}

impl Replacement {
    /// The slot whose layer is replaced.
    ///
    /// # Errors
    /// `InvalidInput` for an interval without layers.
    pub fn slot(&self) -> Result<&Slot> {
        let top = self.interval.first().map(|(slot, _)| slot);
        top.ok_or_else(|| Error::invalid("an interval without layers"))
    }

    /// Removes the files of the build from the workspace: of one that is not wanted any more, or that was published
    /// by copy.
    ///
    /// # Errors
    /// `Io`.
    pub fn discard(&self, repository: &Repository) -> Result<()> {
        let (keys, slot) = (VmKeys::new(&self.vm)?, self.slot()?);
        for key in [
            keys.build(slot, self.layer)?,
            keys.open_sums(slot, self.layer)?,
        ] {
            match repository.stage().delete(&key) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

fn changed(what: String) -> Error {
    Error::new(ErrorKind::Stale, what).advise(
        "nothing is lost; the layers are merged another time, if there is still something to gain",
    )
}

impl Owner {
    /// Puts a layer that was built into its slot.
    ///
    /// # Errors
    /// `Locked` during a hold; `Stale` when the chain has changed since the layer was built, or the build is another file now, or the
    /// lock is lost; `Corrupt` when a chain of the VM cannot be walked, or the build has another content; `NoSpace`,
    /// `Io`. The slot then has the old layer, or, where its directory could not be synced, one of the two, whose content is
    /// the same. The caller discards the build.
    pub fn replace(&self, replacement: &Replacement) -> Result<()> {
        let _change = self.holds.enter()?;
        let entry = self.vm(&replacement.vm)?;
        let mut entry = entry.lock();
        self.verify_lock()?;
        let slot = replacement.slot()?;
        let above = self.check_interval(&entry, replacement)?.above(slot);
        self.require_merge()?;
        let (keys, store) = (VmKeys::new(&replacement.vm)?, self.repository().store());
        let stage = self.repository().stage();
        let new = replacement.layer;
        stage.publish(
            &keys.open_sums(slot, new)?,
            &keys.sums(slot, new)?,
            PutMode::Create,
        )?;
        stage.sync_prefix(&keys.layers()?)?;
        let now = self.clock().now();
        let vm_id = entry.vm.vm_id;
        if let Some((_, layer)) = replacement.interval.first() {
            let place = trash::aside(now, vm_id, &trash::layer_name(slot, *layer))?;
            let kept = self.with_room(|| store.link(&keys.layer(slot)?, &place));
            if !matches!(kept, Ok(true)) {
                tracing::debug!(vm = %replacement.vm, slot = %slot, kept = ?kept, "a layer that is replaced is not kept in the trash");
            }
        }
        let place = keys.layer(slot)?;
        let swapped = stage
            .publish(&keys.build(slot, new)?, &place, PutMode::Replace)
            .and_then(|()| stage.sync_prefix(&keys.layers()?));
        if let Err(e) = swapped {
            // Where the old layer is still in the slot, its new sums are of no use.
            let found = LayerFile::open(self.repository(), &replacement.vm, slot);
            if found.is_ok_and(|file| file.layer != new) {
                let sums = store.delete(&keys.sums(slot, new)?);
                if let Err(left) = sums {
                    tracing::warn!(vm = %replacement.vm, slot = %slot, error = %left.report(), "sums of a layer that was not replaced are left over until the repository is next opened");
                }
            }
            return Err(e);
        }
        // The new layer was never verified, so neither were the points that need it. What is damaged stays so until it is.
        for point in &mut entry.index.points {
            let needs_it = point.disks.iter().any(|disk| above.contains(&disk.layer));
            if needs_it && point.check == Some(CheckResult::Sound) {
                (point.check, point.checked_at) = (None, None);
            }
        }
        self.settle_replaced(&mut entry, replacement);
        Ok(())
    }

    /// Whether the interval is as it was when the layer was built, and the build is the builder's own file; returns the chains of the VM.
    fn check_interval(&self, entry: &VmEntry, replacement: &Replacement) -> Result<Chains> {
        let (repository, vm) = (self.repository(), &replacement.vm);
        let chains = Chains::walk(repository, vm, &entry.index)?;
        let mut layers = replacement.interval.iter().enumerate().peekable();
        while let Some((position, (slot, id))) = layers.next() {
            let Some(layer) = chains.get(slot) else {
                return Err(changed(format!(
                    "nothing of {vm} needs the layer {slot} any more"
                )));
            };
            if layer.layer != Some(*id) {
                return Err(changed(format!(
                    "the layer {slot} of {vm} has been replaced"
                )));
            }
            if position > 0 && !chains.is_mergeable(slot) {
                return Err(changed(format!(
                    "the layer {slot} of {vm} is needed by others now"
                )));
            }
            let below = layers.peek().map(|(_, (slot, _))| slot);
            // A layer that becomes full has another backing layer than before: none.
            let is_made_full = replacement.interval.len() == 1 && replacement.below.is_none();
            if !is_made_full && layer.below.as_ref() != below.or(replacement.below.as_ref()) {
                return Err(changed(format!(
                    "the layer {slot} of {vm} has another backing layer"
                )));
            }
        }
        let slot = replacement.slot()?;
        let build = VmKeys::new(vm)?.build(slot, replacement.layer)?;
        let file = LayerFile::of(repository.stage().open(&build)?, slot)?;
        if file.layer != replacement.layer || file.below != replacement.below {
            return Err(changed(format!(
                "the build for {slot} of {vm} is another file"
            )));
        }
        let key = VmKeys::new(vm)?.open_sums(slot, replacement.layer)?;
        let sums = Sums::open(repository.stage().open(&key)?).at_path(key.as_str())?;
        let found = sums.summary().content_root();
        match chains.get(slot).and_then(|layer| layer.content_root) {
            Some(stated) if stated == found => Ok(chains),
            stated => Err(Error::corrupt(
                "a layer that was built has another content than the one that it is to replace",
                stated.map_or_else(|| "a committed layer".to_owned(), |root| root.to_string()),
                found,
            )
            .at_path(key.as_str())),
        }
    }

    /// Makes sure that no release which does not know replaced layers reads the repository.
    fn require_merge(&self) -> Result<()> {
        let mut format = self.repository().format_now()?;
        if format.incompat.iter().any(|feature| feature == MERGE) {
            return Ok(());
        }
        format.incompat.push(MERGE.to_owned());
        let (key, bytes) = (layout::format()?, encode(&format)?);
        let store = self.repository().store();
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))
    }

    /// What follows the replacement. The next owner completes what fails here.
    fn settle_replaced(&self, entry: &mut VmEntry, replacement: &Replacement) {
        let vm = &replacement.vm;
        let slots: HashSet<Slot> = replacement
            .interval
            .iter()
            .map(|(slot, _)| slot)
            .chain(&replacement.rest)
            .cloned()
            .collect();
        let look = Look::at(self.repository(), vm, &mut entry.index, Some(&slots));
        if let Err(e) = self.write_index(entry) {
            tracing::error!(vm = %vm, error = %e.report(), "a layer is replaced, but the index could not be written; it is repaired when the repository is next opened");
        }
        if self.repository().stage().is_separate()
            && let Err(e) = replacement.discard(self.repository())
        {
            tracing::warn!(vm = %vm, error = %e.report(), "the files of a build are left over in the workspace");
        }
        let (index, now) = (&entry.index, self.clock().now());
        let collected = look
            .and_then(|(look, _)| {
                let repository = self.repository();
                self.with_room(|| garbage::collect(repository, vm, index, &look, Some(&slots), now))
            })
            .and_then(|()| cleanup::discard_maps(self.repository(), index.vm_id));
        if let Err(e) = collected {
            tracing::warn!(vm = %vm, error = %e.report(), "layers that were merged are left over");
        }
        self.restock();
    }
}
