//! Layers that are not where the index says: a look at the listing alone, without opening a layer.
//!
//! # Why
//! A walk of all chains proves more, and takes a read of every header. Whoever looks at all VMs every few minutes lists
//! one directory of each.

use std::collections::HashSet;

use super::layout::VmKeys;
use super::repository::{Repository, absent_is_empty};
use super::sidecar::index::Index;
use super::slot::{LAYER_SUFFIX, SUMS_SUFFIX, Slot};
use crate::error::Result;
use crate::types::PointName;

/// A file of a layer that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile {
    /// Its path below the repository.
    pub path: String,
    /// The point whose layer it is; `None` for a hidden layer, which later points need.
    pub point: Option<PointName>,
}

impl Repository {
    /// The files that the index of a VM names, and that are not in `layers/`: the layers of points, hidden layers, and
    /// sums of both. Beside a writer the index may be older than the listing: a caller that finds something reads the index again.
    ///
    /// # Errors
    /// `Io`.
    pub fn missing_files(&self, index: &Index) -> Result<Vec<MissingFile>> {
        let keys = VmKeys::new(&index.name)?;
        let (mut layers, mut with_sums) = (HashSet::new(), HashSet::new());
        for entry in absent_is_empty(self.store().list(&keys.layers()?))? {
            if entry.name.ends_with(SUMS_SUFFIX) {
                with_sums.extend(Slot::of_any_file(&entry.name));
            } else if let Some(slot) = entry.name.strip_suffix(LAYER_SUFFIX) {
                layers.extend(Slot::parse(slot).ok());
            }
        }
        let named = index.points.iter().flat_map(|point| {
            let layers = point.disks.iter().map(|disk| &disk.layer);
            layers.map(|slot| (slot, Some(&point.name)))
        });
        let hidden = index.hidden.iter().map(|layer| (&layer.slot, None));
        let mut missing = Vec::new();
        for (slot, point) in named.chain(hidden) {
            let layer = keys.layer(slot)?;
            if !layers.contains(slot) {
                missing.push(MissingFile {
                    path: layer.as_str().to_owned(),
                    point: point.cloned(),
                });
            } else if !with_sums.contains(slot) {
                let path = layer.as_str().strip_suffix(LAYER_SUFFIX);
                missing.push(MissingFile {
                    path: format!("{}.*.sums", path.unwrap_or_default()),
                    point: point.cloned(),
                });
            }
        }
        Ok(missing)
    }
}
