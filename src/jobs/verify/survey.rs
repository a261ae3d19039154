//! The layers that the points of a VM need, and what is missing of them.
//!
//! # Invariants
//! - The walk goes on past what is missing or damaged, as far as headers lead. It ends in a loop: the layer that closes it is broken.
//! - A fault counts only when two walks in a row meet it: a layer can be replaced or go to the trash between two looks.

use std::collections::BTreeMap;

use super::fault::is_loss;
use crate::block::ReadAt;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::repo::content::{CLUSTER_BYTES, Region};
use crate::repo::layer_file::LayerFile;
use crate::repo::layout::VmKeys;
use crate::repo::leaves::DEPTH_MAX;
use crate::repo::sidecar::index::Index;
use crate::repo::{Repository, Slot};
use crate::types::width::u64_from_usize;
use crate::types::{Digest, LayerId, VmName};

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
    /// The regions that it touches, ascending, with the clusters that it holds there.
    pub(super) regions: Vec<(Region, u32)>,
    /// The content root of its sums.
    pub(super) content_root: Digest,
    /// Why its header, which names the slot below, is not to be trusted.
    pub(super) header_fault: Option<String>,
}

impl Layer {
    pub(super) fn touches(&self, region: Region) -> bool {
        let found = self.regions.binary_search_by_key(&region, |(r, _)| *r);
        found.is_ok()
    }
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

    const fn fault(&self) -> Option<&String> {
        match self {
            Self::Layer(layer) => layer.header_fault.as_ref(),
            Self::Broken { fault, .. } => Some(fault),
        }
    }
}

/// What is looked at of a layer's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// What it says.
    Read,
    /// What it says, and that it is what was committed.
    Proved,
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
    pub(super) fn of(repository: &Repository, vm: &VmName, header: Header) -> Result<Self> {
        let mut before: Option<Vec<(Slot, String)>> = None;
        loop {
            let survey = Self::walk(repository, vm, header)?;
            let faults = survey.faults();
            if faults.is_empty() || before.as_ref() == Some(&faults) {
                return Ok(survey);
            }
            before = Some(faults);
            let pause = repository.store().look_up_delay();
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
    }

    fn faults(&self) -> Vec<(Slot, String)> {
        let faults = self.looks.iter();
        faults
            .filter_map(|(slot, look)| Some((slot.clone(), look.fault()?.clone())))
            .collect()
    }

    fn walk(repository: &Repository, vm: &VmName, header: Header) -> Result<Self> {
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
            let mut path: Vec<Slot> = Vec::new();
            let mut next = Some(top);
            while let Some(slot) = next {
                if survey.looks.contains_key(&slot) {
                    if path.contains(&slot) {
                        survey.looks.extend(path.pop().map(closed_loop));
                    }
                    break;
                }
                let look = look(repository, vm, &slot, header)?;
                next = look.below().cloned();
                survey.looks.insert(slot.clone(), look);
                path.push(slot);
            }
        }
        Ok(survey)
    }

    /// The layers of a chain from a slot on, top first.
    pub(super) fn chain<'a>(&'a self, top: &'a Slot) -> impl Iterator<Item = (&'a Slot, &'a Look)> {
        let first = self.looks.get_key_value(top);
        let next = |(_, look): &(&'a Slot, &'a Look)| self.looks.get_key_value(look.below()?);
        std::iter::successors(first, next).take(DEPTH_MAX)
    }

    /// The layers that can be read.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&Slot, LayerId)> {
        self.looks.iter().filter_map(|(slot, look)| match look {
            Look::Layer(layer) => Some((slot, layer.layer)),
            Look::Broken { .. } => None,
        })
    }
}

/// The look at a layer whose header leads back to a layer above it.
fn closed_loop(slot: Slot) -> (Slot, Look) {
    let fault = Error::corrupt("the backing chain is a loop", "a chain that ends", &slot);
    let fault = fault.at_path(slot.layer_file()).report();
    (slot, Look::Broken { fault, below: None })
}

/// The fault of a header whose layer id is not that of the sums in its slot; `None` when the slot has no sums at all, or the header
/// is right.
fn other_header(
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

fn look(repository: &Repository, vm: &VmName, slot: &Slot, header: Header) -> Result<Look> {
    let broken = |error: Error, below| match is_loss(&error) {
        true => Ok(Look::Broken {
            fault: error.report(),
            below,
        }),
        false => Err(error),
    };
    let key = VmKeys::new(vm)?.layer(slot)?;
    let file = match LayerFile::open(repository, vm, slot).at_path(key.as_str()) {
        Ok(file) => file,
        Err(e) => return broken(e, None),
    };
    let sums = match repository.find_sums(vm, slot, file.layer) {
        Ok(sums) => sums,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let flipped = other_header(repository, vm, slot, &file)?;
            return broken(flipped.unwrap_or(e), file.below);
        }
        Err(e) => return broken(e, file.below),
    };
    let header_fault = match header {
        Header::Read => None,
        Header::Proved => match file.prove_header_with(vm, slot, &sums) {
            Ok(()) => None,
            Err(e) if is_loss(&e) => Some(e.report()),
            Err(e) => return Err(e),
        },
    };
    let summary = sums.summary();
    let tables = u64_from_usize(summary.metadata.len()).saturating_mul(CLUSTER_BYTES);
    let regions: Vec<(Region, u32)> = sums.touched().collect();
    let held: u64 = regions.iter().map(|(_, held)| u64::from(*held)).sum();
    Ok(Look::Layer(Layer {
        layer: file.layer,
        disk_bytes: summary.size_bytes,
        structure_bytes: tables
            .min(file.file.size_bytes())
            .saturating_add(held.saturating_mul(32)),
        regions,
        content_root: summary.content_root(),
        header_fault,
        below: file.below,
    }))
}
