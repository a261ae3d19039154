//! All points of a VM in short, for calendars and lists of names.

use jiff::Timestamp;

use super::View;
use super::point::{Names, PointAnswer};
use crate::access::Right;
use crate::error::Result;
use crate::types::{PointName, VmName};

/// A restore point in short: nothing of it needs a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointMark {
    /// Its name.
    pub name: PointName,
    /// Its place in the VM's order.
    pub seq: u64,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// Whether verification found damage.
    pub is_damaged: bool,
}

impl View {
    /// All points of a VM in short, the newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn marks(&self, vm: &VmName) -> Result<Vec<PointMark>> {
        let vm = self.vm_for(vm, Right::Read)?;
        let order = self.shared.orders.of(&vm);
        let marks = order.below(None).iter().map(|ranked| {
            let entry = &ranked.point.entry;
            PointMark {
                name: entry.name.clone(),
                seq: entry.seq,
                captured_at: entry.captured_at,
                is_damaged: entry.check.is_some_and(|check| check.as_str() == "damaged"),
            }
        });
        Ok(marks.collect())
    }

    /// The points with these numbers, in the given order; one that is gone is left out.
    ///
    /// # Errors
    /// `NotFound` (the VM); `Io`.
    pub fn points_at(&self, vm: &VmName, seqs: &[u64]) -> Result<Vec<PointAnswer>> {
        let vm = self.vm_for(vm, Right::Read)?;
        let order = self.shared.orders.of(&vm);
        let names = Names::default();
        let found = seqs.iter().filter_map(|seq| order.at(*seq));
        found
            .map(|ranked| PointAnswer::of(ranked, self.repository(), &names))
            .collect()
    }
}
