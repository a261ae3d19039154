//! Lineage: checks each layer of a disk's chain, so that no new layer is built on a broken one unnoticed.
//!
//! The checks of each layer: the file exists and has the right size; its header cluster, and the layer id in
//! it, are right; its sums exist, have the right size and belong to it; its content is what the point that it
//! was made for records. Data is not read: `restore` proves it.

use std::collections::{HashMap, HashSet};

use super::layer_file::{FROM_COPY, LayerFile};
use super::layout::{self, VmKeys};
use super::leaves::DEPTH_MAX;
use super::repository::Repository;
use super::sidecar::index::{Index, PointEntry};
use super::sidecar::point::Point;
use super::slot::Slot;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::{Digest, VmName};

/// The chains of one VM.
pub struct Lineage<'a> {
    repository: &'a Repository,
    vm: &'a VmName,
    /// The point to which the layer of a slot belongs: its position in `points`.
    owners: HashMap<&'a Slot, usize>,
    points: &'a [PointEntry],
    /// Slots whose layer, and all layers below it, are sound.
    sound: HashSet<Slot>,
    /// Slots whose layer, or a layer below it, is broken, with the error.
    broken: HashMap<Slot, String>,
}

impl<'a> Lineage<'a> {
    /// The chains of a VM with the points that the index lists.
    #[must_use]
    pub fn new(repository: &'a Repository, vm: &'a VmName, index: &'a Index) -> Self {
        let points = index.points.iter().enumerate();
        Self {
            repository,
            vm,
            owners: points
                .flat_map(|(at, point)| point.disks.iter().map(move |disk| (&disk.layer, at)))
                .collect(),
            points: &index.points,
            sound: HashSet::new(),
            broken: HashMap::new(),
        }
    }

    /// Checks the chain whose top layer is in the slot `top`; `root` is its content root, where that is
    /// known.
    ///
    /// # Errors
    /// `Corrupt` naming the broken layer; `Unsupported` when a layer is of a newer release; `Io`.
    pub fn look(&mut self, top: &Slot, root: Option<Digest>) -> Result<()> {
        let mut path: Vec<Slot> = Vec::new();
        let walked = self.walk(top, root, &mut path);
        match &walked {
            Ok(()) => self.sound.extend(path),
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                let report = e.report();
                self.broken
                    .extend(path.into_iter().map(|slot| (slot, report.clone())));
            }
            Err(_) => {}
        }
        walked
    }

    fn walk(&self, top: &Slot, root: Option<Digest>, path: &mut Vec<Slot>) -> Result<()> {
        let mut next = Some((top.clone(), root));
        while let Some((slot, root)) = next {
            // A layer with a known content root is always checked itself; sound layers below it are not
            // checked again.
            if root.is_none() && self.sound.contains(&slot) {
                return Ok(());
            }
            if let Some(report) = self.broken.get(&slot) {
                return Err(Error::new(ErrorKind::Corrupt, report.clone()));
            }
            if path.contains(&slot) || path.len() >= DEPTH_MAX {
                return Err(Error::corrupt(
                    "the backing chain is a loop",
                    "a chain that ends",
                    &slot,
                )
                .at_path(slot.layer_file()));
            }
            path.push(slot.clone());
            let below = self.look_at(&slot, root)?;
            next = below.map(|slot| (slot, None));
        }
        Ok(())
    }

    /// Checks one layer; returns the slot below it.
    fn look_at(&self, slot: &Slot, root: Option<Digest>) -> Result<Option<Slot>> {
        let keys = VmKeys::new(self.vm)?;
        let key = keys.layer(slot)?;
        let file = LayerFile::open(self.repository, self.vm, slot).map_err(|e| {
            let e = e.at_path(key.as_str());
            match e.kind() {
                ErrorKind::NotFound => e.with_kind(ErrorKind::Corrupt),
                _ => e,
            }
        })?;
        let sums = file.prove_header(self.repository, self.vm, slot)?;
        let summary = sums.summary();
        let found = summary.content_root();
        let stated = root.or_else(|| self.recorded(slot));
        if let Some(stated) = stated.filter(|stated| *stated != found) {
            return Err(Error::corrupt(
                "a layer has another content than was recorded",
                stated,
                found,
            )
            .at_path(key.as_str())
            .advise(FROM_COPY));
        }
        Ok(file.below)
    }

    /// The content root that a point records for its layer in this slot; `None` when there is no such point,
    /// or its sidecar cannot be read. That harms only that point.
    fn recorded(&self, slot: &Slot) -> Option<Digest> {
        let point = self.points.get(*self.owners.get(slot)?)?;
        let point = self.repository.point(self.vm, point).ok()?;
        let mut disks = point.disks.iter();
        disks
            .find(|disk| disk.layer == *slot)
            .map(|disk| disk.content_root)
    }

    /// The faults of a point in the repository: of its sidecars, its attached files and the chains of its
    /// disks. The guest's own filesystems are not checked.
    ///
    /// # Errors
    /// Errors that prevent the check: `Io`.
    pub fn damage_of(&mut self, entry: &PointEntry) -> Result<Vec<Error>> {
        let mut faults = Vec::new();
        let mut take = |found: Result<()>| match found {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                faults.push(e);
                Ok(())
            }
            other => other,
        };
        let (point, found) = point_faults(self.repository, self.vm, entry);
        found.into_iter().try_for_each(|e| take(Err(e)))?;
        match point {
            Some(point) => {
                for disk in &point.disks {
                    take(self.look(&disk.layer, Some(disk.content_root)))?;
                }
            }
            None => {
                for disk in &entry.disks {
                    take(self.look(&disk.layer, None))?;
                }
            }
        }
        Ok(faults)
    }
}

/// The faults of a point that its chains do not tell: of its sidecar, its state, and its attached files, which must exist and have
/// their sizes. With the sidecar, where it can be read.
#[must_use]
pub fn point_faults(
    repository: &Repository,
    vm: &VmName,
    entry: &PointEntry,
) -> (Option<Point>, Vec<Error>) {
    let (point, mut faults) = match repository.point_and_doubt(vm, entry) {
        Ok((point, doubt)) => (Some(point), Vec::from_iter(doubt)),
        Err(e) => (None, vec![e]),
    };
    for file in point.iter().flat_map(|point| &point.attached) {
        let found = attached(repository, vm, entry, &file.name, file.size_bytes);
        faults.extend(found.err());
    }
    faults.extend(repository.state(vm, entry).err());
    (point, faults)
}

/// Checks that an attached file exists and has its size.
fn attached(
    repository: &Repository,
    vm: &VmName,
    point: &PointEntry,
    name: &str,
    size_bytes: u64,
) -> Result<()> {
    let keys = VmKeys::new(vm)?;
    let key = keys
        .point(&point.name)?
        .join(layout::ATTACHED)?
        .join(name)?;
    let found = match repository.store().open(&key) {
        Ok(file) => file.size_bytes(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(
                Error::corrupt("an attached file is missing", size_bytes, "no such file")
                    .at_path(key.as_str()),
            );
        }
        Err(e) => return Err(e).at_path(key.as_str()),
    };
    if found == size_bytes {
        return Ok(());
    }
    Err(
        Error::corrupt("an attached file has another size", size_bytes, found)
            .at_path(key.as_str()),
    )
}
