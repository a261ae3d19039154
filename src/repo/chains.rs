//! The chains of a VM: a complete walk from each point and session down to the full layers, and what `index.json`
//! repeats of it.

use std::collections::{HashMap, HashSet};

use super::content::CLUSTER_BYTES;
use super::layer_file::LayerFile;
use super::leaves::DEPTH_MAX;
use super::repository::Repository;
use super::sidecar::Unknown;
use super::sidecar::arriving::Arriving;
use super::sidecar::hidden::HiddenLayer;
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
    /// Stable key of the disk: that of the layer above, where no point names this one.
    pub disk_key: String,
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
                // An unsealed layer has no header yet, and one that a crash has left between two steps of its publication
                // has no sums: the session names its parent.
                match chains.add(repository, vm, &disk.layer, &disk.key) {
                    // What lies below it was added with it: the damage is there.
                    Err(e) if chains.get(&disk.layer).is_some() => return Err(e),
                    Err(_) => chains.add_unsealed(disk.layer, parent.as_ref()),
                    Ok(()) => {}
                }
                if let Some(parent) = parent {
                    chains.add(repository, vm, &parent, &disk.key)?;
                }
            }
            if let Some(arriving) = &session.arriving {
                chains.add_arriving(repository, vm, arriving)?;
            }
        }
        for entry in &index.points {
            let point = repository.point(vm, entry)?;
            for disk in point.disks {
                // What a session took for unsealed is damage where a point names it.
                if chains
                    .get(&disk.layer)
                    .is_some_and(|known| known.layer.is_none())
                {
                    chains.0.remove(&disk.layer);
                }
                chains.add(repository, vm, &disk.layer, &disk.key)?;
            }
        }
        chains.count_children();
        Ok(chains)
    }

    /// Adds the layers of a copy that is under way, of which some may be in their slots.
    fn add_arriving(
        &mut self,
        repository: &Repository,
        vm: &VmName,
        arriving: &Arriving,
    ) -> Result<()> {
        for base in &arriving.bases {
            self.add(repository, vm, &base.slot, &base.key)?;
        }
        for layer in &arriving.layers {
            match self.add(repository, vm, &layer.slot, &layer.key) {
                Err(e) if self.get(&layer.slot).is_some() => return Err(e),
                Err(_) => self.add_unsealed(layer.slot.clone(), layer.below.as_ref()),
                Ok(()) => {}
            }
        }
        Ok(())
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
    fn add(&mut self, repository: &Repository, vm: &VmName, top: &Slot, key: &str) -> Result<()> {
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
                disk_key: key.to_owned(),
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

    /// Records in a VM's index which layers are hidden, and how deep the chain of each disk is. Returns whether the index
    /// has changed.
    pub(super) fn note_in(&self, index: &mut Index) -> bool {
        let (hidden, depths) = (self.hidden(&index.hidden), self.depths());
        let mut is_changed = hidden != index.hidden;
        index.hidden = hidden;
        for disk in index.points.iter_mut().flat_map(|point| &mut point.disks) {
            let depth = depths.get(&disk.layer).copied();
            if depth.is_some() && depth != disk.depth {
                (disk.depth, is_changed) = (depth, true);
            }
        }
        is_changed
    }

    /// The hidden layers, by slot. The key of a disk stays as it was `before`: it is that of the point for which the layer
    /// was made.
    fn hidden(&self, before: &[HiddenLayer]) -> Vec<HiddenLayer> {
        let before = before.iter().map(|layer| (&layer.slot, layer));
        let before: HashMap<&Slot, &HiddenLayer> = before.collect();
        let hidden = self.0.iter().filter(|(_, layer)| !layer.is_named);
        let mut hidden: Vec<HiddenLayer> = hidden
            .filter_map(|(slot, layer)| {
                let known = before.get(slot);
                let layer_id = layer.layer?;
                // A layer never gets another content: where its sums are damaged, the index is right.
                let same = known.filter(|known| known.layer_id == layer_id);
                let content_root = same.map(|same| same.content_root).or(layer.content_root)?;
                Some(HiddenLayer {
                    slot: slot.clone(),
                    layer_id,
                    disk_key: known
                        .map_or(&layer.disk_key, |known| &known.disk_key)
                        .clone(),
                    content_root,
                    file_bytes: layer.file_bytes,
                    held_clusters: layer.held_clusters,
                    unknown: known.map_or_else(Unknown::new, |known| known.unknown.clone()),
                })
            })
            .collect();
        hidden.sort_by(|a, b| a.slot.cmp(&b.slot));
        hidden
    }

    /// The number of layers from each slot down to the layer without a backing layer.
    fn depths(&self) -> HashMap<&Slot, u32> {
        let mut depths: HashMap<&Slot, u32> = HashMap::new();
        for slot in self.0.keys() {
            let mut path = Vec::new();
            let mut next = Some(slot);
            let mut depth = 0;
            while let Some(slot) = next {
                if let Some(known) = depths.get(slot) {
                    depth = *known;
                    break;
                }
                path.push(slot);
                next = self.0.get(slot).and_then(|layer| layer.below.as_ref());
            }
            for slot in path.into_iter().rev() {
                depth += 1;
                depths.insert(slot, depth);
            }
        }
        depths
    }

    /// The slots whose chains lead to a layer, its own included.
    #[must_use]
    pub(super) fn above(&self, slot: &Slot) -> HashSet<Slot> {
        let mut children: HashMap<&Slot, Vec<&Slot>> = HashMap::new();
        for (child, layer) in &self.0 {
            if let Some(below) = &layer.below {
                children.entry(below).or_default().push(child);
            }
        }
        let mut above = HashSet::new();
        let mut left = vec![slot];
        while let Some(slot) = left.pop() {
            if above.insert(slot.clone()) {
                left.extend(children.get(slot).into_iter().flatten());
            }
        }
        above
    }

    /// For each layer the depth of the deepest chain of a point or session through it.
    #[must_use]
    pub fn deepest(&self) -> HashMap<&Slot, u32> {
        let depths = self.depths();
        let mut deepest: HashMap<&Slot, u32> = HashMap::new();
        for (top, _) in self.0.iter().filter(|(_, layer)| layer.is_named) {
            let depth = depths.get(top).copied().unwrap_or_default();
            let mut next = Some(top);
            // Below a layer that is known to be in a deeper chain all others are, too.
            while let Some(slot) = next.filter(|slot| deepest.get(slot).is_none_or(|d| *d < depth))
            {
                deepest.insert(slot, depth);
                next = self.0.get(slot).and_then(|layer| layer.below.as_ref());
            }
        }
        deepest
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
