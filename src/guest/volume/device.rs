//! A device that a scan has found and not yet examined.

use std::sync::Arc;

use super::{Alias, Origin};
use crate::block::run::RunMap;

/// LIMIT: nested volumes (our limit): a table in a volume of a group on a partition has depth 3.
pub(super) const DEPTH_MAX: u32 = 4;

/// A device that may contain a table, a filesystem, or a part of another volume.
#[derive(Clone)]
pub(super) struct ScannedDevice {
    pub(super) path: String,
    pub(super) origin: Origin,
    pub(super) map: Arc<RunMap<usize>>,
    /// Number of tables and groups below it.
    pub(super) depth: u32,
    pub(super) type_name: Option<String>,
    pub(super) part_label: Option<String>,
    pub(super) part_uuid: Option<String>,
    pub(super) alias: Alias,
    pub(super) damage: Option<String>,
    /// Sector size in bytes of the table that contains it.
    pub(super) sector_bytes: Option<u64>,
    /// Whether only a left-over table lists it, or a device below it.
    pub(super) is_left_over: bool,
}
