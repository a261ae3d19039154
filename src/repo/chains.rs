//! The chains of a VM: a complete walk from each point and session down to the full layers.

use std::collections::{HashMap, HashSet};

use super::content::CLUSTER_BYTES;
use super::layer_file::LayerFile;
use super::leaves::DEPTH_MAX;
use super::repository::Repository;
use super::sidecar::index::Index;
use super::slot::Slot;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result};
use crate::types::width::u64_from_usize;
use crate::types::{Digest, LayerId, VmName};

/// A layer in the chains of a VM.
#[derive(Debug, Clone, Default)]
pub struct ChainLayer {
    /// Its id; `None` for a layer that a session is writing.
    pub layer: Option<LayerId>,
    /// The slot of its backing layer.
    pub below: Option<Slot>,
    /// Whether a point or a session names it. A layer that only backing chains name is *hidden*.
    pub is_named: bool,
    /// The number of layers whose backing layer it is.
    pub children: usize,
    /// Bytes that its file takes: at most its size, as holes take nothing, and at most what it holds without
    /// compression.
    pub file_bytes: u64,
    /// Clusters that it holds.
    pub held_clusters: u64,
    /// The content of the disk as of this layer.
    pub content_root: Option<Digest>,
}

/// Every layer that a point, a session or a backing chain of a VM names, by slot.
#[derive(Debug, Default)]
pub struct Chains(HashMap<Slot, ChainLayer>);

impl Chains {
    /// Walks all chains of a VM. The header of each layer is proved, because it names the next one.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` for the first layer or sidecar that is missing or damaged: what lies below it is not
    /// known. `Io`.
    pub fn walk(repository: &Repository, vm: &VmName, index: &Index) -> Result<Self> {
        let mut chains = Self::default();
        for session in repository.sessions(vm)? {
            for disk in session.disks {
                let parent = disk.parent.map(|parent| parent.layer);
                // An unsealed layer has no header yet: the session names its parent.
                if repository.find_layer(vm, &disk.layer).is_ok() {
                    chains.add(repository, vm, &disk.layer)?;
                } else {
                    chains.add_unsealed(disk.layer, parent.as_ref());
                }
                if let Some(parent) = parent {
                    chains.add(repository, vm, &parent)?;
                }
            }
        }
        for entry in &index.points {
            let point = repository.point(vm, entry)?;
            for disk in point.disks {
                chains.add(repository, vm, &disk.layer)?;
            }
        }
        chains.count_children();
        Ok(chains)
    }

    fn add_unsealed(&mut self, slot: Slot, parent: Option<&Slot>) {
        let layer = ChainLayer {
            below: parent.cloned(),
            is_named: true,
            ..ChainLayer::default()
        };
        self.0.insert(slot, layer);
    }

    /// Adds a layer that is named, and the layers of its backing chain.
    fn add(&mut self, repository: &Repository, vm: &VmName, top: &Slot) -> Result<()> {
        let mut next = Some(top.clone());
        let mut path = HashSet::new();
        while let Some(slot) = next {
            if path.contains(&slot) {
                return Err(Error::corrupt(
                    "the backing chain is a loop",
                    "a chain that ends",
                    &slot,
                )
                .at_path(slot.layer_file()));
            }
            if self.0.contains_key(&slot) {
                break;
            }
            path.insert(slot.clone());
            if path.len() > DEPTH_MAX {
                let deep = format!("the backing chain has more than {DEPTH_MAX} layers");
                return Err(Error::new(ErrorKind::LimitExceeded, deep));
            }
            let file = LayerFile::open(repository, vm, &slot)?;
            let sums = file.prove_header(repository, vm, &slot)?;
            let summary = sums.summary();
            let held_clusters: u64 = sums.touched().map(|(_, held)| u64::from(held)).sum();
            let tables = u64_from_usize(summary.metadata.len());
            let whole = held_clusters
                .saturating_add(tables)
                .saturating_mul(CLUSTER_BYTES);
            let layer = ChainLayer {
                layer: Some(file.layer),
                below: file.below.clone(),
                is_named: false,
                children: 0,
                file_bytes: file.file.size_bytes().min(whole),
                held_clusters,
                content_root: Some(summary.content_root()),
            };
            self.0.insert(slot, layer);
            next = file.below;
        }
        if let Some(layer) = self.0.get_mut(top) {
            layer.is_named = true;
        }
        Ok(())
    }

    fn count_children(&mut self) {
        let below: Vec<Slot> = self.0.values().filter_map(|l| l.below.clone()).collect();
        for slot in below {
            if let Some(layer) = self.0.get_mut(&slot) {
                layer.children += 1;
            }
        }
    }

    /// The layer in a slot, if the VM needs one there.
    #[must_use]
    pub fn get(&self, slot: &Slot) -> Option<&ChainLayer> {
        self.0.get(slot)
    }

    /// A layer and the layers below it, top first.
    #[must_use]
    pub fn from(&self, top: &Slot) -> Vec<Slot> {
        let below = |slot: &Slot| self.0.get(slot).and_then(|layer| layer.below.clone());
        std::iter::successors(Some(top.clone()), below).collect()
    }

    /// All layers, by slot, in no order.
    pub fn layers(&self) -> impl Iterator<Item = (&Slot, &ChainLayer)> {
        self.0.iter()
    }

    /// Whether the layer in a slot can be merged into the one above it: it is hidden, and has one child.
    #[must_use]
    pub fn is_mergeable(&self, slot: &Slot) -> bool {
        self.0
            .get(slot)
            .is_some_and(|layer| !layer.is_named && layer.children == 1 && layer.layer.is_some())
    }
}
