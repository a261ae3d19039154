//! The lookup of a volume by a name: hints and result.

use std::collections::BTreeSet;

use super::{Class, Refusal, VolumeFacts};

/// The volumes to which a source may refer, with a note when that is inferred; or why there are none.
pub(super) type Found = Result<(Vec<usize>, Option<String>), Refusal>;

/// Facts of an entry, besides its source, that help to find its volume.
#[derive(Default)]
pub(super) struct Hints<'a> {
    /// Type of the filesystem.
    pub(super) fs_type: &'a str,
    /// The names that `/etc/crypttab` opens, each with its device.
    pub(super) mapped: &'a [(String, String)],
    /// Devices of arrays in `mdadm.conf`, each with the UUID or name of its array.
    pub(super) arrays: &'a [(String, String)],
    /// Volumes of other entries.
    pub(super) taken: BTreeSet<usize>,
}

/// The refusal for a volume that is not on the disks of the point.
pub(super) fn missing(reason: impl Into<String>) -> Refusal {
    Refusal::new(Class::Missing, reason)
}

/// The positions of all wanted volumes.
pub(super) fn all(volumes: &[VolumeFacts], wanted: impl Fn(&VolumeFacts) -> bool) -> Vec<usize> {
    volumes
        .iter()
        .enumerate()
        .filter(|(_, facts)| wanted(facts))
        .map(|(at, _)| at)
        .collect()
}
