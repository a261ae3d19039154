//! Proof of everything in a layer but its data: header, tables and refcounts against its sums, and the sums
//! against their own hash.
//!
//! # Why
//! A read through a layer touches only the tables that lead to the data. A flipped bit in a refcount, in the
//! table of feature names, or in an unused part of the sums does no harm until a merge or another program
//! needs it.

use std::collections::HashSet;

use super::content::CLUSTER_BYTES;
use super::layer_file::{LayerFile, prove_cluster};
use super::layout::VmKeys;
use super::leaves::DEPTH_MAX;
use super::repository::Repository;
use super::slot::Slot;
use super::sums::LayerSums;
use crate::block::ReadAt;
use crate::chain::{Trail, settled};
use crate::error::{Error, Result, ResultExt};
use crate::types::{VmId, VmName};

/// Proves one layer; returns the slot below it.
///
/// # Errors
/// `NotFound` when the layer or its sums are missing; `Corrupt` naming file and offset; `Io`.
fn prove_layer(
    repository: &Repository,
    vm: &VmName,
    vm_id: VmId,
    slot: &Slot,
    trail: &mut Trail,
) -> Result<Option<Slot>> {
    let keys = VmKeys::new(vm)?;
    let place = keys.layer(slot)?;
    let layer = LayerFile::seek(repository, vm, vm_id, slot).at_path(place.as_str())?;
    trail.push((slot.to_string(), layer.layer));
    let sums = layer.seek_sums(repository, vm, vm_id, slot)?;
    prove_structure(vm, slot, &layer, &sums, &mut |_| Ok(()), &mut Err)?;
    Ok(layer.below)
}

/// Proves everything in a layer but its data. `before` hears of each piece of work, in bytes, before it is begun; each fault goes to
/// `fault`. Both end the proof where they return an error.
///
/// # Errors
/// Those of `before` and `fault`; none of its own but errors that prevent the proof.
pub fn prove_structure(
    vm: &VmName,
    slot: &Slot,
    layer: &LayerFile,
    sums: &LayerSums,
    before: &mut dyn FnMut(u64) -> Result<()>,
    fault: &mut dyn FnMut(Error) -> Result<()>,
) -> Result<()> {
    let keys = VmKeys::new(vm)?;
    let place = keys.layer(slot)?;
    before(sums.size_bytes())?;
    let proved = sums.verify();
    if let Err(e) = proved.at_path(keys.sums(slot, layer.layer)?.as_str()) {
        fault(e)?;
    }
    let summary = sums.summary();
    if summary.layer_bytes != layer.file.size_bytes() {
        let size = Error::corrupt(
            "a layer has another size than its sums record",
            summary.layer_bytes,
            layer.file.size_bytes(),
        );
        fault(size.at_path(place.as_str()))?;
    }
    for (cluster, stated) in &summary.metadata {
        before(CLUSTER_BYTES)?;
        let proved = prove_cluster(layer.file.as_ref(), *cluster, stated);
        if let Err(e) = proved.at_path(place.as_str()) {
            fault(e)?;
        }
    }
    Ok(())
}

/// Proves all layers of a chain, from the slot `top` on.
///
/// # Errors
/// `Corrupt` naming file and offset of the first fault; `Io`.
pub fn prove_chain(repository: &Repository, vm: &VmName, vm_id: VmId, top: &Slot) -> Result<()> {
    settled(repository.store().look_up_delay(), |trail| {
        let mut seen = HashSet::new();
        let mut next = Some(top.clone());
        while let Some(slot) = next {
            if seen.len() >= DEPTH_MAX || !seen.insert(slot.clone()) {
                return Err(Error::corrupt(
                    "the backing chain is a loop",
                    "a chain that ends",
                    &slot,
                )
                .at_path(slot.layer_file()));
            }
            next = prove_layer(repository, vm, vm_id, &slot, trail)?;
        }
        Ok(())
    })
}
