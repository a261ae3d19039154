//! Checks whether the disks of a new point look like those of its parent. A remark tells people
//! when two disks may have been swapped or one was replaced.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::repo::sidecar::point::{Kind, Point, PointDisk};
use crate::types::size::Human;

/// LIMIT: a disk with fewer bytes gets no remark when all of them change.
const CHANGED_BYTES_MIN: u64 = 16 << 20;
/// Tenths of a disk's data that are "nearly everything".
const NEARLY_TENTHS: u64 = 9;

/// What a point's `volumes.json` and its sidecar record.
pub(super) struct PointLook<'a> {
    pub(super) point: &'a Point,
    pub(super) volumes: Option<&'a Value>,
}

impl PointLook<'_> {
    /// UUIDs of the volumes on a disk.
    fn uuids(&self, disk: &PointDisk) -> BTreeSet<&str> {
        let volumes = self.volumes.and_then(|all| all.get("volumes"));
        let volumes = volumes.and_then(Value::as_array);
        let is_on = |volume: &&Value| {
            let path = volume.get("path").and_then(Value::as_str);
            path.and_then(|path| path.split('/').next()) == Some(disk.name.as_str())
        };
        volumes
            .into_iter()
            .flatten()
            .filter(is_on)
            .filter_map(|volume| volume.get("uuid")?.as_str())
            .collect()
    }
}

/// Remarks on disks of `now` that do not look like the disks of `before` that they continue.
pub(super) fn remarks(before: &PointLook<'_>, now: &PointLook<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    for disk in now.point.disks.iter().filter(|d| d.kind != Kind::Full) {
        let parent = before.point.disks.iter().find(|old| old.key == disk.key);
        let parent = parent.or_else(|| before.point.disk(&disk.name));
        let Some(parent) = parent else { continue };
        let (had, has) = (before.uuids(parent), now.uuids(disk));
        if !had.is_empty() && !has.is_empty() && had.is_disjoint(&has) {
            let mut others = before.point.disks.iter();
            let other = others.find(|old| !before.uuids(old).is_disjoint(&has));
            let whose = match other {
                Some(old) => format!("; disk {} had these: were two disks swapped?", old.name),
                None => String::new(),
            };
            remarks.push(format!(
                "what lies on disk {} has other UUIDs than in the parent {}{whose}",
                disk.name, before.point.name
            ));
        } else if disk.changed_bytes >= CHANGED_BYTES_MIN
            && disk.changed_bytes / NEARLY_TENTHS >= disk.data_bytes / 10
        {
            remarks.push(format!(
                "nearly everything on disk {} differs from the parent {} ({} of {}): is it the same disk?",
                disk.name,
                before.point.name,
                Human(disk.changed_bytes),
                Human(disk.data_bytes)
            ));
        }
    }
    remarks
}
