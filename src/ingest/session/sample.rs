//! A point for the tests of planning.

use jiff::Timestamp;

use crate::repo::Slot;
use crate::repo::sidecar::Unknown;
use crate::repo::sidecar::point::{Kind, Point, PointDisk};
use crate::types::{Digest, DiskName, LayerId, PointId, PointName, VmId, VmName};

/// A disk of 1 MiB without data.
pub(super) fn point_disk(name: &str, key: &str) -> PointDisk {
    let name = DiskName::new(name).unwrap();
    PointDisk {
        key: key.to_owned(),
        layer: Slot::new(&name, Timestamp::UNIX_EPOCH, LayerId::random()),
        name,
        kind: Kind::Full,
        full_reason: None,
        size_bytes: 1 << 20,
        source_bytes: 1 << 20,
        data_bytes: 0,
        changed_bytes: 0,
        content_root: Digest([0; 32]),
        parent_content_root: None,
        change_id: None,
        unknown: Unknown::new(),
    }
}

/// A point with these disks.
pub(super) fn point(disks: impl IntoIterator<Item = PointDisk>) -> Point {
    Point {
        schema: 1,
        point_id: PointId::random(),
        vm_id: VmId::random(),
        vm: VmName::new("web01").unwrap(),
        name: PointName::new("p").unwrap(),
        seq: 1,
        kind: Kind::Full,
        captured_at: Timestamp::UNIX_EPOCH,
        committed_at: Timestamp::UNIX_EPOCH,
        consistency: None,
        consistency_note: None,
        parent: None,
        disks: disks.into_iter().collect(),
        attached: Vec::new(),
        writer: String::new(),
        unknown: Unknown::new(),
    }
}
