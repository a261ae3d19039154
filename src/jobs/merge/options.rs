//! How a VM is merged.

use std::sync::Arc;

use crate::block::page::PageBudget;
use crate::task::Pace;

/// How a VM is merged.
pub struct MergeOptions {
    /// Whether every hidden layer is merged that can be, whatever it costs.
    pub compact: bool,
    /// Free bytes that merging leaves.
    pub low_water_bytes: u64,
    /// Memory for the tables of the layers that are built.
    pub budget: Arc<PageBudget>,
    /// How fast clusters are copied.
    pub pace: Pace,
}
