//! A volume of a point: what the scan found, and the result of opening it.

use crate::guest::fs::{FsInfo, VolumeState};
use crate::guest::volume::Volume;

/// A volume of a point.
pub(super) struct VolumeNode {
    /// Its number in inodes; `None` when the table numbers its inodes.
    pub(super) number: Option<u8>,
    /// The result of the scan.
    pub(super) volume: Volume,
    /// State of the opening of its filesystem.
    pub(super) state: VolumeState,
    /// Facts about the filesystem, when it could be opened.
    pub(super) info: Option<FsInfo>,
}
