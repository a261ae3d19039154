//! The layers that the points of a VM need, and what is missing of them.
//!
//! # Invariants
//! - The walk goes on past what is missing or damaged, as far as headers lead.
//! - A fault counts only when two walks in a row meet it: a layer can be replaced or go to the trash between two looks.

use std::collections::BTreeMap;

use crate::block::ReadAt;
use crate::chain::Trail;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::content::{CLUSTER_BYTES, Region};
use crate::repo::layer_file::LayerFile;
use crate::repo::layout::VmKeys;
use crate::repo::leaves::DEPTH_MAX;
use crate::repo::sidecar::index::Index;
use crate::repo::{Repository, Slot};
use crate::types::width::u64_from_usize;
use crate::types::{LayerId, VmName};

/// A layer that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) layer: LayerId,
    /// The slot below it.
    pub(super) below: Option<Slot>,
    /// Size of the disk in bytes.
    pub(super) disk_bytes: u64,
    /// Bytes of everything in it but its data, sums included.
    pub(super) structure_bytes: u64,
    /// The regions that it touches, with the clusters that it holds there.
    pub(super) regions: Vec<(Region, u32)>,
}

/// What a look at a slot has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    Layer(Layer),
    /// The layer, or its sums, cannot be opened: why, and the slot below where the header tells it.
    Broken {
        fault: String,
        below: Option<Slot>,
    },
}

impl Look {
    pub(super) const fn below(&self) -> Option<&Slot> {
        match self {
            Self::Layer(layer) => layer.below.as_ref(),
            Self::Broken { below, .. } => below.as_ref(),
        }
    }
}

/// The layers of a VM.
pub(super) struct Survey {
    pub(super) vm: VmName,
    pub(super) index: Index,
    pub(super) looks: BTreeMap<Slot, Look>,
}

impl Survey {
    /// Walks the chains of all points.
    ///
    /// # Errors
    /// `NotFound` (the VM); `Corrupt` when its sidecar cannot be read; `Io`.
    pub(super) fn of(repository: &Repository, vm: &VmName) -> Result<Self> {
        let mut before: Option<Trail> = None;
        loop {
            let survey = Self::walk(repository, vm)?;
            let trail = survey.broken();
            if trail.is_empty() || before.as_ref() == Some(&trail) {
                return Ok(survey);
            }
            before = Some(trail);
            let pause = repository.store().look_up_delay();
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
    }

    /// The broken slots, each with the first bytes of a hash of its fault in place of a layer id.
    fn broken(&self) -> Trail {
        let broken = self.looks.iter().filter_map(|(slot, look)| match look {
            Look::Broken { fault, .. } => {
                let hash = crate::types::Digest::of(fault.as_bytes()).0;
                let id = hash.first_chunk().copied().unwrap_or_default();
                Some((slot.to_string(), LayerId::from_bytes(id)))
            }
            Look::Layer(_) => None,
        });
        broken.collect()
    }

    fn walk(repository: &Repository, vm: &VmName) -> Result<Self> {
        let mut survey = Self {
            vm: vm.clone(),
            index: repository.index(vm)?,
            looks: BTreeMap::new(),
        };
        let tops: Vec<Slot> = survey
            .index
            .points
            .iter()
            .flat_map(|point| &point.disks)
            .map(|disk| disk.layer.clone())
            .collect();
        for top in tops {
            let mut next = Some(top);
            while let Some(slot) = next {
                if survey.looks.contains_key(&slot) {
                    break;
                }
                let look = look(repository, vm, &slot)?;
                next = look.below().cloned();
                survey.looks.insert(slot, look);
            }
        }
        Ok(survey)
    }

    /// The layers of a chain from a slot on, top first. A loop ends.
    pub(super) fn chain<'a>(&'a self, top: &'a Slot) -> impl Iterator<Item = (&'a Slot, &'a Look)> {
        let first = self.looks.get_key_value(top);
        let next = |(_, look): &(&'a Slot, &'a Look)| self.looks.get_key_value(look.below()?);
        std::iter::successors(first, next).take(DEPTH_MAX.min(self.looks.len()))
    }
}

/// The fault of a header whose layer id is not that of the sums in its slot; `None` when the slot has no sums at all, or the header
/// is right.
fn header_fault(
    repository: &Repository,
    vm: &VmName,
    slot: &Slot,
    file: &LayerFile,
) -> Result<Option<Error>> {
    for entry in repository.store().list(&VmKeys::new(vm)?.layers()?)? {
        let Some(layer) = Slot::layer_of_sums(&entry.name) else {
            continue;
        };
        if Slot::of_any_file(&entry.name).as_ref() != Some(slot) {
            continue;
        }
        if let Ok(sums) = repository.find_sums(vm, slot, layer)
            && let Err(e) = file.prove_header_with(vm, slot, &sums)
        {
            return Ok(Some(e));
        }
    }
    Ok(None)
}

fn look(repository: &Repository, vm: &VmName, slot: &Slot) -> Result<Look> {
    let broken = |error: Error, below| match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::Corrupt
        | ErrorKind::Unsupported
        | ErrorKind::InvalidInput
        | ErrorKind::Io => Ok(Look::Broken {
            fault: error.report(),
            below,
        }),
        _ => Err(error),
    };
    let key = VmKeys::new(vm)?.layer(slot)?;
    let file = match LayerFile::open(repository, vm, slot).at_path(key.as_str()) {
        Ok(file) => file,
        Err(e) => return broken(e, None),
    };
    let sums = match repository.find_sums(vm, slot, file.layer) {
        Ok(sums) => sums,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let flipped = header_fault(repository, vm, slot, &file)?;
            return broken(flipped.unwrap_or(e), file.below);
        }
        Err(e) => return broken(e, file.below),
    };
    let summary = sums.summary();
    let tables = u64_from_usize(summary.metadata.len()).saturating_mul(CLUSTER_BYTES);
    let regions: Vec<(Region, u32)> = sums.touched().collect();
    let held: u64 = regions.iter().map(|(_, held)| u64::from(*held)).sum();
    Ok(Look::Layer(Layer {
        layer: file.layer,
        below: file.below,
        disk_bytes: summary.size_bytes,
        structure_bytes: tables
            .min(file.file.size_bytes())
            .saturating_add(held.saturating_mul(32)),
        regions,
    }))
}
