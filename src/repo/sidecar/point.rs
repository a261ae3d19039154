//! `point.json`: facts about the content of a restore point. Written once, never changed.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::plain::{each, plain};
use super::{Sidecar, Unknown};
use crate::repo::slot::Slot;
use crate::types::{Digest, DiskName, PointId, PointName, VmId, VmName};

/// How a disk or a point relates to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No parent: the layer holds everything.
    Full,
    /// Based on the newest point.
    Incremental,
    /// Based on the last full point.
    Differential,
}

impl Kind {
    /// The spelling in sidecars.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

/// Consistency of the instant that a restore point captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The guest's filesystems were frozen.
    Filesystem,
    /// One instant, as after a power loss.
    Crash,
    /// Perhaps bytes of several instants.
    Unknown,
}

/// The sidecar of a restore point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Schema number, 1.
    pub schema: u32,
    /// Identity.
    pub point_id: PointId,
    /// Identity of the VM.
    pub vm_id: VmId,
    /// Name of the VM at commit.
    pub vm: VmName,
    /// Name of the point.
    pub name: PointName,
    /// Position in the VM's order, given at commit.
    pub seq: u64,
    /// Full when every disk is, differential when one is, else incremental.
    pub kind: Kind,
    /// When the capture began.
    pub captured_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Consistency of the captured instant; absent when nothing was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Why it is `unknown`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_note: Option<String>,
    /// The point that this one was compared with.
    pub parent: Option<PointParent>,
    /// All disks of the VM, from one instant.
    pub disks: Vec<PointDisk>,
    /// Files attached at backup time.
    pub attached: Vec<Attached>,
    /// The release that wrote this file.
    pub writer: String,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Reference of a point to its parent point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointParent {
    /// Its identity.
    pub point_id: PointId,
    /// Its name when this point was committed.
    pub name: PointName,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One disk of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointDisk {
    /// Name of the disk.
    pub name: DiskName,
    /// Stable key of the disk (the hypervisor's device key or serial; the name when there is none).
    pub key: String,
    /// Slot of its layer.
    pub layer: Slot,
    /// How this disk relates to its parent.
    pub kind: Kind,
    /// Why it is full although it has a predecessor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_reason: Option<String>,
    /// Virtual size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Size of the source in bytes: the size that the tree and `restore` show.
    pub source_bytes: u64,
    /// Bytes of the disk that are not zero, in whole clusters.
    pub data_bytes: u64,
    /// Bytes of the clusters that differed from the parent when it was captured.
    pub changed_bytes: u64,
    /// BLAKE3 over size and region hashes.
    pub content_root: Digest,
    /// Content root of the parent's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_content_root: Option<Digest>,
    /// Change id from the capture agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<String>,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A file attached to a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// File name below `attached/`.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: Digest,
    /// Members that this release does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Sidecar for Point {
    const WHAT: &'static str = "point sidecar";
    const SCHEMA: u32 = 1;

    fn parse_plain(object: &[u8]) -> Option<Self> {
        let plain = serde_json::from_slice::<PlainPointSidecar>(object).ok()?;
        Some(Self::from(plain)).filter(|point| point.schema <= Self::SCHEMA)
    }
}

impl Point {
    /// The disk of that name.
    #[must_use]
    pub fn disk(&self, name: &DiskName) -> Option<&PointDisk> {
        self.disks.iter().find(|disk| disk.name.same_as(name))
    }
}

plain!(PlainPointSidecar of Point {
    schema: u32,
    point_id: PointId,
    vm_id: VmId,
    vm: VmName,
    name: PointName,
    seq: u64,
    kind: Kind,
    captured_at: Timestamp,
    committed_at: Timestamp,
    #[serde(default)]
    consistency: Option<Consistency>,
    #[serde(default)]
    consistency_note: Option<String>,
    #[serde(deserialize_with = "maybe")]
    parent: Option<PointParent>,
    #[serde(deserialize_with = "each::<PlainPointDisk, _, _>")]
    disks: Vec<PointDisk>,
    #[serde(deserialize_with = "each::<PlainAttached, _, _>")]
    attached: Vec<Attached>,
    writer: String,
});

plain!(PlainPointDisk of PointDisk {
    name: DiskName,
    key: String,
    layer: Slot,
    kind: Kind,
    #[serde(default)]
    full_reason: Option<String>,
    size_bytes: u64,
    source_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    content_root: Digest,
    #[serde(default)]
    parent_content_root: Option<Digest>,
    #[serde(default)]
    change_id: Option<String>,
});

plain!(PlainParent of PointParent {
    point_id: PointId,
    name: PointName,
});

plain!(PlainAttached of Attached {
    name: String,
    size_bytes: u64,
    blake3: Digest,
});

/// Decodes the twin of a parent.
pub(super) fn maybe<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PointParent>, D::Error> {
    Ok(Option::<PlainParent>::deserialize(deserializer)?.map(Into::into))
}
