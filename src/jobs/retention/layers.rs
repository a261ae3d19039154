//! The layers of a VM, and how many bytes forgetting points frees.
//!
//! # Why
//! A plan is shown before it is carried out, also for thousands of points, so not every header can be read. Where a point that stays
//! was compared with one that goes, its layer's header says what lies below. Among the layers of points that go, the index says it
//! where it can: with one disk, and a parent that is listed. A layer that was made full since is not known there, and the bytes below
//! it then count as needed. The collector reads all headers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::Result;
use crate::qcow2::Image;
use crate::repo::layout::VmKeys;
use crate::repo::sidecar::index::{Index, PointEntry};
use crate::repo::{Repository, Slot};
use crate::types::{PointId, PointName, VmName};

/// The layers of a VM as its index and their headers name them.
pub(super) struct Layers {
    repository: Arc<Repository>,
    vm: VmName,
    points: Vec<(PointName, Vec<Slot>)>,
    /// The layer below a point's layer at its commit, as far as the index says it.
    at_commit: HashMap<Slot, Option<Slot>>,
    /// The layer below each layer whose header was read.
    read: HashMap<Slot, Option<Slot>>,
    /// Bytes of each layer with its sums, once they were asked for.
    sizes: Option<HashMap<Slot, u64>>,
}

/// The layer below that of a point's only disk, where the index is sure of it.
fn below(point: &PointEntry, by_id: &HashMap<PointId, &PointEntry>) -> Option<Option<Slot>> {
    let [_] = point.disks.as_slice() else {
        return None;
    };
    if point.is_full() {
        return Some(None);
    }
    let parent = by_id.get(&point.parent.as_ref()?.point_id)?;
    match parent.disks.as_slice() {
        [disk] => Some(Some(disk.layer.clone())),
        _ => None,
    }
}

impl Layers {
    /// The layers of the VM with this index.
    pub(super) fn new(repository: &Arc<Repository>, index: &Index) -> Self {
        let by_id = index.points.iter().map(|point| (point.point_id, point));
        let by_id: HashMap<PointId, &PointEntry> = by_id.collect();
        let mut known = HashMap::new();
        for point in &index.points {
            if let ([disk], Some(below)) = (point.disks.as_slice(), below(point, &by_id)) {
                known.insert(disk.layer.clone(), below);
            }
        }
        let slots =
            |point: &PointEntry| point.disks.iter().map(|disk| disk.layer.clone()).collect();
        let points = index.points.iter();
        Self {
            repository: Arc::clone(repository),
            vm: index.name.clone(),
            points: points
                .map(|point| (point.name.clone(), slots(point)))
                .collect(),
            at_commit: known,
            read: HashMap::new(),
            sizes: None,
        }
    }

    /// Layers that points name.
    pub(super) fn count(&self) -> usize {
        self.points.iter().map(|(_, slots)| slots.len()).sum()
    }

    /// Bytes of the layers, and of their sums, that nothing needs any more when these points are gone.
    ///
    /// # Errors
    /// `Corrupt` when a layer on the way is missing or cannot be read: then nothing is freed; `Io`.
    pub(super) fn freed_bytes(&mut self, gone: &HashSet<&PointName>) -> Result<u64> {
        if gone.is_empty() {
            return Ok(0);
        }
        let (mut kept, mut lost) = (HashSet::new(), HashSet::new());
        for (point, slots) in &self.points {
            match gone.contains(point) {
                true => lost.extend(slots.iter().cloned()),
                false => kept.extend(slots.iter().cloned()),
            }
        }
        let named = kept.clone();
        self.close(&mut kept, &named, &HashSet::new())?;
        lost.retain(|slot| !kept.contains(slot));
        self.close(&mut lost, &HashSet::new(), &kept)?;
        if lost.is_empty() {
            return Ok(0);
        }
        let sizes = self.sizes()?;
        Ok(lost.iter().filter_map(|slot| sizes.get(slot)).sum())
    }

    /// Adds all layers below those in the set, down to those in `stop`. `named` are the layers of points that stay.
    fn close(
        &mut self,
        slots: &mut HashSet<Slot>,
        named: &HashSet<Slot>,
        stop: &HashSet<Slot>,
    ) -> Result<()> {
        let mut todo: Vec<Slot> = slots.iter().cloned().collect();
        while let Some(slot) = todo.pop() {
            if let Some(below) = self.below(&slot, named)?
                && !stop.contains(&below)
                && slots.insert(below.clone())
            {
                todo.push(below);
            }
        }
        Ok(())
    }

    fn below(&mut self, slot: &Slot, named: &HashSet<Slot>) -> Result<Option<Slot>> {
        if let Some(below) = self.read.get(slot) {
            return Ok(below.clone());
        }
        if let Some(below) = self.at_commit.get(slot) {
            let stays = |below: &Slot| named.contains(below);
            if !named.contains(slot) || below.as_ref().is_none_or(stays) {
                return Ok(below.clone());
            }
        }
        let image = Image::open(self.repository.open_layer(&self.vm, slot)?)?;
        let backing = image.backing_name();
        let below = backing.map(|name| Slot::of_file(&String::from_utf8_lossy(name)));
        let below = below.transpose()?;
        self.read.insert(slot.clone(), below.clone());
        Ok(below)
    }

    fn sizes(&mut self) -> Result<&HashMap<Slot, u64>> {
        let sizes = match self.sizes.take() {
            Some(sizes) => sizes,
            None => {
                let mut sizes = HashMap::new();
                let layers = VmKeys::new(&self.vm)?.layers()?;
                for entry in self.repository.store().list(&layers)? {
                    if let Some(slot) = Slot::of_any_file(&entry.name) {
                        *sizes.entry(slot).or_default() += entry.size_bytes;
                    }
                }
                sizes
            }
        };
        Ok(self.sizes.insert(sizes))
    }
}
