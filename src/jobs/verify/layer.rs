//! Everything that is wrong with one layer, for who mends it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::data::LayerData;
use super::fault::is_damage;
use crate::error::Result;
use crate::qcow2::Image;
use crate::repo::Slot;
use crate::repo::content::{CLUSTER_BYTES, Region};
use crate::repo::layer_file::LayerFile;
use crate::repo::metadata::prove_structure;
use crate::repo::sums::LayerSums;
use crate::task::{Monitor, Pace};
use crate::types::{GuestCluster, VmName};

/// What is wrong with a layer whose header and sums can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerFaults {
    /// Faults of tables, refcounts, and size.
    pub structure: Vec<String>,
    /// Clusters of the disk among which all that are damaged are.
    pub clusters: BTreeSet<GuestCluster>,
}

impl LayerFaults {
    /// Reads a whole layer. Progress counts the bytes of the clusters that it holds.
    ///
    /// # Errors
    /// `Corrupt` when its tables cannot be opened at all; `Cancelled`; errors that are no damage.
    pub fn of(
        vm: &VmName,
        slot: &Slot,
        file: &LayerFile,
        sums: &LayerSums,
        pace: &Pace,
        monitor: &Monitor,
    ) -> Result<Self> {
        let mut faults = Self::default();
        let mut before = |bytes| {
            monitor.check()?;
            pace.wait_for(bytes, monitor)
        };
        prove_structure(vm, slot, file, sums, &mut before, &mut |fault| {
            if !is_damage(&fault) {
                return Err(fault);
            }
            faults.structure.push(fault.report());
            Ok(())
        })?;
        let image = Image::open(Arc::clone(&file.file))?;
        let regions: Vec<Region> = sums.touched().map(|(region, _)| region).collect();
        let data = LayerData::new(&image, sums, pace, monitor);
        for check in data.verify(&regions, Timestamp::UNIX_EPOCH)? {
            for range in &check.damaged {
                let first = range.offset / CLUSTER_BYTES;
                let end = (range.offset + range.length_bytes).div_ceil(CLUSTER_BYTES);
                faults.clusters.extend((first..end).map(GuestCluster));
            }
        }
        Ok(faults)
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.structure.is_empty() && self.clusters.is_empty()
    }
}
