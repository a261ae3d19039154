//! Put back: a committed file that is lost or damaged gets its committed bytes again, which come from a copy.
//!
//! # Invariants
//! - What can be opened and proved is never replaced. What comes has the content that point or index state.
//! - The damaged file goes to the trash under a name by which no reader seeks a layer. A crash before the new file has its name leaves
//!   the layer missing, as before: the next repair puts it back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::VmEntry;
use super::flat_disk;
use super::layer_file::LayerFile;
use super::layout::{self, VmKeys};
use super::owner::Owner;
use super::sidecar::point::Point;
use super::sidecar::{SIDECAR_BYTES_MAX, parse};
use super::slot::Slot;
use super::sums::Sums;
use super::trash;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{Key, PutMode};
use crate::types::{Digest, LayerId, PointName, VmName};

/// A file that is put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum PutBack {
    /// A layer with its sums, which lie in the workspace as a build does.
    Layer {
        /// The VM.
        vm: VmName,
        /// The slot.
        slot: Slot,
        /// The id of the layer.
        layer: LayerId,
    },
    /// A file that is attached to a point; its bytes lie in the workspace ([`attached_place`]).
    Attached {
        /// The VM.
        vm: VmName,
        /// The point.
        point: PointName,
        /// The name of the file.
        name: String,
    },
    /// The sidecar of a point.
    Sidecar {
        /// The VM.
        vm: VmName,
        /// The point.
        point: PointName,
        /// The exact bytes of its `point.json`.
        text: String,
    },
}

impl PutBack {
    /// The VM.
    #[must_use]
    pub const fn vm(&self) -> &VmName {
        match self {
            Self::Layer { vm, .. } | Self::Attached { vm, .. } | Self::Sidecar { vm, .. } => vm,
        }
    }
}

/// Where in the workspace the bytes of an attached file wait for [`Owner::put_back`].
///
/// # Errors
/// None but those of a key that is too long.
pub fn attached_place(blake3: &Digest) -> Result<Key> {
    layout::cache()?.join(&format!("put-back-{blake3}"))
}

impl Owner {
    /// Puts a file back.
    ///
    /// # Errors
    /// `Locked` during a hold; `Stale` when the file is whole, or the lock is lost; `NotFound` for a VM, point or slot that is not
    /// known; `Corrupt` for other content than was committed; `NoSpace`, `Io`.
    pub fn put_back(&self, what: &PutBack) -> Result<()> {
        let _change = self.holds.enter()?;
        let entry = self.vm(what.vm())?;
        let entry = entry.lock();
        self.verify_lock()?;
        match what {
            PutBack::Layer { slot, layer, .. } => self.put_back_layer(&entry, slot, *layer),
            PutBack::Attached { point, name, .. } => self.put_back_attached(&entry, point, name),
            PutBack::Sidecar { point, text, .. } => self.put_back_sidecar(&entry, point, text),
        }
    }

