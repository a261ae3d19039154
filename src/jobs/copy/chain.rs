//! The chains of the source, as far as the plan looks at them.

use std::collections::HashMap;

use crate::block::ReadAt;
use crate::error::{ErrorKind, Result};
use crate::repo::content::CLUSTER_BYTES;
use crate::repo::layer_file::LayerFile;
use crate::repo::{Repository, Slot};
use crate::types::width::u64_from_usize;
use crate::types::{Digest, LayerId, VmId, VmName};

/// A layer, as its header and its sums describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerFacts {
    pub(super) layer: LayerId,
    pub(super) below: Option<Slot>,
    pub(super) content_root: Digest,
    pub(super) held_bytes: u64,
    pub(super) file_bytes: u64,
}

/// Layers of a VM of the source. A layer that was merged away meanwhile is found in the trash.
pub(super) struct SourceChains<'a> {
    repository: &'a Repository,
    vm: &'a VmName,
    vm_id: VmId,
    known: HashMap<Slot, LayerFacts>,
}

impl<'a> SourceChains<'a> {
    pub(super) fn new(repository: &'a Repository, vm: &'a VmName, vm_id: VmId) -> Self {
        Self {
            repository,
            vm,
            vm_id,
            known: HashMap::new(),
        }
    }

    /// The layer in a slot; its header is proved.
    ///
    /// # Errors
    /// `NotFound` when it is missing; `Corrupt`, `Io`.
    pub(super) fn facts(&mut self, slot: &Slot) -> Result<LayerFacts> {
        if let Some(known) = self.known.get(slot) {
            return Ok(known.clone());
        }
        let file = LayerFile::seek(self.repository, self.vm, self.vm_id, slot)?;
        let sums = file.seek_sums(self.repository, self.vm, self.vm_id, slot)?;
        file.prove_header_with(self.vm, slot, &sums)?;
        let held: u64 = sums.touched().map(|(_, held)| u64::from(held)).sum();
        let held_bytes = held.saturating_mul(CLUSTER_BYTES);
        let tables = u64_from_usize(sums.summary().metadata.len()).saturating_mul(CLUSTER_BYTES);
        let facts = LayerFacts {
            layer: file.layer,
            below: file.below,
            content_root: sums.summary().content_root(),
            held_bytes,
            // Holes take nothing, and compressed clusters less than their size.
            file_bytes: file
                .file
                .size_bytes()
                .min(held_bytes.saturating_add(tables)),
        };
        self.known.insert(slot.clone(), facts.clone());
        Ok(facts)
    }
}

/// The content in slots of the target, each looked at once.
pub(super) struct TargetSlots<'a> {
    repository: &'a Repository,
    vm: &'a VmName,
    known: HashMap<Slot, Digest>,
}

impl<'a> TargetSlots<'a> {
    pub(super) fn new(repository: &'a Repository, vm: &'a VmName) -> Self {
        Self {
            repository,
            vm,
            known: HashMap::new(),
        }
    }

    /// The content in a slot; `None` where there is no layer.
    ///
    /// # Errors
    /// `Corrupt` when the layer that is there is damaged; `Io`.
    pub(super) fn content(&mut self, slot: &Slot) -> Result<Option<Digest>> {
        if let Some(known) = self.known.get(slot) {
            return Ok(Some(*known));
        }
        let found = match self.repository.content_in(self.vm, slot) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                return Err(e.advise(
                    "a layer at the target is damaged; mend it there: restorefs -r TARGET verify",
                ));
            }
            other => other?,
        };
        if let Some(found) = found {
            self.known.insert(slot.clone(), found);
        }
        Ok(found)
    }
}
