//! `index.json`: a summary of all points of a VM. Followers read it instead of directories and chains.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::copied::{PlainCopy, PointCopy};
use super::hidden::{HiddenLayer, PlainHidden};
use super::plain::{each, names, plain};
use super::point::{Attached, Kind, PlainAttached, Point, PointParent, maybe};
use super::{Sidecar, Unknown};
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, PointId, PointName, VmId, VmName};

/// LIMIT: 24 bits of an inode number are the serial (`src/FORMATS.md`).
pub const SERIAL_MAX: u32 = (1 << 24) - 1;

/// All points of a VM, rewritten atomically at each commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity of the VM.
    pub vm_id: VmId,
    /// Name of the VM.
    pub name: VmName,
    /// Serial of the VM's own directory.
    pub serial: u32,
    /// Counts rewrites, so that the owner knows whether the catalog is behind.
    pub generation: u64,
    /// Highest `seq` ever given, so that none is given twice.
    pub seq_high: u64,
    /// Highest serial given in the repository up to this write.
    pub serial_high: u32,
    /// Points by ascending `seq`.
    pub points: Vec<PointEntry>,
    /// Layers that only backing chains name, by slot. They are repeated here so that a loss is seen without a walk of
    /// the chains; what is garbage is decided by a walk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<HiddenLayer>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Summary of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointEntry {
    /// Name.
    pub name: PointName,
    /// Identity.
    pub point_id: PointId,
    /// Position in the VM's order.
    pub seq: u64,
    /// Serial in this repository: the upper 24 bits of its inode numbers.
    pub serial: u32,
    /// Full, incremental or differential.
    pub kind: Kind,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// BLAKE3 of the exact bytes of `point.json`.
    pub point_blake3: Digest,
    /// The point that it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PointParent>,
    /// Summaries of its disks.
    pub disks: Vec<DiskEntry>,
    /// Hashes of its attached files by name.
    #[serde(default)]
    pub attached: Vec<Attached>,
    /// Labels for people, as in its state.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Whether somebody keeps it by hand, as in its state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Its copies at other repositories, as in its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<PointCopy>,
    /// The last result of verifying it; absent until everything that it needs was verified, or damage was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckResult>,
    /// Since when that result is known: of a sound point, when the part was verified that waits for longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Timestamp>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The result of verifying a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// Everything that it needs is as it was committed.
    Sound,
    /// Something that it needs is missing, or is not as it was committed.
    Damaged,
}

impl CheckResult {
    /// The spelling in sidecars.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Damaged => "damaged",
        }
    }
}

/// Summary of a disk of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEntry {
    /// Name.
    pub name: DiskName,
    /// Slot of its layer. It tells layers from garbage without reading every point.
    pub layer: Slot,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Size of the source in bytes.
    pub source_bytes: u64,
    /// Bytes that are not zero.
    pub data_bytes: u64,
    /// Bytes that differed from the parent when it was captured.
    pub changed_bytes: u64,
    /// Layers of its chain, down to the last full one: a layer without a backing layer has 1. `None` when nobody has
    /// walked the chain since it was committed by an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Index {
    const WHAT: &'static str = "index of the VM";
    const SCHEMA: u32 = 1;

    fn parse_plain(object: &[u8]) -> Option<Self> {
        let plain = serde_json::from_slice::<PlainIndex>(object).ok()?;
        Some(Self::from(plain)).filter(|index| index.schema <= Self::SCHEMA)
    }
}

impl Index {
    /// The point of that name; the search ignores case.
    #[must_use]
    pub fn point(&self, name: &PointName) -> Option<&PointEntry> {
        self.points.iter().find(|point| point.name.same_as(name))
    }

    /// The point with the highest `seq`.
    #[must_use]
    pub fn latest(&self) -> Option<&PointEntry> {
        self.points.iter().max_by_key(|point| point.seq)
    }

    /// Layers of the deepest chain of a point; `None` when no depth is known.
    #[must_use]
    pub fn depth(&self) -> Option<u32> {
        let disks = self.points.iter().flat_map(|point| &point.disks);
        disks.filter_map(|disk| disk.depth).max()
    }

    /// The disk whose layer is in a slot.
    #[must_use]
    pub fn disk_of(&self, layer: &Slot) -> Option<&DiskEntry> {
        let mut disks = self.points.iter().flat_map(|point| &point.disks);
        disks.find(|disk| disk.layer == *layer)
    }
}

impl PointEntry {
    /// Whether no layer of the point has another one below it, whatever it was at its commit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let was_full = self.kind == Kind::Full;
        let mut disks = self.disks.iter();
        disks.all(|disk| disk.depth.map_or(was_full, |depth| depth == 1))
    }

    /// The summary of a point.
    #[must_use]
    pub fn of(point: &Point, point_blake3: Digest, serial: u32) -> Self {
        let disks = point.disks.iter().map(|disk| DiskEntry {
            name: disk.name.clone(),
            layer: disk.layer.clone(),
            size_bytes: disk.size_bytes,
            source_bytes: disk.source_bytes,
            data_bytes: disk.data_bytes,
            changed_bytes: disk.changed_bytes,
            depth: (disk.kind == Kind::Full).then_some(1),
            unknown: Unknown::new(),
        });
        Self {
            name: point.name.clone(),
            point_id: point.point_id,
            seq: point.seq,
            serial,
            kind: point.kind,
            captured_at: point.captured_at,
            committed_at: point.committed_at,
            point_blake3,
            parent: point.parent.clone(),
            disks: disks.collect(),
            attached: point.attached.clone(),
            tags: BTreeMap::new(),
            kept: false,
            copies: Vec::new(),
            check: None,
            checked_at: None,
            unknown: Unknown::new(),
        }
    }
}

plain!(PlainIndex of Index {
    schema: u32,
    vm_id: VmId,
    name: VmName,
    serial: u32,
    generation: u64,
    seq_high: u64,
    serial_high: u32,
    #[serde(deserialize_with = "each::<PlainPoint, _, _>")]
    points: Vec<PointEntry>,
    #[serde(default, deserialize_with = "each::<PlainHidden, _, _>")]
    hidden: Vec<HiddenLayer>,
});

plain!(PlainPoint of PointEntry {
    name: PointName,
    point_id: PointId,
    seq: u64,
    serial: u32,
    kind: Kind,
    captured_at: Timestamp,
    committed_at: Timestamp,
    point_blake3: Digest,
    #[serde(default, deserialize_with = "maybe")]
    parent: Option<PointParent>,
    #[serde(deserialize_with = "each::<PlainDisk, _, _>")]
    disks: Vec<DiskEntry>,
    #[serde(default, deserialize_with = "each::<PlainAttached, _, _>")]
    attached: Vec<Attached>,
    #[serde(default, deserialize_with = "names")]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    kept: bool,
    #[serde(default, deserialize_with = "each::<PlainCopy, _, _>")]
    copies: Vec<PointCopy>,
    #[serde(default)]
    check: Option<CheckResult>,
    #[serde(default)]
    checked_at: Option<Timestamp>,
});

plain!(PlainDisk of DiskEntry {
    name: DiskName,
    layer: Slot,
    size_bytes: u64,
    source_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    #[serde(default)]
    depth: Option<u32>,
});
