//! The points of a VM, the newest first, with what each takes: computed once for each version of the VM.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::repo::Repository;
use crate::tree::{PointView, VmView};
use crate::types::VmId;
use crate::types::sync::Mutex;

/// LIMIT: VMs whose order is kept.
const KEPT_MAX: usize = 256;

/// A point in the order.
pub(super) struct Ranked {
    pub(super) point: Arc<PointView>,
    /// Bytes of its layers; the inner `None`: a layer is missing.
    stored: OnceLock<Option<u64>>,
}

impl Ranked {
    /// Bytes that the point's layers take in the repository; `None` when one is missing.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn stored_bytes(&self, repository: &Repository) -> Result<Option<u64>> {
        if let Some(known) = self.stored.get() {
            return Ok(*known);
        }
        let found = repository
            .stored_bytes(&self.point.vm, &self.point.entry)?
            .total();
        Ok(*self.stored.get_or_init(|| found))
    }
}

/// The points of one version of a VM, the newest first.
pub(super) struct Order {
    vm: Arc<VmView>,
    points: Vec<Ranked>,
}

impl Order {
    fn of(vm: &Arc<VmView>) -> Self {
        let mut points: Vec<Arc<PointView>> = vm.points.clone();
        points.sort_by_key(|point| std::cmp::Reverse(point.entry.seq));
        let ranked = points.into_iter().map(|point| Ranked {
            point,
            stored: OnceLock::new(),
        });
        Self {
            vm: Arc::clone(vm),
            points: ranked.collect(),
        }
    }

    /// The points whose `seq` is below `before`; all without it.
    pub(super) fn below(&self, before: Option<u64>) -> &[Ranked] {
        let from = before.map_or(0, |before| {
            self.points
                .partition_point(|ranked| ranked.point.entry.seq >= before)
        });
        self.points.get(from..).unwrap_or_default()
    }

    /// The point with this `seq`.
    pub(super) fn at(&self, seq: u64) -> Option<&Ranked> {
        let at = self
            .points
            .partition_point(|ranked| ranked.point.entry.seq > seq);
        self.points
            .get(at)
            .filter(|ranked| ranked.point.entry.seq == seq)
    }
}

/// The orders of the VMs that were asked for lately.
#[derive(Default)]
pub(super) struct Orders(Mutex<HashMap<VmId, Arc<Order>>>);

impl Orders {
    pub(super) fn of(&self, vm: &Arc<VmView>) -> Arc<Order> {
        let mut kept = self.0.lock();
        if let Some(order) = kept.get(&vm.vm_id)
            && Arc::ptr_eq(&order.vm, vm)
        {
            return Arc::clone(order);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let order = Arc::new(Order::of(vm));
        kept.insert(vm.vm_id, Arc::clone(&order));
        order
    }
}
