//! The request for a map.

use std::path::PathBuf;

use super::place::MapId;
use crate::repo::selector::Selector;
use crate::types::DiskName;

/// The request for a map.
#[derive(Debug)]
pub struct Order {
    /// The new map.
    pub id: MapId,
    /// The point.
    pub selector: Selector,
    /// One disk of it, or all.
    pub disk: Option<DiskName>,
    /// The directory for scratch files, for writable devices.
    pub scratch: Option<PathBuf>,
    /// Whether partitions get devices too.
    pub partitions: bool,
}