    fn put_back_layer(&self, entry: &VmEntry, slot: &Slot, layer: LayerId) -> Result<()> {
        let (repository, vm) = (self.repository(), &entry.vm.name);
        let (store, stage) = (repository.store(), repository.stage());
        if is_whole(self, vm, slot) {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("the layer {slot} of {vm} is whole"),
            ));
        }
        let keys = VmKeys::new(vm)?;
        let (build, build_sums) = (keys.build(slot, layer)?, keys.open_sums(slot, layer)?);
        let file = LayerFile::of(stage.open(&build)?, slot)?;
        let opened: Arc<dyn ReadAt> = stage.open(&build_sums)?;
        let sums = Sums::open(opened).at_path(build_sums.as_str())?;
        sums.verify().at_path(build_sums.as_str())?;
        if (file.layer, sums.summary().layer_id) != (layer, layer) {
            return Err(Error::corrupt(
                "the file of a layer has another id than its sums, or than its name",
                layer,
                file.layer,
            )
            .at_path(build.as_str()));
        }
        file.prove_header_with(vm, slot, &sums)?;
        let (stated, found) = (
            self.stated_contents(entry, slot)?,
            sums.summary().content_root(),
        );
        if !stated.contains(&found) {
            let stated: Vec<String> = stated.iter().map(Digest::to_string).collect();
            return Err(Error::corrupt(
                "the file of a layer has another content than was committed",
                stated.join(" or "),
                found,
            )
            .at_path(build.as_str()));
        }
        if let Some(below) = &file.below {
            repository.find_layer(vm, below)?;
        }
        self.set_aside(
            entry,
            &keys.sums(slot, layer)?,
            &format!("{slot}.sums-damaged"),
        )?;
        stage.publish(&build_sums, &keys.sums(slot, layer)?, PutMode::Create)?;
        self.set_aside(entry, &keys.layer(slot)?, &format!("{slot}.damaged"))?;
        stage.publish(&build, &keys.layer(slot)?, PutMode::Create)?;
        stage.sync_prefix(&keys.layers()?)?;
        if stage.is_separate() {
            for key in [build, build_sums] {
                if let Err(e) = stage.delete(&key) {
                    tracing::warn!(vm = %vm, error = %e.report(), "a file that was put back is left over in the workspace");
                }
            }
        }
        // What was known of the damaged file is not known of this one.
        match store.delete(&keys.checks(slot, layer)?) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // The id stays, so flat disks that share the damaged file's extents would be taken for this one's.
        flat_disk::discard(repository, entry.vm.vm_id)?;
        tracing::info!(vm = %vm, slot = %slot, "a layer was put back from a copy");
        store.sweep(&keys.layers()?)
    }

    /// Moves a damaged file to the trash, if there is one.
    fn set_aside(&self, entry: &VmEntry, key: &Key, name: &str) -> Result<()> {
        let store = self.repository().store();
        let place = trash::aside(self.clock().now(), entry.vm.vm_id, name)?;
        match self.with_room(|| store.rename(key, &place)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            // Of the second damaged file within a second nothing is kept.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => store.delete(key),
            other => other,
        }
    }

    /// The content of the disk as of the layer in a slot, by what the VM's points and its index state. Of a layer that no point names,
    /// the index and the points above it may state different ones when the index was made of damaged sums.
    fn stated_contents(&self, entry: &VmEntry, slot: &Slot) -> Result<Vec<Digest>> {
        let (repository, vm) = (self.repository(), &entry.vm.name);
        let hidden = entry.index.hidden.iter();
        let hidden = hidden.filter(|hidden| hidden.slot == *slot);
        let mut stated: Vec<Digest> = hidden.map(|hidden| hidden.content_root).collect();
        for known in &entry.index.points {
            // A sidecar that is damaged, too, states nothing.
            let Ok(point) = repository.point(vm, known) else {
                continue;
            };
            for disk in &point.disks {
                if disk.layer == *slot {
                    return Ok(vec![disk.content_root]);
                }
                let file = LayerFile::open(repository, vm, &disk.layer);
                if file.is_ok_and(|file| file.below.as_ref() == Some(slot)) {
                    stated.extend(disk.parent_content_root);
                }
            }
        }
        match stated.is_empty() {
            false => Ok(stated),
            true => Err(Error::not_found(format!(
                "nothing of {vm} states the content of the layer {slot}"
            ))),
        }
    }

    fn put_back_attached(&self, entry: &VmEntry, name: &PointName, file: &str) -> Result<()> {
        let (repository, vm) = (self.repository(), &entry.vm.name);
        let known = entry.index.point(name);
        let known = known.ok_or_else(|| Error::not_found(format!("{vm} has no point {name}")))?;
        let point = repository.point(vm, known)?;
        let mut attached = point.attached.iter();
        let stated = attached.find(|stated| stated.name == file);
        let stated = stated.ok_or_else(|| {
            Error::not_found(format!("{vm}@{name} has no attached file of this name"))
        })?;
        if repository.attached(vm, name, stated).is_ok() {
            let what = format!("the attached file {file} of {vm}@{name} is whole");
            return Err(Error::new(ErrorKind::Stale, what));
        }
        let stage = repository.stage();
        let place = attached_place(&stated.blake3)?;
        let bytes = stage.get(&place, SIDECAR_BYTES_MAX)?;
        let found = Digest::of(&bytes);
        if found != stated.blake3 {
            let what = "the attached file is not the committed one";
            return Err(Error::corrupt(what, stated.blake3, found).at_path(place.as_str()));
        }
        let dir = VmKeys::new(vm)?.point(name)?.join(layout::ATTACHED)?;
        let store = repository.store();
        store.make_prefix(&dir)?;
        let key = dir.join(&stated.name)?;
        self.with_room(|| store.put(&key, &bytes, PutMode::Replace))?;
        stage.delete(&place)
    }

    fn put_back_sidecar(&self, entry: &VmEntry, name: &PointName, text: &str) -> Result<()> {
        let (repository, vm) = (self.repository(), &entry.vm.name);
        let mut points = entry.index.points.iter();
        let known = points.find(|point| point.name == *name);
        let known = known.ok_or_else(|| Error::not_found(format!("{vm} has no point {name}")))?;
        if repository.point(vm, known).is_ok() {
            let what = format!("the sidecar of {vm}@{name} is whole");
            return Err(Error::new(ErrorKind::Stale, what));
        }
        let found = Digest::of(text.as_bytes());
        if found != known.point_blake3 || parse::<Point>(text.as_bytes()).is_err() {
            return Err(Error::corrupt(
                format!("the sidecar for {vm}@{name} is not the committed one"),
                known.point_blake3,
                found,
            ));
        }
        let (key, store) = (VmKeys::new(vm)?.point_file(name)?, repository.store());
        self.with_room(|| store.put(&key, text.as_bytes(), PutMode::Replace))
    }
}

fn is_whole(owner: &Owner, vm: &VmName, slot: &Slot) -> bool {
    let repository = owner.repository();
    let found = LayerFile::open(repository, vm, slot)
        .and_then(|file| file.prove_header(repository, vm, slot))
        .and_then(|sums| sums.verify());
    found.is_ok()
}
